"""`.tar` shards as manifests: labels in a first pass, images streamed in later ones."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from facepcl.data.file_types import Selection, is_shard_name
from facepcl.data.labels import read_labels
from facepcl.data.sources import SHARD_ERRORS, Entry, files_below, read_items, read_shard
from facepcl.errors import DataError
from facepcl.images.face import ANGLES, LANDMARKS
from facepcl.probes.datasets.common import (
    Layout,
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
    looks_for = "a .tar shard, or a folder of shards or of train/ and test/ shards"
    return Layout("shards", lambda path: bool(_shards(path)), partial(read_shards, needs=needs), looks_for)


def read_shards(path: Path, needs: Sequence[str]) -> Manifest:
    """The images of a shard, of a folder of shards, or of train/, val/ and test/ with shards.

    Labels are those of NAME.json beside NAME.jpg; NAME.cls is the expression, or the identity if that is
    needed. Raises DataError for a truncated shard or an invalid label.
    """
    shards = _shards(path)
    folder = path if path.is_dir() else path.parent
    names = next((n for f in (folder, folder.parent) if (n := f / "classnames.txt").is_file()), None)
    classes = [name for _, name in text_lines(names)] if names else []
    images, selection = [], Selection(labels=(".json", ".cls"))
    for shard, split in shards:
        try:
            for where, labels in _labelled(shard, selection):
                if (word := labels.pop("cls", None)) is not None:
                    if classes and word.isdigit():
                        if int(word) >= len(classes):
                            known = f"{names} names {len(classes)}, counted from 0"
                            raise DataError(f"{where}: the class is {word}, and {known}")
                        word = classes[int(word)]
                    labels.setdefault("identity" if "subject" in needs else "expression", word)
                images.append(_image(where, labels, split))
        except SHARD_ERRORS as error:
            raise DataError(f"{shard} breaks off or is no tar ({error})") from error
    selection.tell()
    # a unit that is not named in a label does not occur
    units = sorted({unit for image in images for unit in image.units or ()}, key=unit_order)
    images = [
        image if image.units is None else image._replace(units={u: image.units.get(u, 0.0) for u in units})
        for image in images
    ]
    files = [shard for shard, _ in shards]
    manifest = Manifest("shards", images, lambda: read_items(Entry(str(file)) for file in files), files)
    manifest = keep_labelled(manifest, path, needs)
    if "expression" in needs:
        names_used = {image.expression for image in manifest.images if image.expression}
        manifest.classes = tuple(classes) or tuple(sorted(names_used, key=_class_order))
    return manifest


def _shards(path: Path) -> list[tuple[Path, str]]:
    """The shards at a path, each with the split named by its folder or else by its file name."""
    if not path.is_dir():
        return [(path, "")] if is_shard_name(path.name) and path.is_file() else []
    folders = [f for f in sorted(path.iterdir()) if f.is_dir() and split_named(f.name)]
    folders.sort(key=lambda f: SPLITS.index(split_named(f.name)))
    in_folders = [(s, split_named(f.name)) for f in folders for s in files_below(f) if is_shard_name(s.name)]
    if in_folders:
        return in_folders
    direct = sorted(f for f in path.iterdir() if is_shard_name(f.name) and f.is_file())
    words = [shard.name.partition(".")[0].replace("_", "-").split("-") for shard in direct]
    splits = [next(filter(None, map(split_named, parts)), "") for parts in words]
    return list(zip(direct, splits if all(splits) else [""] * len(direct), strict=True))


def _labelled(shard: Path, selection: Selection) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names of image members with their labels: the members of a sample lie together, as in WebDataset,
    and share their name up to the last dot, as for `facepcl pretrain`."""
    stem, names, labels = "", [], {}  # type: tuple[str, list[str], dict[str, Any]]
    for member, read in read_shard(shard):
        key, _, kind = member.name.rpartition(".")
        where = f"{shard}/{member.name}"
        if key != stem:
            yield from ((name, dict(labels)) for name in names)
            stem, names, labels = key, [], {}
        if selection.takes_member(member.name):
            names.append(where)
        elif kind == "json":
            labels |= read_labels(read(), where)
        elif kind == "cls":
            labels["cls"] = read().decode(errors="replace").strip()
    yield from ((name, dict(labels)) for name in names)


def _image(where: str, labels: dict[str, Any], split: str) -> Labelled:
    units = None
    if "au" in labels:
        for name in labels["au"]:
            if unit_name(name) is None:
                raise DataError(f"{where}: {name!r} is no action unit, as AU12 is one")
        units = {str(unit_name(name)): value for name, value in labels["au"].items()}
    points = labels.get("landmarks", {})
    return Labelled(
        name=where,
        split=to_split(str(labels["split"]), where) if labels.get("split") else split,
        subject=str(labels.get("identity", "")),
        expression=labels.get("expression") or None,
        pose=tuple(labels[angle] for angle in ANGLES) if labels.keys() >= set(ANGLES) else None,
        units=units,
        landmarks=tuple(tuple(points[n]) for n in LANDMARKS) if points.keys() >= set(LANDMARKS) else None,
        series=str(labels.get("series") or ""),
    )


def _class_order(name: str) -> tuple[int, str]:
    """Numbers by size, before words."""
    return (int(name), "") if name.isascii() and name.isdigit() else (1 << 62, name)
