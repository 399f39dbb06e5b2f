"""Images to embeddings: `FaceEmbedder`."""

import logging
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from facepcl.data.file_types import ADVICE, Selection
from facepcl.data.remote import is_url
from facepcl.data.sources import Item, as_sources, list_entries, read_items
from facepcl.data.workers import Prepared, Readers, check_workers
from facepcl.embedding.embeddings import ROWS_PER_GROUP, Embeddings, Row
from facepcl.embedding.encoder import BRANCH, MODEL, POOL, Encoder
from facepcl.errors import ImageError, OptionError, shortened
from facepcl.images.cropper import Alignment, FaceCutter
from facepcl.images.decode import decode_reduced, open_image, read_file
from facepcl.images.detector import Detector, find_detector
from facepcl.images.face import NO_FACE, Face, face_columns
from facepcl.jobs.engine import chunks
from facepcl.utils.cpus import cores
from facepcl.utils.device import out_of_memory
from facepcl.utils.futures import in_order

_logger = logging.getLogger("facepcl")

# that are asked for together: each may take a tenth of a second, and has a face or two for the network
PHOTOS_PER_BATCH = 8
NOT_FINITE = "the model's output for it is not finite: the weights are damaged, or --dtype float32 is needed"


@dataclass
class Batch:
    """Rows of a table, of `image_count` images; of the good ones among them the pixels uint8 `[G, H, W, 3]`
    and the branch maps."""

    image_count: int
    rows: Embeddings
    good: list[int]
    pixels: np.ndarray
    maps: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return self.image_count


class FaceEmbedder(Encoder):
    """Compute embeddings of face crops, or of the faces in photos.

    Call it with a list of images, or use `stream` for any number of them. Several threads may use one
    embedder at once. A forked child process may use it on the CPU, with one thread.

    Args:
        model: A name with pretrained weights as for `facepcl.create_model`; the name, Hub repository or
            folder of any timm model; or a module.
        branch: `shared`, `face`, `pose`, `concat` (all three in one vector), `identity` (unit length, of
            weights with a head for it), or several as "face,pose". Models without branches have `shared`
            only.
        pool: `code` (the model's own), `flatten`, `avg` or `2x2`.
        normalize: Scale each embedding to unit length.
        flip: Average the code of each face with that of its mirror image, which takes twice the time and
            tells people apart slightly better (MODEL_CARD.md). The pose code is not averaged.
        size: Side of the input in pixels; 0 is the model's own.
        batch_size: Images in a pass of the network.
        device: `cpu`, `cuda`, `mps`, or `auto`.
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 where the processor has units for it and a timing
            finds it faster. `int8` is for `pcl_facecycle` on a CPU, needs `facepcl[onnx]` and changes the
            embeddings slightly (cosine 0.999).
        backend: `auto`, `eager`, `trace`, `compile`, or `onnx` (onnxruntime on the CPU in float32, needs
            `facepcl[onnx]`).
        align: Inputs are photos: find their faces and crop them (needs `facepcl[align]`). `stream` gives a
            row for each face; a call gives the most prominent face of each photo.
        one: With `align`, only the most prominent face of each photo in `stream`, too.
        detector: YuNet's ONNX file; None downloads it once from the Hub.

    Raises:
        WeightsError: There are no weights or no detector.
        OptionError: Another argument is wrong.

    Example:
        >>> embedder = facepcl.FaceEmbedder("pcl_facecycle", branch="face")
        >>> vectors = embedder(["face.jpg", pil_image, uint8_array])  # float32 [3, 2048]
    """

    def __init__(
        self,
        model: str | nn.Module = MODEL,
        branch: str = BRANCH,
        *,
        pool: str = POOL,
        normalize: bool = False,
        flip: bool = False,
        size: int = 0,
        batch_size: int = 64,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        align: bool = False,
        one: bool = False,
        detector: str | Path | None = None,
    ):
        if not align and (one or detector is not None):
            raise OptionError("one and detector are for photos: add --align (align=True)")
        self.alignment: Alignment | None = None
        if align:
            file = find_detector(detector)
            Detector(file)  # raises before the weights are loaded
            self.alignment = Alignment(str(file), one=one)
        super().__init__(model, branch, pool, normalize, flip, size, batch_size, device, dtype, backend)
        if self.alignment:
            # Not a part of `space`: crops that `facepcl align` wrote are embedded without it, and so are the
            # user's own of that kind; all of them are to compare.
            self.meta["align"] = self.alignment.describe()
        self._most: int | None = None  # images that the device's memory takes at once, once it ran out
        self._out_of_memory = Lock()

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies and other processes, which trace the network again."""
        left = {"_out_of_memory", "_making", "_process", "_cutter", "_cutter_of_one"}
        return {name: value for name, value in self.__dict__.items() if name not in left} | {"_runs": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _out_of_memory=Lock(), _making=Lock(), _process=os.getpid())

    def __call__(self, items: Iterable[Any]) -> np.ndarray:
        """Return embeddings `[N, D]` float32 of paths, Pillow images, uint8 arrays or tensors, one row each,
        in order.

        Raises ImageError or MissingPath that names the bad item, OptionError if not even half a batch fits
        into the device's memory.
        """
        if isinstance(items, (str, bytes, Path, Image.Image)):
            raise OptionError("give a list, as in embedder([image]); a folder is for embedder.stream(folder)")
        items, size = list(items), self.batch_size
        blocks = [np.empty((0, self.meta["dimension"]), np.float32)]
        for start in range(0, len(items), size):
            batch = enumerate(items[start : start + size], start)
            pixels = np.stack([self._open(place, item) for place, item in batch])
            blocks.append(self.vectors(self._maps_that_fit(pixels)))
            if not (finite := np.isfinite(blocks[-1]).all(1)).all():
                raise ImageError(f"item {start + int(finite.argmin())}: {NOT_FINITE}")
        return np.concatenate(blocks)

    def _open(self, place: int, item: Any) -> np.ndarray:
        """A crop, or that of the most prominent face of a photo."""
        with named_in_errors(place, item):
            if not self.alignment:
                return self._crop(item)
            _, crops = self._faces(item, self._cutter_of_one)
            if not len(crops):
                raise ImageError(NO_FACE)
            return crops[0]

    @cached_property
    def _cutter_of_one(self) -> FaceCutter:
        assert self.alignment
        return FaceCutter(replace(self.alignment, one=True), self.transform)

    def _crop(self, item: Any) -> np.ndarray:
        item = _read(item) if isinstance(item, (str, os.PathLike)) else item
        if isinstance(item, bytes):
            return self.transform(*decode_reduced(item, self.transform.needed))
        return self.transform(open_image(item))

    def _faces(self, item: Any, cutter: FaceCutter) -> tuple[list[Face], np.ndarray]:
        """The faces of a photo and their crops."""
        item = _read(item) if isinstance(item, (str, os.PathLike)) else item
        if isinstance(item, bytes):
            return cutter.of_file(item)[1:]
        return cutter.of_image(open_image(item))

    def stream(
        self,
        source: str | Path | Sequence[str | Path],
        workers: int | None = None,
        all_files: bool = False,
    ) -> Iterator[Row]:
        """Yield a row for each image, or each face, in order and in constant memory.

        Args:
            source: Files, folders, globs, `.csv` manifests with a column `path`, `.tar` shards.
            workers: Processes that decode; as for `facepcl.embed`, like `all_files`. 0 decodes in this
                process, which a damaged file may then hang or crash.

        Yields:
            Rows with `path`, `vector` and `error`, which is the reason why an image cannot be embedded.
        """
        index, selection = 0, Selection(all_files)
        items = read_items(list_entries(as_sources(source), selection), selection=selection)
        for batch in self.batches(items, workers):
            yield from batch.rows.rows(index)
            index += len(batch.rows)
        selection.tell(ADVICE)

    def batches(
        self, items: Iterable[Item], workers: int | None = None, all_branches: bool = False
    ) -> Iterator[Batch]:
        """Batches in the order of `items`; never across a multiple of `ROWS_PER_GROUP` items.

        `workers` processes decode ahead while the network runs; None: as many as this machine needs. On a
        CPU where torch uses fewer threads than there are cores, several batches run at once.
        """
        yield from self.of_chunks(chunks(items, self.chunk_size, ROWS_PER_GROUP), workers, all_branches)

    @property
    def chunk_size(self) -> int:
        """How many images are asked for together."""
        return PHOTOS_PER_BATCH if self.alignment else self.batch_size

    def of_chunks(
        self, pieces: Iterable[list[Item]], workers: int | None = None, all_branches: bool = False
    ) -> Generator[Batch, None, None]:
        """A batch for each of `pieces`, in order, also for an empty one."""
        # the network takes most of the cores on a CPU and none elsewhere; finding faces takes longer than it
        is_half = self.device.type == "cpu" and not self.alignment
        default = max(1, cores() // 2) if is_half else cores()
        count = default if workers is None else workers
        check_workers(workers)
        at_once = self.batches_at_once
        self.make_ready(all_branches)
        with (
            Readers(self.transform, count, self.alignment) as readers,
            ThreadPoolExecutor(at_once) as networks,
        ):
            prepared = in_order(readers.submit, pieces, count + at_once)
            yield from in_order(
                lambda some: networks.submit(self._embed, some, all_branches), prepared, at_once
            )

    def _embed(self, prepared: list[Prepared], all_branches: bool) -> Batch:
        shown, faces = prepared, None
        if self.alignment:
            shown, faces_shown, numbers = _by_face(prepared)
            faces = face_columns(faces_shown, numbers)
        images = [(i, p.pixels) for i, p in enumerate(shown) if p.pixels is not None]
        good, pixels = [i for i, _ in images], np.stack([p for _, p in images]) if images else np.empty(0)
        errors = [p.error for p in shown]
        vectors = np.full((len(shown), self.meta["dimension"]), np.nan, np.float32)
        maps = self._maps_that_fit(pixels, all_branches) if good else {}
        if good:
            codes = self.vectors(maps)
            if not (finite := np.isfinite(codes).all(1)).all():
                for i in np.flatnonzero(~finite):
                    errors[good[i]] = NOT_FINITE
                good, pixels, codes = [good[i] for i in np.flatnonzero(finite)], pixels[finite], codes[finite]
                maps = {name: of_branch[torch.from_numpy(finite)] for name, of_branch in maps.items()}
            vectors[good] = codes
        sizes = np.array([p.size for p in shown], np.int32).reshape(-1, 2)
        paths = [p.path for p in shown]
        rows = Embeddings(vectors, paths, errors, sizes, self.meta, faces)
        rows.attributes = self._attributes(rows, good, maps)
        return Batch(len(prepared), rows, good, pixels, maps)

    def _attributes(
        self, rows: Embeddings, good: list[int], maps: dict[str, torch.Tensor]
    ) -> np.ndarray | None:
        """The columns `meta["attributes"]` of rows, of the `good` ones by their maps; here there are none."""
        return None

    def _maps_that_fit(self, pixels: np.ndarray, all_branches: bool = False) -> dict[str, torch.Tensor]:
        """`maps`, of a crowd's faces in several batches, none larger than `batch_size`; if the device runs
        out of memory, once more by half of that."""
        size = min(self._most or self.batch_size, len(pixels))
        try:
            return self._maps_in_batches(pixels, size, all_branches)
        except torch.OutOfMemoryError as error:
            reason = str(error).split(". ", 1)[0]
        half = self._halved(size, reason)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # pieces of the large batch's size fit no other
        try:
            return self._maps_in_batches(pixels, half, all_branches)
        except torch.OutOfMemoryError as error:
            raise self._no_room(half) from error

    def _maps_in_batches(self, pixels: np.ndarray, size: int, all_branches: bool) -> dict[str, torch.Tensor]:
        with out_of_memory():
            blocks = [self.maps(pixels[i : i + size], all_branches) for i in range(0, len(pixels), size)]
        if len(blocks) == 1:
            return blocks[0]
        return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}

    def _halved(self, size: int, reason: str) -> int:
        """The batch that is left to try when one of `size` did not fit; halved once, with one warning."""
        with self._out_of_memory:
            if self._most is None and size > 1:
                self._most = size // 2
                _logger.warning(
                    "%s; going on with batches of %d: add --batch-size %d to begin with them",
                    reason,
                    self._most,
                    self._most,
                )
            if self._most is None or self._most >= size:
                raise self._no_room(size)
            return self._most  # maybe halved by another thread meanwhile

    def _no_room(self, size: int) -> OptionError:
        return OptionError(
            f"a batch of {size} does not fit into the memory of {self.device.type}; use a smaller "
            "--batch-size (batch_size) or --device cpu"
        )


@contextmanager
def named_in_errors(place: int, item: Any) -> Iterator[None]:
    """Say of which item an ImageError is."""
    try:
        yield
    except ImageError as error:
        name = f" ({shortened(item)})" if isinstance(item, (str, Path)) else ""
        raise ImageError(f"item {place}{name}: {error}") from error


def _read(path: str | os.PathLike) -> bytes:
    """The bytes of a file. Raises ImageError, MissingPath or RemoteError."""
    if isinstance(path, str) and is_url(path):
        raise ImageError("a URL is not opened here; use embedder.stream([url]), or give the bytes behind it")
    if isinstance(path, str) and path.startswith("data:"):
        raise ImageError("a data: URL is not decoded here; give base64.b64decode(text.partition(',')[2])")
    return read_file(os.fspath(path))


def _by_face(prepared: list[Prepared]) -> tuple[list[Prepared], list[Face | None], list[int]]:
    """Photos as one row a face, or one that says why there is none; the faces, and their numbers."""
    rows: list[Prepared] = []
    faces: list[Face | None] = []
    numbers: list[int] = []
    for one in prepared:
        if one.faces and one.pixels is not None:
            rows += [Prepared(one.path, pixels, one.size) for pixels in one.pixels]
            faces += one.faces
            numbers += range(len(one.faces))
        else:
            rows.append(Prepared(one.path, None, one.size, one.error or NO_FACE))
            faces.append(None)
            numbers.append(0)
    return rows, faces, numbers
