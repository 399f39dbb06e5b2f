"""Photographs to aligned crops of their faces, and a table of where they were: `align`."""

import hashlib
import io
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facepcl._version import __version__
from facepcl.alignment.contact_sheet import check_sheet, draw_faces
from facepcl.alignment.crop_names import CropNames
from facepcl.alignment.face_table import META, PARTIAL, TABLE, FaceTable, Photograph, read_landmarks
from facepcl.data.sources import (
    Item,
    is_shard_name,
    is_table_of,
    list_entries,
    printable,
    read_items,
    where_relative,
)
from facepcl.data.workers import Prepared, Readers
from facepcl.errors import MissingPath, OptionError
from facepcl.images.cropper import Alignment
from facepcl.images.detector import SCORE, Detector
from facepcl.images.detector_file import find_detector
from facepcl.images.face import NO_FACE, Face
from facepcl.images.transform import Fit
from facepcl.utils.device import cores
from facepcl.utils.files import writing
from facepcl.utils.futures import in_order
from facepcl.utils.lock import LOCK, alone
from facepcl.utils.progress import Progress

_logger = logging.getLogger("facepcl")

SIZE = 112  # pixels: what most face recognisers take, and enough for each of our models' weights
FORMATS = ("jpg", "png")
NO_LANDMARKS = "no landmarks given"
PHOTOGRAPHS_AT_ONCE = 4  # that a reader is asked for: each may take a tenth of a second
REASONS = 5


@dataclass
class AlignSummary:
    """What `align` did: of `photographs`, `faceless` show no face and `failed` could not be read; `aligned`
    of them were done now, in `seconds`, the others were there before."""

    path: Path
    photographs: int = 0
    faces: int = 0
    faceless: int = 0
    failed: int = 0
    aligned: int = 0
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()  # the first few

    @property
    def photographs_per_second(self) -> float:
        return self.aligned / max(self.seconds, 1e-9)

    def count(self, row: dict[str, str]) -> None:
        """Take account of a row of the table."""
        self.photographs += row["face"] in ("", "0")
        self.faces += bool(row["path"])
        if row["error"] in (NO_FACE, NO_LANDMARKS):
            self.faceless += 1
        elif row["error"]:
            self.failed += 1
            self.reasons = (*self.reasons, f"{row['source']}: {row['error']}")[:REASONS]


def align(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    size: int = SIZE,
    template: str = "face",
    one: bool = False,
    score: float = SCORE,
    detector: str | Path | None = None,
    landmarks: str | Path | None = None,
    format: str = "jpg",
    sheet: str | Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> AlignSummary:
    """Crop the faces in photos to upright squares, with a table of boxes, landmarks and scores.

    After an interruption the same call continues.

    Args:
        source: Files, folders, globs, `.csv` manifests with a column `path`, `.tar` shards.
        out: Folder for the crops and `faces.csv`.
        size: Side of a crop in pixels.
        template: `face`, the crop that the weights expect, or `arcface`.
        one: Only the most prominent face of each photo.
        score: Minimum detection score.
        detector: YuNet's ONNX file; None downloads it once from the Hub.
        landmarks: A CSV file with landmarks; no detector is needed then.
        format: `jpg` (quality 95) or `png`.
        sheet: A PNG of the faces.
        workers: Processes; None is one per core.
        progress: Show a progress bar.

    Returns:
        A summary: path, counts of photos and faces, seconds.

    Raises:
        OptionError: An argument is wrong.
        MissingPath: A source does not exist.
        MissingExtra: OpenCV is not installed.
        WeightsError: The detector's file cannot be had.
    """
    folder = Path(out)
    sources = [str(s) for s in ([source] if isinstance(source, (str, Path)) else source)]
    _check(sources, folder, size, format, workers, sheet)
    list_entries(sources)  # raises for what is not there
    given = None if landmarks is None else _given(landmarks)
    file = None if given is not None else find_detector(detector)
    alignment = Alignment(str(file) if file else None, score, template, one)
    if file:
        Detector(file)  # raises before anything is written
    job = _describe(alignment, sources, size, format, landmarks)
    with alone(folder, f"{folder}: another process is writing to it; wait for it, or choose another folder"):
        table = FaceTable(folder)
        summary = AlignSummary(table.path)
        if not _is_whole(table, job):
            try:
                _align_rest(table, alignment, sources, size, format, given, workers, progress, summary)
            except BaseException:
                _logger.warning("what is done is kept in %s; the same command goes on from there", folder)
                raise
            table.finish()
        elif not is_table_of([str(printable(row["source"])) for row in table.rows()], list_entries(sources)):
            raise OptionError(
                f"{folder} is whole, and of other photographs than there are now; choose another folder, or "
                "delete it"
            )
        for row in table.rows():
            summary.count(row)
        if given and summary.faceless == summary.photographs:
            _logger.warning(
                "%s names none of these photographs: it says %s", landmarks, next(iter(given), "nothing")
            )
        if sheet is not None:
            draw_faces(folder, (row for row in table.rows() if row["path"]), summary.faces, sheet)
    return summary


def _check(
    sources: Sequence[str], folder: Path, size: int, format: str, workers: int | None, sheet: Any
) -> None:
    """Raise for what cannot work, before anything is done."""
    if not 16 <= size <= 1024:
        raise OptionError(f"size {size}: between 16 and 1024 pixels")
    if format not in FORMATS:
        raise OptionError(f"format {format!r}: choose {' or '.join(FORMATS)}")
    if workers is not None and workers < 1:
        raise OptionError(f"workers {workers}: at least 1")
    if sheet is not None:
        check_sheet(Path(sheet))
    real = Path(os.path.realpath(folder))
    for source in sources:
        if os.path.isdir(source) and real.is_relative_to(os.path.realpath(source)):
            raise OptionError(
                f"{folder} lies in {source}, so crops would be taken for photographs; choose another"
            )
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file; crops go into a folder")
    ours = {TABLE, PARTIAL, META}
    if folder.is_dir() and (there := os.listdir(folder)) and not ours & set(there) and there != [LOCK]:
        raise OptionError(f"{folder} holds other files; give a new folder for the crops")


def _given(landmarks: str | Path) -> dict[str, list[Face]]:
    if not Path(landmarks).is_file():
        raise MissingPath(f"{landmarks}: there is no such file of landmarks")
    return read_landmarks(landmarks)


def _describe(
    alignment: Alignment, sources: list[str], size: int, format: str, landmarks: str | Path | None
) -> dict[str, Any]:
    """What the crops are; a job goes on only where this is the same."""
    return {
        **alignment.describe(),
        "size": size,
        "landmarks": None if landmarks is None else f"{landmarks} (sha256 {_digest(landmarks)})",
        "format": format,
        "sources": sources,
        "folder": where_relative(sources),
        "facepcl": __version__,
    }


def _digest(landmarks: str | Path) -> str:
    return hashlib.sha256(Path(landmarks).read_bytes()).hexdigest()[:12]


def _is_whole(table: FaceTable, job: dict[str, Any]) -> bool:
    """Whether nothing is left to do; else the table is begun.

    Raises OptionError for a folder of other crops.
    """
    if not table.is_begun and not table.path.exists():
        table.begin(job)
        return False
    there = table.job()
    different = [name for name in job if name != "facepcl" and there.get(name) != job[name]]
    if different:
        name = different[0]
        raise OptionError(
            f"{table.folder} holds crops made with {name} {there.get(name)}, not {job[name]}; repeat the "
            "command as it was, choose another folder, or delete it"
        )
    return not table.is_begun


def _align_rest(
    table: FaceTable,
    alignment: Alignment,
    sources: list[str],
    size: int,
    format: str,
    given: dict[str, list[Face]] | None,
    workers: int | None,
    progress: bool,
    summary: AlignSummary,
) -> None:
    """Cut the faces of the photographs that are not done yet."""
    start = time.monotonic()
    table.recover()
    names, last, before = CropNames(sources), None, 0
    for photograph in table.done():
        names.take(photograph.stem)
        last, before = photograph.source, before + 1
    items = read_items(list_entries(sources), max(0, before - 1))
    if before:
        again = next(items, None)  # the last one that is done
        if (now := again.path if again else "gone") != last:
            raise OptionError(
                f"{table.folder} was begun with other files: number {before:,} is now {now}, not {last}; "
                "delete it to begin again"
            )
    if given is not None:
        items = (_with_landmarks(item, given) for item in items)
    count = cores() if workers is None else workers
    with (
        Progress(_count(sources), "photographs", progress, "aligning", initial=before) as bar,
        Readers(Fit.square(size), count, alignment) as readers,
    ):
        faces = 0
        for some in in_order(readers.submit, _chunks(items), count + 1):
            done = [_save(one, names, table.folder, format, given is not None) for one in some]
            table.add(done)
            faces += sum(len(photograph.faces) for photograph in done)
            summary.aligned += len(done)
            bar.update(len(done), faces=faces)
    summary.seconds = time.monotonic() - start


def _count(sources: Sequence[str]) -> int | None:
    """How many photographs there are; None where shards do not tell."""
    number = 0
    for entry in list_entries(sources):
        if is_shard_name(entry.path):
            return None
        number += 1
    return number


def _with_landmarks(item: Item, given: dict[str, list[Face]]) -> Item:
    return item._replace(faces=tuple(given.get(os.path.normpath(item.path), ())))


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    while chunk := list(islice(items, PHOTOGRAPHS_AT_ONCE)):
        yield chunk


def _save(
    prepared: Prepared, names: CropNames, folder: Path, format: str, landmarks_given: bool
) -> Photograph:
    """Write the crops of one photograph."""
    stem = names(prepared.path)
    faces = prepared.faces or ()
    crops = tuple(f"{stem}_{number}.{format}" for number in range(len(faces)))
    if crops:
        (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    for crop, pixels in zip(crops, prepared.pixels if faces else (), strict=True):  # type: ignore[arg-type]
        _write(folder / crop, _encoded(pixels, format))
    error = prepared.error or (None if faces else NO_LANDMARKS if landmarks_given else NO_FACE)
    return Photograph(prepared.path, error, prepared.size, stem, crops, faces)


def _encoded(pixels: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    if format == "png":
        Image.fromarray(pixels).save(file, "PNG")
    else:  # colours at full resolution: a face of 112 px has few pixels to give away
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    # whole or not there, as `atomic`, but without waiting for the disk at each of thousands of crops: what a
    # power cut takes away is cut again
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            temporary.write_bytes(data)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
