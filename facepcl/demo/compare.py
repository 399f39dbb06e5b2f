"""What the page of `facepcl demo` shows, computed: faces of photographs, how alike they are, their neighbours
in a folder, and one face drawn with another's pose."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facepcl.data.sources import Item, list_entries, read_items
from facepcl.data.workers import Prepared, Readers
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.embeddings import unit
from facepcl.embedding.encoder import MODEL
from facepcl.errors import ImageError, MissingPath, OptionError, WeightsError
from facepcl.images.face import NO_FACE
from facepcl.images.transform import Fit
from facepcl.models.factory import create_decoder
from facepcl.models.pose_swap import draw_swaps, swap_sheet

THUMBNAIL = 360  # pixels of the longer side of a photograph that is shown
FOLDER_LIMIT = 5000  # faces of a folder that are kept, 30 kB each
FOLDERS = 2  # that are kept, the last ones
SHOWN = Fit(THUMBNAIL, THUMBNAIL, THUMBNAIL, THUMBNAIL, "border")  # the whole photograph in a square
SWAP_SIDE = 96  # pixels of a face in the sheet of swaps: 64 are small on a page
BRANCHES = ("face", "pose")
CLOSED = "the page was closed"


class SeenFace(NamedTuple):
    """A face as the network sees it, uint8 `[S, S, 3]`, and its codes `[D]`."""

    name: str
    pixels: np.ndarray
    face: np.ndarray
    pose: np.ndarray


class SeenPhotograph(NamedTuple):
    """A photograph, made small; the boxes of its faces in it (none of a crop), and the faces."""

    name: str
    picture: Image.Image
    boxes: list[tuple[float, ...]]
    faces: list[SeenFace]


class Gallery(NamedTuple):
    """The faces of a folder, and how many of its pictures could not be read."""

    faces: list[SeenFace]
    unread: int
    cut_off: bool  # there are more faces than are kept


class Comparer:
    """Reads photographs, or face crops where `crops` is set, with one model; to be closed.

    Files are decoded in processes of their own, which a visitor's bad file may hang or crash. `model`: as for
    `FaceEmbedder`, with branches. Raises OptionError for one without, WeightsError without weights or
    detector, MissingExtra without OpenCV.
    """

    def __init__(self, model: str = MODEL, *, detector: str | Path | None = None, crops: bool = False):
        if crops and detector is not None:
            raise OptionError("crops need no detector: leave out --crops or --detector")
        self._embedder = FaceEmbedder(model, dtype="float32", align=not crops, detector=detector)
        if not self._embedder.has_branches:
            raise OptionError(f"the demo compares face and pose branch, and {model} has none")
        self.takes_crops = crops
        self._closed = threading.Event()
        self._galleries: dict[tuple[str, int], Gallery] = {}
        self.no_decoder = ""  # why no face can be drawn with another's pose
        try:
            self._decoder = create_decoder(model)
        except WeightsError as error:
            self.no_decoder = str(error)
        self._processes = ExitStack()
        readers = Readers(self._embedder.fit, 1, self._embedder.alignment), Readers(SHOWN, 1)
        self._faces, self._pictures = map(self._processes.enter_context, readers)

    def close(self) -> None:
        """End what is being computed, soon, with an OptionError there."""
        self._closed.set()
        self._processes.close()

    def _go_on(self) -> None:
        if self._closed.is_set():
            raise OptionError(CLOSED)

    def read(self, file: Path, limit: int) -> SeenPhotograph:
        """The `limit` most prominent faces of a photograph. Raises ImageError, also where there are none."""
        seen, crops = self._prepared(self._faces, file)
        if self.takes_crops:
            picture, boxes, crops = Image.fromarray(crops), [], crops[None]
        elif not seen.faces:
            raise ImageError(NO_FACE)
        else:
            whole, framed = self._prepared(self._pictures, file)
            picture, crops = _without_border(framed, whole.size), crops[:limit]
            scale = picture.width / whole.size[0]
            boxes = [tuple(scale * edge for edge in face.box) for face in seen.faces[:limit]]
        faces = [SeenFace(file.name, *row) for row in zip(crops, *self._codes(crops), strict=True)]
        return SeenPhotograph(file.name, picture, boxes, faces)

    def _prepared(self, readers: Readers, file: Path) -> tuple[Prepared, np.ndarray]:
        self._go_on()
        try:
            [one] = readers.submit([Item(str(file))]).result()
        except CancelledError:
            raise OptionError(CLOSED) from None
        if one.pixels is None:
            raise ImageError(one.error)
        return one, one.pixels

    def _codes(self, crops: np.ndarray) -> list[np.ndarray]:
        """The face and the pose codes of crops, `[K, D]` each."""
        maps = self._embedder.maps(crops, all_branches=True)
        return [self._embedder.vectors(maps, branch) for branch in BRANCHES]

    def gallery(
        self, folder: str | Path, on_progress: Callable[[int, int], object] = lambda done, total: None
    ) -> Gallery:
        """The faces of a folder's pictures; embedded once, as long as the files stay as they are.

        `on_progress` is told how many of how many files are done. Raises MissingPath, OptionError.
        """
        if not str(folder).strip():
            raise OptionError("name a folder of photographs to look through")
        if not os.path.isdir(folder):
            raise MissingPath(f"{folder}: there is no such folder")
        files = [entry.path for entry in list_entries([str(folder)])]
        key = os.path.realpath(folder), hash(tuple((file, _changed(file)) for file in files))
        if key not in self._galleries:
            gallery = self._embed(files, on_progress)
            self._galleries = dict([*self._galleries.items(), (key, gallery)][-FOLDERS:])
        return self._galleries[key]

    def _embed(self, files: list[str], on_progress: Callable[[int, int], object]) -> Gallery:
        faces: list[SeenFace] = []
        done = unread = 0
        for batch in self._embedder.batches(read_items(list_entries(files)), all_branches=True):
            self._go_on()
            names = [os.path.basename(batch.rows.paths[row]) for row in batch.good]
            if batch.good:
                codes = (self._embedder.vectors(batch.maps, branch) for branch in BRANCHES)
                faces += [SeenFace(*row) for row in zip(names, batch.pixels, *codes, strict=True)]
            unread += sum(error not in (None, NO_FACE) for error in batch.rows.errors)
            done += batch.images
            on_progress(done, len(files))
            if len(faces) > FOLDER_LIMIT:
                break
        return Gallery(faces[:FOLDER_LIMIT], unread, len(faces) > FOLDER_LIMIT)

    def swaps(self, faces: list[SeenFace]) -> Image.Image:
        """The sheet of every face under every pose. Raises WeightsError for weights without a decoder."""
        if self.no_decoder:
            raise WeightsError(self.no_decoder)
        face, pose = (np.stack([getattr(f, branch) for f in faces]) for branch in BRANCHES)
        rows = []
        for code in face:
            self._go_on()
            rows.append(draw_swaps(self._decoder, code[None], pose))
        return swap_sheet(np.stack([f.pixels for f in faces]), np.concatenate(rows), SWAP_SIDE)


def _without_border(framed: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The photograph of `size` that fills the longer side of a square."""
    width, height = (round(THUMBNAIL * side / max(size)) for side in size)
    left, top = (THUMBNAIL - width) // 2, (THUMBNAIL - height) // 2
    return Image.fromarray(framed[top : top + height, left : left + width])


def similarities(faces: list[SeenFace], others: list[SeenFace], branch: str) -> np.ndarray:
    """Cosines `[N, M]` of the codes of one branch."""
    one, other = (unit(np.stack([getattr(f, branch) for f in some])) for some in (faces, others))
    return one @ other.T


def _changed(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:  # a link to nowhere is counted when it is read
        return 0


def with_boxes(photograph: SeenPhotograph, first: int) -> Image.Image:
    """The photograph with its faces marked and numbered from `first` on."""
    picture = photograph.picture.copy()
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for number, (left, top, right, bottom) in enumerate(photograph.boxes, first):
        pen.rectangle((left, top, right, bottom), outline="white", width=4)
        pen.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline="teal", width=2)
        x, y = max(left, 0), max(top, 0)
        pen.rectangle((x, y, x + 12 + 9 * (number > 9), y + 18), fill="teal")
        pen.text((x + 2, y - 1), str(number), "white", font)
    return picture
