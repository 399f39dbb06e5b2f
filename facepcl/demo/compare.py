"""What the page of `facepcl demo` computes: faces of photos, what they show, their neighbours in a folder."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepcl.analysis.analyzer import AttributeEmbedder
from facepcl.analysis.drawing import DrawnFace, framed, whole_photo
from facepcl.analysis.photos import ShownPhoto, closer
from facepcl.data.file_types import Selection
from facepcl.data.sources import Entry, Item, list_entries, read_items
from facepcl.data.workers import Prepared, Readers
from facepcl.embedding.contact_sheet import Sample, samples_of
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.embeddings import similarity
from facepcl.embedding.encoder import MODEL
from facepcl.errors import ImageError, MissingPath, OptionError
from facepcl.images.face import NO_FACE, Face

READ = 900  # pixels of the longer side of a photo, of which the part with faces is shown
ALONE, SHOWN = 300, 480  # pixels of that part, with one face and with several
FOLDER_LIMIT = 5000  # faces of a folder in memory, 30 kB each
FOLDERS = 2  # the most recent ones in memory
CLOSED = "the page was closed"


class Photo(NamedTuple):
    """The part of a photo with its faces, with their attributes (none without heads); and their codes."""

    name: str
    shown: ShownPhoto
    faces: list[Sample]


class Gallery(NamedTuple):
    """The faces of a folder, and how many of its files could not be read."""

    faces: list[Sample]
    unread: int
    truncated: bool  # there are more faces than are kept


class Comparer:
    """Reads photos, or face crops if `crops` is set, with one model; to be closed.

    Files are decoded in separate processes, since a visitor's bad file may hang or crash them. Raises
    OptionError for a model without branches, WeightsError without weights or detector, MissingExtra without
    OpenCV.
    """

    def __init__(self, model: str = MODEL, *, detector: str | Path | None = None, crops: bool = False):
        if crops and detector is not None:
            raise OptionError("crops need no detector: leave out --crops or --detector")
        self._embedder = _load(model, dtype="float32", align=not crops, detector=detector)
        if not self._embedder.has_branches:
            raise OptionError(f"the demo compares the face and pose branches, but {model} has none")
        self.takes_crops = crops
        self._closed = threading.Event()
        self._galleries: dict[tuple[str, int], Gallery] = {}
        self._processes = ExitStack()
        readers = (
            Readers(self._embedder.transform, 1, self._embedder.alignment),
            Readers(whole_photo(READ), 1),
        )
        self._faces, self._pictures = map(self._processes.enter_context, readers)

    def close(self) -> None:
        """Stop running computations, which raise an OptionError."""
        self._closed.set()
        self._processes.close()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise OptionError(CLOSED)

    def read(self, file: Path, limit: int) -> Photo:
        """The `limit` most prominent faces of a photo. Raises ImageError, also if there are none."""
        prepared, crops = self._prepare(self._faces, file)
        if self.takes_crops:
            crops = crops[None]
        elif not prepared.faces:
            raise ImageError(NO_FACE)
        faces = None if self.takes_crops else (prepared.faces or ())[:limit]
        crops = crops[:limit]
        maps = self._embedder.maps(crops, all_branches=True)
        whole, _ = self._prepare(self._pictures, file)
        places: Sequence[Face | None] = [None] if faces is None else faces
        drawn = [DrawnFace(*one) for one in zip(places, self._attributes(maps, faces), strict=True)]
        shown = closer(ShownPhoto(file.name, *framed(whole, READ), drawn), SHOWN if len(drawn) > 1 else ALONE)
        return Photo(file.name, shown, samples_of(self._embedder, [file.name] * len(crops), crops, maps))

    def _attributes(self, maps: dict[str, Any], faces: Sequence[Face] | None) -> list[dict[str, float]]:
        if isinstance(self._embedder, AttributeEmbedder):
            return self._embedder.attributes_of(maps, faces)
        return [{} for _ in maps["shared"]]

    def _prepare(self, readers: Readers, file: Path) -> tuple[Prepared, np.ndarray]:
        self._check_open()
        try:
            [prepared] = readers.submit([Item(str(file))]).result()
        except CancelledError:
            raise OptionError(CLOSED) from None
        if prepared.pixels is None:
            raise ImageError(prepared.error)
        return prepared, prepared.pixels

    def gallery(
        self, folder: str | Path, on_progress: Callable[[int, int], object] = lambda done, total: None
    ) -> Gallery:
        """The faces of a folder's images; embedded once, as long as the files do not change.

        `on_progress` gets the numbers of files done and of all files. Raises MissingPath, OptionError.
        """
        if not str(folder).strip():
            raise OptionError("name a folder of photos to look through")
        if not os.path.isdir(folder):
            raise MissingPath(f"{folder}: there is no such folder")
        selection = Selection()
        entries = list(list_entries([str(folder)], selection))
        selection.tell()
        # a broken link has no time; it is counted when it is read
        times = (os.stat(path).st_mtime_ns if os.path.exists(path) else 0 for path, _ in entries)
        key = os.path.realpath(folder), hash(tuple(zip(entries, times, strict=True)))
        if key not in self._galleries:
            gallery = self._embed(entries, on_progress)
            self._galleries = dict([*self._galleries.items(), (key, gallery)][-FOLDERS:])
        return self._galleries[key]

    def _embed(self, entries: list[Entry], on_progress: Callable[[int, int], object]) -> Gallery:
        faces: list[Sample] = []
        done = unread = 0
        for batch in self._embedder.batches(read_items(entries), all_branches=True):
            self._check_open()
            names = [os.path.basename(batch.rows.paths[row]) for row in batch.good]
            if batch.good:
                faces += samples_of(self._embedder, names, batch.pixels, batch.maps)
            unread += sum(error not in (None, NO_FACE) for error in batch.rows.errors)
            done += len(batch)
            on_progress(done, len(entries))
            if len(faces) > FOLDER_LIMIT:
                break
        return Gallery(faces[:FOLDER_LIMIT], unread, len(faces) > FOLDER_LIMIT)


def _load(model: str, **options: Any) -> FaceEmbedder:
    """An embedder that says what faces show, where the weights have the heads for it."""
    with suppress(OptionError):  # another wrong option is found below, too
        return AttributeEmbedder(model, **options)
    return FaceEmbedder(model, **options)


def similarities(faces: Sequence[Sample], others: Sequence[Sample], branch: str) -> np.ndarray:
    """Cosines `[N, M]` of the vectors of one branch."""
    return similarity(*(np.stack([face.vectors[branch] for face in some]) for some in (faces, others)))
