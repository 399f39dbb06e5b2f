"""Facial action units: DISFA, BP4D."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from facepcl.data.file_types import is_image_name
from facepcl.errors import DataError
from facepcl.probes.datasets.common import (
    Layout,
    at,
    common_units,
    fields,
    marked_layout,
    of_files,
    table,
    to_integer,
    unit_order,
)
from facepcl.probes.datasets.csv_files import csv_layout
from facepcl.probes.datasets.shards import shards_layout
from facepcl.probes.manifest import Labelled, Manifest

_FRAME_FOLDERS = ("img", "Images", "images", "2D+3D", ".")
_LAST_NUMBER = re.compile(r"(\d+)$")
_UNKNOWN = 9
_MAX_UNKNOWN = 0.1  # a unit unknown in a larger share of the frames is left out, rather than its frames


class _Video(NamedTuple):
    """Frames and their units by frame number, and the files with the labels."""

    subject: str
    frames: dict[int, Path]
    labels: dict[int, dict[str, float]]
    files: list[Path]


def read_disfa(path: Path) -> Manifest:
    """DISFA: the intensities of ActionUnit_Labels for frames extracted from its videos, img/SN001/0.png.

    Frames count from 0 if there is a 0, else from 1. Raises DataError with the line.
    """
    return _of_videos("disfa", _disfa_videos(path))


def _disfa_videos(path: Path) -> Iterator[_Video]:
    for folder in sorted(f for f in (path / "ActionUnit_Labels").glob("*") if f.is_dir()):
        files = _by_number(folder.glob(f"{folder.name}_au*.txt"))
        labels: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for unit, file in sorted(files.items()):
            for line, (frame, step) in fields(file, 2, ","):
                where = at(file, line)
                number = to_integer(frame, 1, 10**9, "the frame", where)
                labels[number][f"AU{unit}"] = to_integer(step, 0, 5, "the intensity", where) / 5
        frames = _frames(path, folder.name)
        first = 0 if 0 in frames else 1
        frames = {number - first + 1: image for number, image in frames.items()}
        yield _Video(folder.name, frames, labels, [file for _, file in sorted(files.items())])


def _by_number(files: Iterator[Path]) -> dict[int, Path]:
    """Files by the number that their names end in."""
    return {int(match[0]): file for file in files if (match := _LAST_NUMBER.search(file.stem))}


def _frames(root: Path, *folders: str) -> dict[int, Path]:
    folder = next((f for name in _FRAME_FOLDERS if (f := root.joinpath(name, *folders)).is_dir()), None)
    return _by_number(image for image in folder.iterdir() if is_image_name(image.name)) if folder else {}


def read_bp4d(path: Path) -> Manifest:
    """BP4D: occurrences of AUCoding/AU_OCC for the frames img/F001/T1/2440.jpg.

    Units that are mostly unknown (9) are left out, then frames with an unknown unit. Raises DataError with
    the line.
    """
    return _of_videos("bp4d", _bp4d_videos(path))


def _bp4d_files(path: Path) -> list[Path]:
    return sorted((path / "AUCoding" / "AU_OCC").glob("[FM]*_T*.csv"))


def _bp4d_videos(path: Path) -> Iterator[_Video]:
    for file in _bp4d_files(path):
        subject, _, task = file.stem.partition("_")
        yield _Video(subject, _frames(path, subject, task), dict(_bp4d_labels(file)), [file])


def _bp4d_labels(file: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Frames with their known units; the first column numbers the frames, the others are units."""
    header, rows = table(file)
    columns = {name: f"AU{name}" for name in header[1:] if name.isdigit()}
    if not columns:
        raise DataError(f"{at(file, 1)} names no action units by their numbers")
    for line, row in rows:
        where = at(file, line)
        values = {unit: to_integer(row[name], 0, _UNKNOWN, unit, where) for name, unit in columns.items()}
        if wrong := next((u for u, v in values.items() if v not in (0, 1, _UNKNOWN)), None):
            raise DataError(f"{where}: {wrong} is {values[wrong]}, not 0, 1 or 9")
        known = {unit: float(value) for unit, value in values.items() if value != _UNKNOWN}
        yield to_integer(row[header[0]], 0, 10**9, "the frame", where), known


def _of_videos(layout: str, videos: Iterator[_Video]) -> Manifest:
    images, files, without_labels, without_image = [], [], 0, 0
    for subject, frames, labels, label_files in videos:
        files += label_files
        for number, image in sorted(frames.items()):
            if number in labels:
                images.append(Labelled(str(image), subject=subject, units=labels.pop(number)))
            else:
                without_labels += 1
        without_image += len(labels)
    total = len(images) + without_labels
    notes: list[str] = []
    if layout == "bp4d":
        images, notes = _known(images)
    unknown = total - without_labels - len(images)
    if unknown:
        notes.append(f"{unknown} of {total} frames left out: a unit is unknown")
    if without_labels:
        notes.append(f"{without_labels} of {total} frames left out: no labels")
    if without_image:
        notes.append(f"labels of {without_image} frames without an image")
    if images:
        images, more = common_units(images)
        notes += more
    return of_files(layout, images, files, dropped=without_labels + unknown, notes=notes)


def _known(images: list[Labelled]) -> tuple[list[Labelled], list[str]]:
    """The images in which all units that are usually known are known, and a note on the other units."""
    counts = Counter(unit for image in images for unit in image.units or ())
    kept = sorted((u for u, n in counts.items() if n >= (1 - _MAX_UNKNOWN) * len(images)), key=unit_order)
    rare = sorted(set(counts) - set(kept), key=unit_order)
    complete = [
        image._replace(units={u: image.units[u] for u in kept})
        for image in images
        if image.units and image.units.keys() >= set(kept)
    ]
    notes = [f"{', '.join(rare)} left out: unknown in more than a tenth of the frames"] if rare else []
    return (complete if kept else []), notes


LAYOUTS = (
    csv_layout("units"),
    marked_layout("disfa", read_disfa, "ActionUnit_Labels/"),
    Layout("bp4d", lambda path: bool(_bp4d_files(path)), read_bp4d, "AUCoding/AU_OCC/F001_T1.csv"),
    shards_layout("units"),
)
