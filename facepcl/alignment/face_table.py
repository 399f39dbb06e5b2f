"""The table of faces beside their crops, `faces.csv`, files of landmarks, and the names of crops."""

import csv
import glob
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from facepcl.data.file_types import SHARD_SUFFIXES, is_image_name, is_shard_name, without_query
from facepcl.data.remote import is_url, without_secrets
from facepcl.data.sources import csv_lines
from facepcl.errors import MissingPath, OptionError
from facepcl.images.face import FACE_COLUMNS, LANDMARK_COLUMNS, Face
from facepcl.utils.files import atomic

TABLE, META = "faces.csv", "faces.csv.meta.json"
# of a photo in the names of its crops: file systems allow 255 and 4,096, and OUT, number and suffix are added
NAME_BYTES, PATH_BYTES = 200, 2000
COLUMNS = ("path", "source", "error", "width", "height", *FACE_COLUMNS)


class Photo(NamedTuple):
    """What became of one photo: its size in pixels, its faces with the names of their crops, or why
    there are none."""

    source: str
    error: str | None
    size: tuple[int, int]
    stem: str
    crops: tuple[str, ...]
    faces: tuple[Face, ...]

    def to_line(self) -> str:
        """As a line of JSON that `from_line` takes."""
        return json.dumps([*self[:5], [face.numbers() for face in self.faces]]) + "\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Photo":
        source, error, size, stem, crops, faces = json.loads(line)
        return cls(source, error, tuple(size), stem, tuple(crops), tuple(map(Face.from_numbers, faces)))

    def rows(self) -> Iterator[list[Any]]:
        """The rows of `faces.csv`: one a face, or one that says why there is none."""
        size = list(self.size) if min(self.size) else ["", ""]
        if not self.faces:
            yield ["", self.source, self.error, *size, *[""] * len(FACE_COLUMNS)]
        for number, (crop, face) in enumerate(zip(self.crops, self.faces, strict=True)):
            _, score, *places = face.columns(number)
            yield [crop, self.source, "", *size, number, _cell(score, 3), *(_cell(p, 2) for p in places)]


def _cell(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def write_rows(path: Path, photos: Iterable[Photo]) -> None:
    """Write `faces.csv`."""
    # surrogateescape: names that are not UTF-8 get the bytes they had, as manifests are read
    with (
        atomic(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for photo in photos:
            table.writerows(photo.rows())


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of `faces.csv`. Raises OptionError if `write_rows` did not write it like that."""
    lines = csv_lines(path)
    if next(lines, (1, []))[1] != list(COLUMNS):
        raise OptionError(f"{path} has other columns than `facepcl align` writes; delete {path.parent}")
    for number, cells in lines:
        if len(cells) != len(COLUMNS):
            raise OptionError(f"{path}, line {number}, was changed; delete {path.parent}")
        yield dict(zip(COLUMNS, cells, strict=True))


def read_landmarks(path: str | Path) -> dict[str, list[Face]]:
    """The faces of each photo in a CSV file with the columns `LANDMARK_COLUMNS` and `source` or `path`;
    relative names count from the file's folder, or from where the command runs.

    `faces.csv` is such a file; its rows without a face are passed over. Raises MissingPath, or OptionError
    that names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingPath(f"{path}: there is no such file of landmarks")
    lines = csv_lines(path)
    header = [name.strip().lower() for name in next(lines, (1, []))[1]]
    name = next((column for column in ("source", "path") if column in header), None)
    missing = [column for column in LANDMARK_COLUMNS if column not in header]
    if name is None or missing:
        raise OptionError(
            f"{path} has no column {missing[0] if name else 'path'!r}; landmarks need {_NEEDED}"
        )
    places = [header.index(column) for column in LANDMARK_COLUMNS]
    faces_of: dict[str, list[Face]] = {}
    for number, cells in lines:
        if len(cells) < len(header):
            raise OptionError(
                f"{path}, line {number}: {len(cells)} cells, but the header has {len(header)} columns"
            )
        source = without_secrets(cells[header.index(name)].strip())
        values = [cells[place].strip() for place in places]
        if not any(values):
            continue
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise OptionError(f"{path}, line {number}: landmarks must be ten numbers, in pixels of the photo")
        faces = faces_of.setdefault(os.path.normpath(source), [])
        faces_of.setdefault(os.path.normpath(path.parent / source), faces)
        faces.append(Face.from_numbers([math.nan] * 4 + numbers + [math.nan]))
    return faces_of


_NEEDED = f"path, {', '.join(LANDMARK_COLUMNS)}"


class CropNames:
    """`CropNames(sources)(path)` is the stem of the crops of one photo, relative to the folder of crops:
    for `photos/a/b.jpg` of the source `photos` it is `a/b`. Of two photos with the same stem the second
    gets `b-2`."""

    def __init__(self, sources: Sequence[str]):
        self._roots = sorted(map(_root, sources), key=len, reverse=True)
        self._taken: set[int] = set()  # a number for each: there may be millions
        self._numbers: dict[int, int] = {}

    def take(self, stem: str) -> None:
        """Give this stem to no photo any more."""
        self._taken.add(hash(_fold(stem)))

    def __len__(self) -> int:
        """How many stems were given."""
        return len(self._taken)

    def __call__(self, path: str) -> str:
        below = self._below_root(path)
        key = hash(_fold(below))
        number = self._numbers.get(key, 1)  # smaller ones are taken
        stem = below if number == 1 else f"{below}-{number}"
        while hash(_fold(stem)) in self._taken:
            number += 1
            stem = f"{below}-{number}"
            self._numbers[key] = number
        self.take(stem)
        return stem

    def _below_root(self, path: str) -> str:
        root = next((root for root in self._roots if path.startswith(root)), None)
        # a manifest may name photos anywhere
        below = os.path.basename(path) if root is None else path[len(root) :]
        if is_url(path):  # without signatures
            below = "/".join(part.partition("?")[0] for part in below.split("/"))
        # a member of a shard may be called ../../etc or C:\x: what is left is a plain name below the folder
        name = PurePath(below.replace("\\", "/").lstrip("/"))
        parts = [_plain(part) for part in (name.with_suffix("") if name.name else name).parts]
        parts = [part for part in parts if part.strip(".")]
        while len("/".join(parts).encode()) > PATH_BYTES:
            del parts[0]
        return "/".join(parts) or "face"


def _root(source: str) -> str:
    """What the paths of a source begin with."""
    if is_url(source):
        above, slash, name = without_query(source).rpartition("/")
        names_files = is_image_name(name) or is_shard_name(name) or glob.has_magic(name) or "?" in source
        return above + slash if names_files else source.rstrip("/") + "/"
    if os.path.isdir(source):
        folder = Path(source)
    elif glob.has_magic(source) and not os.path.lexists(source):
        parts = Path(source).parts
        folder = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    else:
        folder = Path(source).parent
    return "" if str(folder) == "." else str(folder).rstrip(os.sep) + os.sep


def _plain(part: str) -> str:
    for suffix in SHARD_SUFFIXES if is_shard_name(part) else ():
        part = part.removesuffix(suffix)
    part = part.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # names that are not UTF-8
    part = "".join("_" if letter in ':*?"<>|\0' else letter for letter in part).lstrip(".")
    return part.encode()[:NAME_BYTES].decode(errors="ignore")


def _fold(stem: str) -> str:
    return stem.casefold()  # on some systems A.jpg and a.jpg are one file
