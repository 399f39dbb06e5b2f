"""The label files beside images, NAME.json and NAME.cls, in `.tar` shards and folders.

Training and probes both read them here, so that a file means the same to both.
"""

import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from facepcl.data.file_types import Selection
from facepcl.data.labels import read_labels
from facepcl.data.sources import SHARD_ERRORS, read_shard
from facepcl.errors import DataError
from facepcl.images.decode import MAX_BYTES, read_file
from facepcl.utils.storage import open_text, why_not

_logger = logging.getLogger("facepcl")

CLS_LABELS = ("expression", "identity")  # what NAME.cls may hold, the default first
CLASS_NAMES = "classnames.txt"  # beside a shard or its folder: the names of the numbers in .cls files
_KINDS = ("cls", "json")  # where both have a label, that of the JSON counts
_UPPER_KINDS = tuple(map(str.upper, _KINDS))  # as cameras and Windows write them
LABEL_SUFFIXES = tuple(f".{kind}" for kind in _KINDS)


class _Named(NamedTuple):
    """A member of a sample; `parts` lie between the key and the ending of its name."""

    name: str
    parts: list[str]
    labels: dict[str, Any]

    def belongs_to(self, image: "_Named") -> bool:
        """Whether one name continues the other: 000.json and 000.face.jpg, not clip.0001 and clip.0002."""
        common = min(len(self.parts), len(image.parts))
        return self.parts[:common] == image.parts[:common]


def shard_labels(
    shard: Path, cls: str = CLS_LABELS[0], selection: Selection | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The images of a shard in order, as `SHARD.tar/MEMBER.jpg`, each with its labels.

    As in WebDataset, a sample is the adjacent members whose names are equal up to the first dot of the base
    name. In a sample of several images, such as the frames of a video, a label file belongs to the images
    whose names continue its own, or are continued by it. Label files without an image are counted in a
    warning.

    Args:
        shard: A local tar.
        cls: The label that NAME.cls holds, one of `CLS_LABELS`.
        selection: Counts the members that are neither images nor labels.

    Raises:
        DataError: A label is invalid, or the shard is truncated or no tar.
    """
    classes, strays = class_names(shard), []
    selection = selection or Selection(labels=LABEL_SUFFIXES)
    try:
        for _, members in groupby(read_shard(shard), lambda pair: _split(pair[0].name)[0]):
            images: list[_Named] = []
            files: list[_Named] = []
            for member, read in members:
                name, (_, parts, kind) = f"{shard}/{member.name}", _split(member.name)
                is_image = selection.takes_member(member.name)
                # a compressed shard may hold a file a thousand times its size
                if member.size > MAX_BYTES and (is_image or kind in _KINDS):
                    raise DataError(f"{name}: {member.size:,} bytes are too many for an image or its labels")
                if is_image:
                    images.append(_Named(name, parts, {}))
                elif kind in _KINDS:
                    files.append(_Named(name, parts, _read(read(), name, cls, classes)))
            is_pair = len(images) == len(files) == 1  # whatever their names, there is nothing to confuse
            for image in images:
                yield image.name, _merged([f for f in files if is_pair or f.belongs_to(image)])
            strays += [f.name for f in files if not (is_pair or any(map(f.belongs_to, images)))]
    except SHARD_ERRORS as error:
        raise DataError(f"{shard}: {why_not(error, 'the shard is cut off or not a tar file')}") from error
    if strays:
        _logger.warning(
            "%s: %d label files have no image of the same name; the first is %s",
            shard,
            len(strays),
            strays[0],
        )


def folder_labels(image: Path, cls: str = CLS_LABELS[0]) -> dict[str, Any]:
    """The labels of an image file by the rule of `shard_labels`: those of 000.face.jpg are in 000.json or
    000.face.json beside it.

    Raises DataError for an invalid label, ImageError or MissingPath for a label file that cannot be read.
    """
    key, parts, _ = _split(image.name)
    stems = [".".join([key, *parts[:count]]) for count in range(len(parts) + 1)]
    paths = [image.with_name(f"{stem}.{kind}") for stem in stems for kind in _KINDS + _UPPER_KINDS]
    files = [path for path in paths if path.is_file()]
    classes = class_names(image) if any(file.suffix.lower() == ".cls" for file in files) else []
    return _merged(
        [_Named(str(p), _split(p.name)[1], _read(read_file(p), str(p), cls, classes)) for p in files]
    )


def _split(name: str) -> tuple[str, list[str], str]:
    """The key of a name, the parts between, and its ending in lower case."""
    folder, slash, base = name.rpartition("/")
    key, *parts = base.split(".")
    return folder + slash + key, parts[:-1], "".join(parts[-1:]).lower()


def _merged(files: list[_Named]) -> dict[str, Any]:
    """The labels of several files; of two with the same label, the JSON's counts, or the longer name's."""
    ordered = sorted(files, key=lambda file: (_KINDS.index(_split(file.name)[2]), len(file.parts)))
    return {label: value for file in ordered for label, value in file.labels.items()}


def _read(data: bytes, name: str, cls: str, classes: list[str]) -> dict[str, Any]:
    if _split(name)[2] == "json":
        return read_labels(data, name)
    word = data.decode(errors="replace").strip()
    if classes and word.isascii() and word.isdigit() and len(word) < 10:
        if int(word) >= len(classes):
            raise DataError(f"{name}: the class is {word}, and {CLASS_NAMES} names {len(classes)}, from 0 on")
        word = classes[int(word)]
    return {"cls": word, cls: word} if word else {}


def class_names(beside: Path) -> list[str]:
    """The class names in the folder of a shard or image, or in the one above; empty if there are none."""
    for folder in list(beside.absolute().parents)[:2]:
        if (file := folder / CLASS_NAMES).is_file():
            with open_text(file, "utf-8-sig", "replace") as lines:
                return [line.strip() for line in lines if line.strip()]
    return []
