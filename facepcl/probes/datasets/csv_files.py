"""CSV manifests: one row per image, with the labels that its columns name."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from facepcl.data.labels import unit_name
from facepcl.errors import DataError
from facepcl.images.face import ANGLES
from facepcl.probes.datasets.common import (
    Layout,
    at,
    check_columns,
    common_units,
    existing,
    keep_labelled,
    of_files,
    table,
    to_number,
    to_split,
)
from facepcl.probes.manifest import Labelled, Manifest

_STEPS = 5.0  # of FACS intensity, A to E


def csv_layout(*needs: str) -> Layout:
    """The layout of CSV manifests for a task that `needs` these labels."""
    return Layout("csv", is_csv, partial(read_csv, needs=needs), "a .csv file with a column path")


def is_csv(path: Path, column: str = "path") -> bool:
    """Whether a path is a CSV file with this column."""
    return path.suffix.lower() == ".csv" and path.is_file() and column in table(path)[0]


def read_csv(path: Path, needs: Sequence[str]) -> Manifest:
    """The images that a CSV file names, with its labels; paths are relative to its folder.

    If any intensity is above 1, all are taken as steps of 0 to 5. Raises DataError for an invalid label,
    MissingPath for a missing image, both with the line.
    """
    header, rows = table(path)
    required = [column for name in needs for column in (ANGLES if name == "pose" else (name,))]
    check_columns(path, header, ["path", *(name for name in required if name != "units")])
    units = {name: unit for name in header if (unit := unit_name(name))}
    if "units" in needs and not units:
        raise DataError(f"{path} has no column of an action unit, such as AU12")
    images, places = [], []
    for number, row in rows:
        places.append(at(path, number))
        images.append(_image(path, places[-1], row, units))
    if double := sorted({unit for unit in units.values() if list(units.values()).count(unit) > 1}):
        raise DataError(f"{path} has several columns of {double[0]}")
    highest = max((v for image in images for v in (image.units or {}).values()), default=0.0)
    scale = _STEPS if highest > 1 else 1.0
    images = [_scaled(*pair, scale) for pair in zip(images, places, strict=True)]
    manifest = keep_labelled(of_files("csv", images, [path]), path, needs)
    if "units" in needs:
        manifest.images, notes = common_units(manifest.images)
        steps = (f"{path.name}: intensities taken for steps of 0 to 5",) if scale > 1 else ()
        manifest.notes += (*steps, *notes)
    if "expression" in needs:
        manifest.classes = tuple(sorted({i.expression for i in manifest.images if i.expression}))
    return manifest


def _image(path: Path, where: str, row: dict[str, str], units: dict[str, str]) -> Labelled:
    if not row["path"]:
        raise DataError(f"{where} names no path")
    pose = None
    if all(row.get(angle) for angle in ANGLES):
        yaw, pitch, roll = (to_number(row[angle], angle, where) for angle in ANGLES)
        pose = (yaw, pitch, roll)
    return Labelled(
        name=str(existing(path.parent / row["path"], where)),
        split=to_split(row["split"], where) if row.get("split") else "",
        subject=row.get("subject", ""),
        expression=row.get("expression") or None,
        pose=pose,
        units={u: to_number(row[name], u, where) for name, u in units.items() if row[name]} or None,
        series=row.get("series", ""),
    )


def _scaled(image: Labelled, where: str, scale: float) -> Labelled:
    if not image.units:
        return image
    for unit, value in image.units.items():
        if not 0 <= value <= scale:
            raise DataError(f"{where}: {unit} is {value:g}, not between 0 and {scale:g}")
    return image._replace(units={unit: value / scale for unit, value in image.units.items()})
