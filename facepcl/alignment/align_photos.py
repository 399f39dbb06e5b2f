"""Photos to aligned crops of their faces, and a table of where they were: `align`."""

import io
import json
import logging
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facepcl._version import __version__
from facepcl.alignment.contact_sheet import draw_faces
from facepcl.alignment.face_table import META, TABLE, CropNames, Photo, read_landmarks, read_rows, write_rows
from facepcl.data.file_types import check_no_source
from facepcl.data.sources import Item, as_sources, is_table_of, list_entries, printable
from facepcl.data.workers import Prepared, Readers, check_workers
from facepcl.errors import OptionError, check_known, shortened
from facepcl.images.cropper import Alignment
from facepcl.images.detector import SCORE, Detector, find_detector
from facepcl.images.face import NO_FACE, Face
from facepcl.images.sheet import check_sheet
from facepcl.images.transform import Transform
from facepcl.jobs.engine import Stream, Writer, run
from facepcl.jobs.state import Job, check_same
from facepcl.utils.cpus import cores
from facepcl.utils.files import (
    as_path,
    beside,
    check_folder,
    check_outside,
    remove_temporaries,
    sha256_file,
    write_text,
    writing,
)
from facepcl.utils.futures import in_order
from facepcl.utils.progress import Progress
from facepcl.utils.storage import is_temporary

_logger = logging.getLogger("facepcl")

COMMAND = "align"
SIZE = 112  # pixels: what most face recognisers take, and enough for each of our models' weights
FORMATS = ("jpg", "png")
NO_LANDMARKS = "no landmarks given"
PHOTOS_PER_CHUNK = 4  # that a worker is asked for: each may take a tenth of a second
REASONS = 5
EARLIER_PARTIAL = "faces.csv.partial"  # of a job of an earlier version


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
            self.reasons = (*self.reasons, f"{shortened(row['source'])}: {row['error']}")[:REASONS]


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
    all_files: bool = False,
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
        sheet: A .png or .jpg of the faces.
        all_files: Read all files of folders, globs and shards, whatever their names end in; otherwise those
            that are not named as images or shards are skipped, and counted in a warning.
        workers: Processes; None is one per core; 0 works in this process.
        progress: Show a progress bar.

    Returns:
        A summary: path, counts of photos and faces, seconds.

    Raises:
        OptionError: An argument is wrong.
        MissingPath: A source does not exist.
        MissingExtra: OpenCV is not installed.
        WeightsError: The detector cannot be downloaded or is not the expected file.
    """
    folder = as_path(out, "out")
    sources = as_sources(source)
    job = Job(folder, all_files=all_files, sources=sources)
    _check_options(job, sources, size, format, workers, sheet)
    size, score = int(size), float(score)  # numpy's numbers do not go into JSON
    entries = list_entries(sources, job.selection)  # raises for what is not there
    known = None if landmarks is None else read_landmarks(landmarks)
    file = None if known is not None else find_detector(detector)
    alignment = Alignment(str(file) if file else None, score, template, one)
    if file:
        Detector(file)  # raises before anything is written
    digest = None if landmarks is None else f"{landmarks} (sha256 {sha256_file(Path(landmarks))[:12]})"
    wanted = {**alignment.describe(), "size": size, "landmarks": digest, "format": format}
    wanted |= job.describe_sources()
    summary = AlignSummary(folder / TABLE)
    with job.claimed():
        if not job.read() and summary.path.exists() and _check_whole(job, wanted):
            job.release_when(lambda: True)  # after a kill while its state was removed
        else:
            job.check(COMMAND, job.begin(COMMAND, wanted, entries), wanted)
            writer = CropWriter(job, wanted, sources)
            bar = Progress(job.image_count(), "photos", progress, "aligning", initial=writer.done)
            summary.aligned, summary.seconds = run(writer, Aligner(alignment, size, known), workers, bar)
    for row in read_rows(summary.path):
        summary.count(row)
    if known is not None and summary.faceless == summary.photographs:
        _logger.warning("%s names none of these photos: it names %s", landmarks, next(iter(known), "nothing"))
    if sheet is not None:
        draw_faces(folder, (row for row in read_rows(summary.path) if row["path"]), summary.faces, sheet)
    return summary


def _check_options(
    job: Job, sources: Sequence[str], size: int, format: str, workers: int | None, sheet: Any
) -> None:
    """Raise for what cannot work, before anything is done."""
    if not 16 <= size <= 1024:
        raise OptionError(f"size must be between 16 and 1024 pixels, not {size}")
    check_known("format", format, FORMATS)
    check_workers(workers)
    if sheet is not None:
        check_no_source(sheet, sources)
        check_sheet(sheet)
    folder = job.out
    check_outside(folder, sources)
    check_folder(folder)
    if os.path.exists(folder / EARLIER_PARTIAL):
        raise OptionError(
            f"{folder} was started by an earlier version of facepcl; delete it to start over, or finish it "
            "with that version"
        )
    if any(folder.glob("[!.]*")) and not os.path.exists(folder / TABLE) and not job.read():
        raise OptionError(f"{folder} contains other files; choose a new folder for the crops")


def _check_whole(job: Job, wanted: dict[str, Any]) -> bool:
    """Whether all photos could be read from their drive; the others are tried again. Raises OptionError
    unless the crops in the job's folder are those that are asked for."""
    folder = job.out
    try:
        description = json.loads((folder / META).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{folder / META} does not say how these crops were made; delete {folder}, or choose another "
            "folder"
        ) from error
    check_same(folder, description, wanted, str(folder))
    rows = list(read_rows(folder / TABLE))
    paths = [str(printable(row["source"])) for row in rows]
    entries = list_entries(job.sources, job.selection.again())
    if not is_table_of(paths, entries, folder / TABLE, job.selection):
        raise OptionError(
            f"{folder} is complete, but has the crops of other photos; choose another folder, or delete it"
        )
    return not any(is_temporary(row["error"], row["source"]) for row in rows)


class Aligner:
    """Photos to the crops of their faces: `known` ones, or those that a detector finds."""

    chunk_size = PHOTOS_PER_CHUNK

    def __init__(self, alignment: Alignment, size: int, known: dict[str, list[Face]] | None):
        self.alignment, self.transform, self.known = alignment, Transform.square(size), known

    def of_chunks(
        self, pieces: Iterable[list[Item]], workers: int | None
    ) -> Generator[list[Prepared], None, None]:
        count = cores() if workers is None else workers
        with Readers(self.transform, count, self.alignment) as readers:
            yield from in_order(
                readers.submit, ([*map(self._with_faces, piece)] for piece in pieces), count + 1
            )

    def _with_faces(self, item: Item) -> Item:
        if self.known is None:
            return item
        return item._replace(faces=tuple(self.known.get(os.path.normpath(item.path), ())))


class CropWriter(Writer):
    """Crops below OUT as they come; the table of faces in parts, put together at the end."""

    part_images = 64
    resume_option = ""

    def __init__(self, job: Job, description: dict[str, Any], sources: list[str]):
        self.job, self.folder, self.description = job, job.out, description
        self.names = CropNames(sources)
        self.counts = {"faces": 0}
        self._has_crops = False
        job.drop_parts(lambda part: any(is_temporary(photo.error, photo.source) for photo in _photos(part)))
        for photo in self._photos():
            self.names.take(photo.stem)
        self.done = len(self.names)  # photos, in parts

    def _photos(self) -> Iterator[Photo]:
        return chain.from_iterable(map(_photos, self.job.parts()))

    def take(self, prepared: list[Prepared]) -> list[Photo]:
        for one in prepared:
            self.job.check_there(one.path, one.error)
        photos = [self._save(one) for one in prepared]
        self.counts["faces"] += sum(len(photo.faces) for photo in photos)
        return photos

    def _save(self, prepared: Prepared) -> Photo:
        """Write the crops of one photo."""
        stem, faces = self.names(prepared.path), prepared.faces or ()
        crops = tuple(f"{stem}_{number}.{self.description['format']}" for number in range(len(faces)))
        if crops:
            self._has_crops = True
            with writing(self.folder):
                (self.folder / stem).parent.mkdir(parents=True, exist_ok=True)
        for crop, pixels in zip(crops, prepared.pixels if faces else (), strict=True):  # type: ignore[arg-type]
            _write_crop(self.folder / crop, pixels)
        reason = NO_LANDMARKS if self.description["landmarks"] else NO_FACE
        error = prepared.error or (None if faces else reason)
        return Photo(prepared.path, error, prepared.size, stem, crops, faces)

    def write(self, stream: Stream, parts: Iterator[list[list[Photo]]]) -> None:
        for number, photos in enumerate(parts, len(self.job.parts())):
            lines = "".join(photo.to_line() for some in photos for photo in some)
            write_text(self.job.part(number, ".jsonl"), lines)
            self.done += sum(map(len, photos))

    def kept(self) -> str:
        has_any = self.done or self._has_crops
        return f"{self.done:,} photos are done and kept in {self.folder}" if has_any else ""

    def finish(self) -> None:
        """Write the table, then how the crops were made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.folder / TABLE, self.folder / META):
            remove_temporaries(path)
        write_rows(self.folder / TABLE, self._photos())
        write_text(self.folder / META, json.dumps({**self.description, "facepcl": __version__}, indent=2))


def _photos(part: Path) -> Iterator[Photo]:
    with part.open("rb") as file:
        yield from map(Photo.from_line, file)


def _write_crop(path: Path, pixels: np.ndarray) -> None:
    # whole or not there, as `atomic`, but without waiting for the disk at each of thousands of crops: what a
    # power cut takes away is written again
    file = io.BytesIO()
    if path.suffix == ".png":
        Image.fromarray(pixels).save(file, "PNG")
    else:  # colours at full resolution: a face of 112 px has few pixels to give away
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    temporary = beside(path.with_name(f".{path.name}"), ".partial")
    try:
        with writing(path):
            temporary.write_bytes(file.getvalue())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # which would hide the error that matters
            temporary.unlink(missing_ok=True)
        raise
