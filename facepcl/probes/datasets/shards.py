"""`.tar` shards as manifests: labels in a first pass, images streamed in later ones."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from facepcl.data.file_types import Selection, is_shard_name
from facepcl.data.label_files import CLS_LABELS, LABEL_SUFFIXES, class_names, shard_labels
from facepcl.data.people import split_named
from facepcl.data.sources import Entry, files_below, read_items
from facepcl.errors import DataError
from facepcl.images.face import ANGLES, LANDMARKS
from facepcl.probes.datasets.common import (
    Layout,
    keep_labelled,
    to_split,
    unit_order,
)
from facepcl.probes.manifest import SPLITS, Labelled, Manifest


def shards_layout(*needs: str) -> Layout:
    """The layout of shards for a task that `needs` these labels."""
    looks_for = "a .tar shard, or a folder of shards or of train/ and test/ shards"
    return Layout("shards", lambda path: bool(_shards(path)), partial(read_shards, needs=needs), looks_for)


def read_shards(path: Path, needs: Sequence[str], cls: str = CLS_LABELS[0]) -> Manifest:
    """The images of a shard, of a folder of shards, or of train/, val/ and test/ with shards.

    Labels are those of `shard_labels`; `cls` is the one that NAME.cls holds. Raises DataError for a truncated
    shard, an invalid label, or if only the other meaning of `cls` would give a label that the task `needs`.
    """
    shards = _shards(path)
    images, has_cls, selection = [], False, Selection(labels=LABEL_SUFFIXES)
    for shard, split in shards:
        for where, labels in shard_labels(shard, cls, selection):
            has_cls = has_cls or "cls" in labels
            images.append(_image(where, labels, split))
    selection.tell()
    (other,) = set(CLS_LABELS) - {cls}
    label = {"identity": "subject"}.get(other, other)
    if has_cls and label in needs and not any(getattr(image, label) for image in images):
        raise DataError(
            f"no image of {path} has the label {other}: NAME.cls is read as the {cls}; if it is the {other}, "
            f"add --cls {other}"
        )
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
        used = {image.expression for image in manifest.images if image.expression}
        named = class_names(shards[0][0])
        manifest.classes = tuple(named if used <= set(named) else sorted(used, key=_class_order))
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


def _image(where: str, labels: dict[str, Any], split: str) -> Labelled:
    points = labels.get("landmarks", {})
    return Labelled(
        name=where,
        split=to_split(str(labels["split"]), where) if labels.get("split") else split,
        subject=labels.get("identity", ""),
        expression=labels.get("expression") or None,
        pose=tuple(labels[angle] for angle in ANGLES) if labels.keys() >= set(ANGLES) else None,
        units=labels.get("au"),
        landmarks=tuple(tuple(points[n]) for n in LANDMARKS) if points.keys() >= set(LANDMARKS) else None,
        series=str(labels.get("series") or ""),
    )


def _class_order(name: str) -> tuple[int, str]:
    """Numbers by size, before words."""
    return (int(name), "") if name.isascii() and name.isdigit() and len(name) < 10 else (1 << 62, name)
