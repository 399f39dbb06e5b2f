"""The table of faces beside their crops, `faces.csv`, and files of landmarks."""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from facepcl.data.sources import csv_lines
from facepcl.errors import OptionError
from facepcl.images.face import FACE_COLUMNS, LANDMARK_COLUMNS, Face
from facepcl.utils.files import atomic

TABLE, META = "faces.csv", "faces.csv.meta.json"
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
    """Yield the rows of `faces.csv`."""
    lines = csv_lines(path)
    _, header = next(lines)
    for _, cells in lines:
        yield dict(zip(header, cells, strict=True))


def read_landmarks(path: str | Path) -> dict[str, list[Face]]:
    """The faces of each photograph in a CSV file with the columns `LANDMARK_COLUMNS` and `source` or `path`;
    relative names count from the file's folder, or from where the command runs.

    `faces.csv` is such a file; its rows without a face are passed over. Raises OptionError that names file
    and line.
    """
    path = Path(path)
    lines = csv_lines(path)
    _, header = next(lines, (1, []))
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
            raise OptionError(f"{path}, line {number}: {len(cells)} cells under {len(header)} columns")
        source, values = cells[header.index(name)].strip(), [cells[place].strip() for place in places]
        if not any(values):
            continue
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise OptionError(
                f"{path}, line {number}: landmarks are ten numbers, in pixels of the photograph"
            )
        faces = faces_of.setdefault(os.path.normpath(source), [])
        faces_of.setdefault(os.path.normpath(path.parent / source), faces)
        faces.append(Face.from_landmarks(numbers))
    return faces_of


_NEEDED = f"path, {', '.join(LANDMARK_COLUMNS)}"
