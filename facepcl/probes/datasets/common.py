"""Shared by all layouts: checked numbers and lines, splits, units, and manifests of image files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from facepcl.data.file_types import is_image_name
from facepcl.data.people import split_named
from facepcl.data.sources import Item, csv_lines, files_below
from facepcl.errors import DataError, MissingPath
from facepcl.probes.manifest import Labelled, Manifest
from facepcl.utils.files import check_exists
from facepcl.utils.storage import open_text

_LISTS = (".csv", ".tsv", ".txt", ".lst", ".list", ".json", ".xml", ".mat", ".npy", ".pkl", ".parquet")
_NAMED = 5  # files in a note
_LABEL_NAMES = {"pose": "yaw, pitch and roll", "units": "action units", "subject": "identity"}


class Layout(NamedTuple):
    """A directory or file layout: `recognise(path)`, `read(path)`, and what `recognise` looks for.

    That of shards also takes `read(path, cls=...)`.
    """

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[..., Manifest]
    looks_for: str


def marked_layout(name: str, read: Callable[[Path], Manifest], marker: str) -> Layout:
    """A layout recognised by a file or folder named `marker`."""
    return Layout(name, lambda path: (path / marker).exists(), read, marker)


def at(path: Path, line: int) -> str:
    """How messages name a line."""
    return f"{path}, line {line}"


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a text file with their numbers. Raises MissingPath."""
    check_exists(path)
    with open_text(path, "utf-8-sig", "surrogateescape") as file:
        yield from ((number, line.strip()) for number, line in enumerate(file, 1) if line.strip())


def fields(path: Path, count: int | None = None, sep: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line, split at `sep` or at blanks. Raises DataError unless there are `count`."""
    for number, line in text_lines(path):
        cells = [cell.strip() for cell in line.split(sep)]
        if count is not None and len(cells) != count:
            raise DataError(f"{at(path, number)} has {len(cells)} fields where {count} were expected")
        yield number, cells


def table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The column names of a CSV file, in lower case, and its rows as dicts with line numbers, all stripped of
    blanks.

    Raises MissingPath; iterating raises DataError for two columns of one name, and for a row with too few or
    too many cells.
    """
    check_exists(path)
    lines = csv_lines(path)
    header = [name.strip().lower() for name in next(lines, (1, []))[1]]

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        if double := next((name for name in header if name and header.count(name) > 1), None):
            raise DataError(f"{path} has several columns {double!r}")
        for number, cells in lines:
            if len(cells) != len(header):
                raise DataError(
                    f"{at(path, number)} has {len(cells)} cells where the header has {len(header)} columns"
                )
            yield number, dict(zip(header, (cell.strip() for cell in cells), strict=True))

    return header, rows()


def check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    """Raise DataError unless a CSV file has these columns."""
    if missing := next((name for name in columns if name not in header), None):
        raise DataError(f"{path} has no column {missing!r}; its columns are {','.join(header)[:80]!r}")


def to_number(text: str, name: str, where: str) -> float:
    """A finite number. Raises DataError that says `name` and `where`."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise DataError(f"{where}: {name} is {text[:40]!r}, not a number")
    return number


def to_integer(text: str, lowest: int, highest: int, name: str, where: str) -> int:
    """An integer from `lowest` to `highest`. Raises DataError that says `name` and `where`."""
    if text.isascii() and text.isdigit() and len(text) < 20 and lowest <= int(text) <= highest:
        return int(text)
    raise DataError(f"{where}: {name} is {text[:40]!r}, not a whole number from {lowest} to {highest}")


def to_split(text: str, where: str) -> str:
    """The split called `text`. Raises DataError for an unknown name."""
    if split := split_named(text):
        return split
    raise DataError(f"{where}: the split is {text[:40]!r}, not train, val or test")


def unit_order(unit: str) -> int:
    return int(unit[2:])


def images_below(folder: Path) -> list[Path]:
    """The image files below a folder, in order."""
    return [path for path in files_below(folder) if is_image_name(path.name)]


def unread_note(folder: Path) -> tuple[str, ...]:
    """A note on files in `folder` that may hold labels, which a layout of folders does not read."""
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in _LISTS and file.is_file())
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (f"not read: {', '.join(names[:_NAMED])}{more}",) if names else ()


def existing(path: Path, where: str) -> Path:
    """`path`, an image listed at `where`. Raises MissingPath."""
    if not path.is_file():
        raise MissingPath(f"{where}: there is no image {path}")
    return path


def of_files(
    layout: str,
    images: Sequence[Labelled],
    label_files: Sequence[Path] = (),
    classes: Sequence[str] = (),
    dropped: int = 0,
    notes: Sequence[str] = (),
) -> Manifest:
    """A manifest of image files, each named by its path. Raises DataError if there is none."""
    if not images:
        raise DataError(f"no image of the {layout} data is left" + "".join(f"; {note}" for note in notes))
    return Manifest(
        layout=layout,
        images=list(images),
        items=lambda: (Item(image.name) for image in images),
        files=[*label_files, *(Path(image.name) for image in images)],
        classes=tuple(classes),
        dropped=dropped,
        notes=tuple(notes),
    )


def keep(manifest: Manifest, kept: Sequence[bool]) -> Manifest:
    """Reduce images and items to those `kept`."""
    items = manifest.items
    manifest.images = list(compress(manifest.images, kept))
    manifest.items = lambda: compress(items(), kept)
    return manifest


def keep_labelled(manifest: Manifest, source: Path, needs: Sequence[str]) -> Manifest:
    """Reduce the images to those with all labels that a task `needs`, and note how many lack which.

    Raises DataError if none is left.
    """
    missing = [
        next((name for name in needs if getattr(image, name) in (None, "")), "") for image in manifest.images
    ]
    counts = Counter(filter(None, missing))
    notes = [
        f"{count} of {len(missing)} images left out: no {_LABEL_NAMES.get(name, name)}"
        for name, count in counts.items()
    ]
    if counts.total() == len(missing):
        raise DataError(f"no image of {source} is left: {'; '.join(notes) or 'it holds none'}")
    manifest.notes += tuple(notes)
    manifest.dropped += counts.total()
    return keep(manifest, [not name for name in missing])


def common_units(images: Sequence[Labelled]) -> tuple[list[Labelled], tuple[str, ...]]:
    """The images with only the units labelled in all of them, in numerical order, and a note on the others.

    Raises DataError if there is no such unit.
    """
    counts = Counter(unit for image in images for unit in image.units or ())
    units = sorted((u for u, n in counts.items() if n == len(images)), key=unit_order)
    if not units:
        raise DataError(f"no action unit is labelled in all images; there are {', '.join(sorted(counts))}")
    others = sorted(set(counts) - set(units), key=unit_order)
    note = f"{', '.join(others)} left out: not labelled in all images"
    reduced = [image._replace(units={u: (image.units or {})[u] for u in units}) for image in images]
    return reduced, (note,) if others else ()
