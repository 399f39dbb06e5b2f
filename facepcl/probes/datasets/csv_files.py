"""CSV manifests: one line an image, with whatever labels its columns name."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from facepcl.errors import DataError
from facepcl.images.face import ANGLES
from facepcl.probes.datasets.common import (
    Layout,
    at,
    existing,
    keep_labelled,
    of_files,
    table,
    to_number,
    to_split,
    unit_name,
)
from facepcl.probes.manifest import Labelled, Manifest

_STEPS = 5.0  # of FACS intensity, A to E


def csv_layout(*needs: str) -> Layout:
    """The layout of CSV manifests for a task that `needs` these labels."""

    def read(path: Path, seed: int) -> Manifest:
        return read_csv(path, needs)

    return Layout("csv", is_csv, read, "a .csv file with a column path")


def is_csv(path: Path, column: str = "path") -> bool:
    """Whether a path is a CSV file whose header has this column."""
    return path.suffix.lower() == ".csv" and path.is_file() and column in _lower(table(path)[0])


def read_csv(path: Path, needs: Sequence[str]) -> Manifest:
    """The images that a CSV file names, with its labels; paths are relative to its folder.

    Any intensity above 1 makes all of them steps of 0 to 5. Raises DataError with the line for a label that
    cannot be, MissingPath for an image that is not there.
    """
    header, rows = table(path)
    columns = _lower(header)
    for column in ("path", *_columns(needs)):
        if column not in columns:
            raise DataError(f"{path} has no column {column!r}; its first line says {','.join(header)[:80]!r}")
    units = {name: unit for name in header if (unit := unit_name(name))}
    if "units" in needs and not units:
        raise DataError(f"{path} has no column of an action unit, such as AU12")
    lines, images = [], []
    for number, row in rows:
        images.append(_image(path, at(path, number), row, units))
        lines.append(number)
    if double := sorted({unit for unit in units.values() if list(units.values()).count(unit) > 1}):
        raise DataError(f"{path} has several columns of {double[0]}")
    highest = max((v for image in images for v in (image.units or {}).values()), default=0.0)
    scale = _STEPS if highest > 1 else 1.0
    images = list(_scaled(path, images, lines, scale))
    manifest = keep_labelled(of_files("csv", images, [path]), path, needs)
    if "units" in needs and scale > 1:
        manifest.notes += (f"{path.name}: intensities taken for steps of 0 to 5",)
    if "expression" in needs:
        manifest.classes = tuple(sorted({i.expression for i in manifest.images if i.expression}))
    return manifest


def _lower(header: Sequence[str]) -> list[str]:
    return [name.lower() for name in header]


def _columns(needs: Sequence[str]) -> Iterator[str]:
    for name in needs:
        if name != "units":
            yield from ANGLES if name == "pose" else (name,)


def _image(path: Path, where: str, row: dict[str, str], units: dict[str, str]) -> Labelled:
    cell = {name.lower(): text for name, text in row.items()}
    if not cell["path"]:
        raise DataError(f"{where} names no path")
    angles = [cell.get(angle, "") for angle in ANGLES]
    pose = (
        [to_number(text, name, where) for text, name in zip(angles, ANGLES, strict=True)]
        if all(angles)
        else []
    )
    known = {unit: to_number(row[name], name, where) for name, unit in units.items() if row[name]}
    return Labelled(
        name=str(existing(path.parent / cell["path"], where)),
        split=to_split(cell["split"], where) if cell.get("split") else "",
        subject=cell.get("subject", ""),
        expression=cell.get("expression") or None,
        pose=(pose[0], pose[1], pose[2]) if pose else None,
        units=known or None,
        series=cell.get("series", ""),
    )


def _scaled(path: Path, images: list[Labelled], lines: list[int], scale: float) -> Iterator[Labelled]:
    """Intensities within 0 and 1."""
    for image, number in zip(images, lines, strict=True):
        for unit, value in (image.units or {}).items():
            if not 0 <= value <= scale:
                raise DataError(f"{at(path, number)}: {unit} is {value:g}, not within 0 and {scale:g}")
        yield image._replace(units={u: v / scale for u, v in image.units.items()}) if image.units else image
