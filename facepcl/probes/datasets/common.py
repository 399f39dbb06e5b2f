"""What the readers of data sets share: lines with numbers, splits, units, and manifests of image files."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepcl.data.sources import Item, csv_lines, files_below, is_image_name
from facepcl.errors import DataError, MissingPath
from facepcl.probes.manifest import TEST, TRAIN, VAL, Labelled, Manifest

_SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
# The right eye, the left eye, the nose's tip, and both corners of the mouth
_OF_68: tuple[Sequence[int], ...] = (range(36, 42), range(42, 48), [30], [48], [54])
_UNIT = re.compile(r"AU0*([1-9]\d?)")
_CALLED = {
    "expression": "expression",
    "pose": "yaw, pitch and roll",
    "units": "action units",
    "subject": "identity",
    "series": "series",
}


class Layout(NamedTuple):
    """A way in which data sets lie on the disk: `recognise` tells whether a path holds one, `read` makes a
    manifest of it (with the seed, where pairs are drawn), `looks_for` says what it is known by."""

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, int], Manifest]
    looks_for: str = ""


def at(path: Path, line: int) -> str:
    """How messages name a line."""
    return f"{path}, line {line}"


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers. Raises MissingPath."""
    if not path.is_file():
        raise MissingPath(f"{path}: there is no such file")
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line := line.strip():
                yield number, line


def fields(
    path: Path, count: int | None = None, between: str | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line, parted by `between` or by blanks. Raises DataError unless they are `count`."""
    for number, line in text_lines(path):
        found = [field.strip() for field in line.split(between)]
        if count is not None and len(found) != count:
            raise DataError(f"{at(path, number)} has {len(found)} fields where {count} were expected")
        yield number, found


def table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The header of a CSV file, without blanks around its names, and its rows by these with line numbers.

    Raises MissingPath; the rows raise DataError for a line that is cut off.
    """
    if not path.is_file():
        raise MissingPath(f"{path}: there is no such file")
    lines = csv_lines(path)
    _, header = next(lines, (1, []))
    header = [name.strip() for name in header]

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for number, cells in lines:
            if len(cells) != len(header):
                raise DataError(
                    f"{at(path, number)} has {len(cells)} cells where the header has {len(header)} columns"
                )
            yield number, dict(zip(header, (cell.strip() for cell in cells), strict=True))

    return header, rows()


def to_number(text: str, what: str, where: str) -> float:
    """A finite number. Raises DataError that says `what` it is and `where`."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise DataError(f"{where}: {what} is {text[:40]!r}, not a number")
    return number


def to_integer(text: str, lowest: int, highest: int, what: str, where: str) -> int:
    """A whole number from `lowest` to `highest`. Raises DataError that says `what` it is and `where`."""
    if text.isascii() and text.isdigit() and lowest <= int(text) <= highest:
        return int(text)
    raise DataError(f"{where}: {what} is {text[:40]!r}, not a whole number from {lowest} to {highest}")


def to_split(word: str, where: str) -> str:
    """The split that a word names. Raises DataError for any other word."""
    if split := split_named(word):
        return split
    raise DataError(f"{where}: the split is {word[:40]!r}, not train, val or test")


def split_named(word: str) -> str:
    """train, val or test for the words that data sets use, else ""."""
    return _SPLITS.get(word.lower(), "")


def unit_name(text: str) -> str | None:
    """`AU12` for `AU12` or `AU012`, None for what is no unit."""
    match = _UNIT.fullmatch(text.strip().upper())
    return f"AU{match[1]}" if match else None


def five_points(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Eyes, nose and corners of the mouth of the 68 points `[68, 2]` of iBUG's scheme."""
    return tuple((float(x), float(y)) for x, y in (points[list(part)].mean(0) for part in _OF_68))


def images_below(folder: Path) -> list[Path]:
    """The image files below a folder, in order."""
    return [path for path in files_below(folder) if is_image_name(path.name)]


def existing(path: Path, where: str) -> Path:
    """`path`, an image that `where` names. Raises MissingPath if it is not there."""
    if not path.is_file():
        raise MissingPath(f"{where}: there is no image {path}")
    return path


def of_files(
    layout: str,
    images: Sequence[Labelled],
    labels: Sequence[Path] = (),
    classes: Sequence[str] = (),
    dropped: int = 0,
    notes: Sequence[str] = (),
) -> Manifest:
    """A manifest of images that are files, each named by its path."""
    if not images:
        raise DataError(f"no image of the {layout} data is left" + "".join(f"; {note}" for note in notes))
    images = list(images)
    return Manifest(
        layout=layout,
        images=images,
        items=lambda: (Item(image.name) for image in images),
        files=[*labels, *(Path(image.name) for image in images)],
        classes=tuple(classes),
        dropped=dropped,
        notes=tuple(notes),
    )


def keep(manifest: Manifest, kept: Sequence[bool]) -> Manifest:
    """The images of `manifest` that are `kept`, and their items; its pairs, if any, are the caller's."""
    whole = manifest.items
    manifest.images = list(compress(manifest.images, kept))
    manifest.items = lambda: compress(whole(), kept)
    return manifest


def keep_labelled(manifest: Manifest, source: Path, needs: Sequence[str]) -> Manifest:
    """The images that have all the labels that a task `needs`; how many have not is counted and noted.

    Raises DataError if none is left.
    """
    lacking: Counter[str] = Counter()
    kept = []
    for image in manifest.images:
        missing = next((name for name in needs if getattr(image, name) in (None, "")), None)
        kept.append(missing is None)
        if missing:
            lacking[missing] += 1
    total = len(kept)
    notes = [f"{n} of {total} images left out: no {_CALLED[name]}" for name, n in lacking.items()]
    if not any(kept):
        raise DataError(f"no image of {source} is left: {'; '.join(notes) or 'it holds none'}")
    manifest.notes += tuple(notes)
    manifest.dropped += total - sum(kept)
    return manifest if all(kept) else keep(manifest, kept)


def common_units(images: Sequence[Labelled]) -> tuple[list[Labelled], tuple[str, ...]]:
    """The images with the units that all of them have, in the order of their numbers, and a note on others.

    Raises DataError if there is no such unit.
    """
    counts = Counter(unit for image in images for unit in image.units or ())
    units = sorted((u for u, n in counts.items() if n == len(images)), key=unit_order)
    if not units:
        raise DataError(f"no action unit is labelled in all images; there are {', '.join(sorted(counts))}")
    others = sorted(set(counts) - set(units), key=unit_order)
    note = f"{', '.join(others)} left out: not labelled in all images"
    found = [image._replace(units={u: (image.units or {})[u] for u in units}) for image in images]
    return found, (note,) if others else ()


def unit_order(unit: str) -> int:
    """The number of a unit."""
    return int(unit[2:])
