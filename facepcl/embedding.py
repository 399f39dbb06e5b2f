"""Images to embeddings: `FaceEmbedder`."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from facepcl.encoder import Encoder
from facepcl.errors import ImageError, OptionError
from facepcl.images import decode_reduced, open_image, quiet_pillow, read_file
from facepcl.machine import cores
from facepcl.readers import Prepared, Readers
from facepcl.sources import Item, list_entries, read_items
from facepcl.tables import ROWS_A_GROUP, Embeddings, Row

Given = TypeVar("Given")
Made = TypeVar("Made")
BYTES_A_BATCH = 32 << 20  # of encoded images out of shards: a batch of large photographs ends earlier


@dataclass
class Batch:
    """Rows of a table; of the good ones among them the pixels uint8 `[G, H, W, 3]` and the branch maps."""

    rows: Embeddings
    good: list[int]
    pixels: np.ndarray
    maps: dict[str, torch.Tensor]


class FaceEmbedder(Encoder):
    """Face crops to vectors: `FaceEmbedder("pcl_facecycle", branch="face")([path, pil_image, array])`.

    `model`: a name with pretrained weights, as for `facepcl.create_model`, any timm model's name, or a
    module as it is. `branch`: shared, face, pose or concat; a model without branches has `shared` only.
    `pool`: code (the model's own), flatten, avg or 2x2. `dtype`: float32, bfloat16, or auto: bfloat16 where
    the processor has units for it and a timing finds it faster; int8 is for `pcl_facecycle` on a CPU, needs
    `facepcl[onnx]` and moves the codes a little (cosine 0.999). `backend`: auto, eager, trace, compile, or
    onnx (onnxruntime on the CPU, in float32, needs `facepcl[onnx]`). `size`: side of the input in pixels, 0 =
    the model's own.
    Raises WeightsError if there are no weights, OptionError for other wrong arguments.
    """

    def __call__(self, items: Iterable[Any]) -> np.ndarray:
        """Embeddings `[N, D]` float32 of paths, Pillow images, uint8 arrays or tensors, one row an input,
        in order.

        Raises ImageError or MissingPath that names the bad item.
        """
        if isinstance(items, (str, bytes, Path, Image.Image)):
            raise OptionError("give a list, as in embedder([image]); a folder is for embedder.stream(folder)")
        items, size = list(items), self.batch_size
        blocks = [np.empty((0, self.meta["dimension"]), np.float32)]
        with quiet_pillow():
            for start in range(0, len(items), size):
                batch = enumerate(items[start : start + size], start)
                pixels = np.stack([self._open(place, item) for place, item in batch])
                blocks.append(self.vectors(self.maps(pixels)))
        return np.concatenate(blocks)

    def _open(self, place: int, item: Any) -> np.ndarray:
        fit = self.fit
        try:
            if isinstance(item, (str, Path)):
                return fit(*decode_reduced(read_file(item), fit.needed))
            return fit(open_image(item))
        except ImageError as error:
            name = f" ({item})" if isinstance(item, (str, Path)) else ""
            raise ImageError(f"item {place}{name}: {error}") from error

    def stream(self, source: str | Path | Sequence[str | Path], workers: int | None = None) -> Iterator[Row]:
        """A row for each image of files, folders, globs, `.csv` manifests and `.tar` shards, in order, as
        they come.

        Memory does not grow. An image that cannot be embedded gives a row with the reason. `workers`: as
        for `facepcl.embed`.
        """
        sources = [source] if isinstance(source, (str, Path)) else source
        index = 0
        for batch in self.batches(read_items(list_entries(sources)), workers):
            yield from batch.rows.rows(index)
            index += len(batch.rows)

    def batches(
        self, items: Iterable[Item], workers: int | None = None, all_branches: bool = False
    ) -> Iterator[Batch]:
        """Batches in the order of `items`; never across a multiple of `ROWS_A_GROUP` items.

        `workers` processes decode ahead while the network runs; None: as many as this machine needs. On a
        CPU where torch uses fewer threads than there are cores, several batches run at once.
        """
        count = default_workers(self.device.type) if workers is None else workers
        at_once = self.batches_at_once
        self.make_ready(all_branches)
        with Readers(self.fit, count) as readers, ThreadPoolExecutor(at_once) as networks:
            chunks = _chunks(items, self.batch_size)
            prepared = _in_order(readers.submit, chunks, count + at_once)
            yield from _in_order(
                lambda some: networks.submit(self._embed, some, all_branches), prepared, at_once
            )

    def _embed(self, prepared: list[Prepared], all_branches: bool) -> Batch:
        images = [(i, p.pixels) for i, p in enumerate(prepared) if p.pixels is not None]
        good, pixels = [i for i, _ in images], np.stack([p for _, p in images]) if images else np.empty(0)
        vectors = np.full((len(prepared), self.meta["dimension"]), np.nan, np.float32)
        maps = self.maps(pixels, all_branches) if good else {}
        if good:
            vectors[good] = self.vectors(maps)
        sizes = np.array([p.size for p in prepared], np.int32)
        rows = Embeddings(vectors, [p.path for p in prepared], [p.error for p in prepared], sizes, self.meta)
        return Batch(rows, good, pixels, maps)


def default_workers(device: str) -> int:
    """Processes that decode: on a CPU the network takes most of the cores, elsewhere none."""
    return max(1, cores() // 2) if device == "cpu" else cores()


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Batches of items that depend on their numbers only, so that a resumed job makes the same ones."""
    chunk: list[Item] = []
    held = 0
    for number, item in enumerate(items, 1):
        chunk.append(item)
        held += len(item.data or b"")
        if len(chunk) == size or held >= BYTES_A_BATCH or number % ROWS_A_GROUP == 0:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _in_order(submit: Callable[[Given], Future[Made]], work: Iterable[Given], ahead: int) -> Iterator[Made]:
    """Results in the order of `work`, of which at most `ahead` pieces wait, so that memory does not grow."""
    waiting: deque[Future[Made]] = deque()
    try:
        for piece in work:
            waiting.append(submit(piece))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # after Ctrl-C nothing that waits is begun any more
            future.cancel()
