"""Facial action units: DISFA, BP4D."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from facepcl.data.sources import is_image_name
from facepcl.errors import DataError
from facepcl.probes.datasets.common import (
    Layout,
    at,
    common_units,
    fields,
    of_files,
    table,
    to_integer,
    unit_order,
)
from facepcl.probes.datasets.csv_files import csv_layout, read_csv
from facepcl.probes.datasets.shards import shards_layout
from facepcl.probes.manifest import Labelled, Manifest

_FRAME_FOLDERS = ("img", "Images", "images", "2D+3D", ".")
_LAST_NUMBER = re.compile(r"(\d+)$")
_INTENSITIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_OCCURS = (0.0, 1.0)
_UNKNOWN = 9
_OFTEN = 0.1  # a unit unknown in more of the frames than this is left out, rather than its frames

Units = dict[str, float]


def read_disfa(path: Path, seed: int = 0) -> Manifest:
    """DISFA: the intensities of ActionUnit_Labels for frames made of its videos, img/SN001/0.png.

    Frames count from 0 if there is a 0, else from 1. Raises DataError with the line.
    """
    files, images, frames_without, labels_without = [], [], 0, 0
    for folder in sorted(f for f in (path / "ActionUnit_Labels").glob("*") if f.is_dir()):
        labels, read = _disfa_labels(folder)
        files += read
        frames = _frames(path, folder.name)
        first = 0 if 0 in frames else 1
        for number, image in sorted(frames.items()):
            if units := labels.pop(number - first + 1, None):
                images.append(Labelled(str(image), subject=folder.name, units=units))
            else:
                frames_without += 1
        labels_without += len(labels)
    return _of_frames("disfa", images, files, frames_without, labels_without)


def _disfa_labels(folder: Path) -> tuple[dict[int, Units], list[Path]]:
    """The units of each frame of a video, and the files that tell them."""
    labels: dict[int, Units] = {}
    files = {}
    for file in folder.glob(f"{folder.name}_au*.txt"):
        if number := _LAST_NUMBER.search(file.stem):
            files[int(number[0])] = file
    for unit, file in sorted(files.items()):
        for line, (frame, step) in fields(file, 2, ","):
            where = at(file, line)
            intensity = _INTENSITIES[to_integer(step, 0, 5, "the intensity", where)]
            labels.setdefault(to_integer(frame, 1, 10**9, "the frame", where), {})[f"AU{unit}"] = intensity
    return labels, list(files.values())


def _frames(root: Path, *folders: str) -> dict[int, Path]:
    """The images of a video by the numbers that their names end in."""
    folder = next((f for name in _FRAME_FOLDERS if (f := root.joinpath(name, *folders)).is_dir()), None)
    images = [image for image in folder.iterdir() if is_image_name(image.name)] if folder else []
    return {int(number[0]): image for image in images if (number := _LAST_NUMBER.search(image.stem))}


def read_bp4d(path: Path, seed: int = 0) -> Manifest:
    """BP4D: occurrences of AUCoding/AU_OCC for the frames img/F001/T1/2440.jpg.

    Units that are mostly unknown (9) are left out, and then frames in which one is. Raises DataError with
    the line.
    """
    files, images, frames_without, labels_without = [], [], 0, 0
    for file in _bp4d_files(path):
        files.append(file)
        subject, _, task = file.stem.partition("_")
        frames = _frames(path, subject, task)
        for number, units in _bp4d_labels(file):
            if image := frames.pop(number, None):
                images.append(Labelled(str(image), subject=subject, units=units))
            else:
                labels_without += 1
        frames_without += len(frames)
    known, notes = _known(images)
    frames_unknown = len(images) - len(known)
    return _of_frames("bp4d", known, files, frames_without, labels_without, frames_unknown, notes)


def _bp4d_files(path: Path) -> list[Path]:
    return sorted((path / "AUCoding" / "AU_OCC").glob("[FM]*_T*.csv"))


def _bp4d_labels(file: Path) -> Iterator[tuple[int, Units]]:
    """Frames with the units that are known in each; the first column numbers the frames, the header names
    units."""
    header, rows = table(file)
    columns = {name: f"AU{name}" for name in header[1:] if name.isdigit()}
    if not columns:
        raise DataError(f"{at(file, 1)} names no action units by their numbers")
    for line, row in rows:
        where = at(file, line)
        values = {unit: to_integer(row[name], 0, _UNKNOWN, unit, where) for name, unit in columns.items()}
        if wrong := next((u for u, v in values.items() if v not in (0, 1, _UNKNOWN)), None):
            raise DataError(f"{where}: {wrong} is {values[wrong]}, not 0, 1 or 9")
        known = {unit: _OCCURS[value] for unit, value in values.items() if value != _UNKNOWN}
        yield to_integer(row[header[0]], 0, 10**9, "the frame", where), known


def _known(images: list[Labelled]) -> tuple[list[Labelled], list[str]]:
    """The images in which every unit is known that is known nearly always, and what was left out."""
    counts = Counter(unit for image in images for unit in image.units or ())
    kept = sorted((u for u, n in counts.items() if n >= (1 - _OFTEN) * len(images)), key=unit_order)
    rare = sorted(set(counts) - set(kept), key=unit_order)
    found = [
        image._replace(units={u: image.units[u] for u in kept})
        for image in images
        if image.units and image.units.keys() >= set(kept)
    ]
    notes = [f"{', '.join(rare)} left out: unknown in more than a tenth of the frames"] if rare else []
    return (found if kept else []), notes


def _of_frames(
    layout: str,
    images: list[Labelled],
    files: list[Path],
    frames_without: int,
    labels_without: int,
    frames_unknown: int = 0,
    notes: Sequence[str] = (),
) -> Manifest:
    notes = list(notes)
    total = len(images) + frames_unknown + frames_without
    if frames_unknown:
        notes.append(f"{frames_unknown} of {total} frames left out: a unit is unknown")
    if frames_without:
        notes.append(f"{frames_without} of {total} frames left out: no labels")
    if labels_without:
        notes.append(f"labels of {labels_without} frames without an image")
    if images:
        images, more = common_units(images)
        notes += more
    return of_files(layout, images, files, dropped=frames_without + frames_unknown, notes=notes)


def read_units_csv(path: Path, seed: int = 0) -> Manifest:
    """A CSV manifest with the units that all of its images have. Raises as `read_csv` does."""
    manifest = read_csv(path, ["units"])
    manifest.images, notes = common_units(manifest.images)
    manifest.notes += notes
    return manifest


LAYOUTS = (
    csv_layout("units")._replace(read=read_units_csv),
    shards_layout("units"),
    Layout("disfa", lambda path: (path / "ActionUnit_Labels").is_dir(), read_disfa, "ActionUnit_Labels/"),
    Layout("bp4d", lambda path: bool(_bp4d_files(path)), read_bp4d, "AUCoding/AU_OCC/F001_T1.csv"),
)
