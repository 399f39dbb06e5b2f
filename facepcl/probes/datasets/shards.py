"""Our `.tar` shards as manifests: labels in a first pass, images streamed in later ones."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.data.sources import (
    SHARD_ERRORS,
    Entry,
    files_below,
    is_image_name,
    is_shard_name,
    parse_labels,
    read_items,
    read_shard,
)
from facepcl.errors import DataError
from facepcl.images.face import ANGLES, LANDMARKS
from facepcl.probes.datasets.common import (
    Layout,
    five_points,
    keep_labelled,
    split_named,
    text_lines,
    to_split,
    unit_name,
    unit_order,
)
from facepcl.probes.manifest import SPLITS, Labelled, Manifest


def shards_layout(*needs: str) -> Layout:
    """The layout of shards for a task that `needs` these labels."""

    def read(path: Path, seed: int) -> Manifest:
        return read_shards(path, needs)

    return Layout(
        "shards", are_shards, read, "a .tar shard, or a folder of shards or of train/ and test/ shards"
    )


def are_shards(path: Path) -> bool:
    """Whether a path is a shard, or a folder with shards in it or in its folders of splits."""
    return bool(_shards(path))


def read_shards(path: Path, needs: Sequence[str]) -> Manifest:
    """The images of a shard, of a folder of shards, or of train/, val/ and test/ with shards.

    Labels are those of NAME.json beside NAME.jpg; NAME.cls is the expression, or the identity where that is
    needed. Raises DataError for a shard that breaks off, or for a label that cannot be.
    """
    shards = _shards(path)
    names = path if path.is_dir() else path.parent
    names = next(
        (f / "classnames.txt" for f in (names, names.parent) if (f / "classnames.txt").is_file()), path
    )
    classes = [name for _, name in text_lines(names)] if names != path else []
    images = []
    for shard, split in shards:
        try:
            for member, labels in _labelled(shard):
                where = f"{shard}/{member}"
                if "cls" in labels:
                    _take_class(labels, classes, names, where, needs)
                images.append(_image(where, labels, split))
        except SHARD_ERRORS as error:
            raise DataError(f"{shard} breaks off or is no tar ({error})") from error
    files = [shard for shard, _ in shards]
    manifest = Manifest(
        layout="shards",
        images=_filled(images),
        items=lambda: read_items(Entry(str(shard)) for shard in files),
        files=files,
    )
    manifest = keep_labelled(manifest, path, needs)
    if "expression" in needs:
        found = {image.expression for image in manifest.images}
        manifest.classes = tuple(classes) or tuple(sorted((c for c in found if c), key=_class_order))
    return manifest


def _shards(path: Path) -> list[tuple[Path, str]]:
    """The shards at a path, each with the split that its folder, or else its name, tells."""
    if not path.is_dir():
        return [(path, "")] if is_shard_name(path.name) and path.is_file() else []
    folders = [f for f in sorted(path.iterdir()) if f.is_dir() and split_named(f.name)]
    folders.sort(key=lambda f: SPLITS.index(split_named(f.name)))
    found = [(s, split_named(f.name)) for f in folders for s in files_below(f) if is_shard_name(s.name)]
    if found:
        return found
    direct = sorted(f for f in path.iterdir() if is_shard_name(f.name) and f.is_file())
    splits = [_split_in(shard.name) for shard in direct]
    return list(zip(direct, splits if all(splits) else [""] * len(direct), strict=True))


def _split_in(name: str) -> str:
    words = name.partition(".")[0].replace("_", "-").split("-")
    return next((split for word in words if (split := split_named(word))), "")


def _labelled(shard: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The image members with their labels: the members of one sample lie together (as WebDataset has it), and
    share their name up to the last dot, as `facepcl pretrain` reads them."""
    here, names, labels = "", [], {}  # type: tuple[str, list[str], dict[str, Any]]
    for member, read in read_shard(shard):
        key, _, kind = member.name.rpartition(".")
        if key != here:
            yield from ((name, dict(labels)) for name in names)
            here, names, labels = key, [], {}
        if is_image_name(member.name):
            names.append(member.name)
        elif kind == "json":
            labels |= parse_labels(read(), f"{shard}/{member.name}")
        elif kind == "cls":
            labels["cls"] = read().decode(errors="replace").strip()
    yield from ((name, dict(labels)) for name in names)


def _take_class(
    labels: dict[str, Any], classes: list[str], names: Path, where: str, needs: Sequence[str]
) -> None:
    word = labels["cls"]
    if classes and word.isdigit():
        if int(word) >= len(classes):
            raise DataError(f"{where}: the class is {word}, and {names} names {len(classes)}, counted from 0")
        word = classes[int(word)]
    labels.setdefault("identity" if "subject" in needs else "expression", word)


def _image(where: str, labels: dict[str, Any], split: str) -> Labelled:
    identity, expression = labels.get("identity"), labels.get("expression")
    if not isinstance(expression, str | None):
        raise DataError(f"{where}: the expression is {expression!r}, not a word")
    return Labelled(
        name=where,
        split=to_split(str(labels["split"]), where) if labels.get("split") else split,
        subject="" if identity is None else str(identity),
        expression=expression or None,
        pose=_pose(labels, where),
        units=_units(labels.get("au"), where),
        landmarks=_landmarks(labels.get("landmarks"), where),
        series=str(labels.get("series") or ""),
    )


def _pose(labels: dict[str, Any], where: str) -> tuple[float, float, float] | None:
    found = [labels.get(angle) for angle in ANGLES]
    if any(angle is None for angle in found):
        return None
    yaw, pitch, roll = (_real(v, angle, where) for v, angle in zip(found, ANGLES, strict=True))
    return yaw, pitch, roll


def _real(value: Any, what: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise DataError(f"{where}: {what} is {value!r}, not a number")
    return float(value)


def _units(found: Any, where: str) -> dict[str, float] | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        raise DataError(f"{where}: au is {found!r:.40}, not an object of units")
    units = {}
    for name, value in found.items():
        if (unit := unit_name(name)) is None:
            raise DataError(f"{where}: {name!r} is no action unit, as AU12 is one")
        units[unit] = _real(value, unit, where)
        if not 0 <= units[unit] <= 1:
            raise DataError(f"{where}: {unit} is {value}, not within 0 and 1")
    return units


def _landmarks(found: Any, where: str) -> tuple[tuple[float, float], ...] | None:
    """Five points by name or in their order, or of the 68 of iBUG's scheme."""
    if isinstance(found, dict):
        if any(found.get(name) is None for name in LANDMARKS):
            return None
        found = [found[name] for name in LANDMARKS]
    if found is None:
        return None
    if not isinstance(found, list) or len(found) not in (5, 68):
        raise DataError(f"{where}: landmarks are {found!r:.40}, not 5 or 68 points")
    points = []
    for point in found:
        if not isinstance(point, list) or len(point) != 2:
            raise DataError(f"{where}: a landmark is {point!r:.40}, not a pair of numbers")
        points.append((_real(point[0], "a landmark", where), _real(point[1], "a landmark", where)))
    return tuple(points) if len(points) == 5 else five_points(np.array(points))


def _filled(images: list[Labelled]) -> list[Labelled]:
    """The images with the same units each: what a label does not name does not occur."""
    units = sorted({u for image in images for u in image.units or ()}, key=unit_order)
    return [
        image if image.units is None else image._replace(units={u: image.units.get(u, 0.0) for u in units})
        for image in images
    ]


def _class_order(name: str) -> tuple[int, str]:
    """Numbers by their size, and before words."""
    return (int(name), "") if name.isascii() and name.isdigit() else (1 << 62, name)
