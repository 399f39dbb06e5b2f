"""Whole folders to embeddings: `embed`."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from facepcl._progress import Progress
from facepcl.embedding import BRANCH, MODEL, POOL, FaceEmbedder
from facepcl.errors import ImageError, OptionError
from facepcl.sheet import Sheet, check_path
from facepcl.sources import list_files, read_items
from facepcl.tables import table_writer

_logger = logging.getLogger("facepcl")

CROP_ASPECT, CROP_PIXELS = 4 / 3, 640 * 640  # beyond either an image is a photograph, not a face crop


@dataclass(frozen=True)
class Summary:
    """What `embed` did."""

    path: Path
    total: int
    failed: int
    seconds: float
    device: str
    space: str
    reasons: tuple[str, ...]  # the first few

    @property
    def images_per_second(self) -> float:
        return self.total / max(self.seconds, 1e-9)


def embed(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | nn.Module = MODEL,
    branch: str = BRANCH,
    pool: str = POOL,
    batch_size: int = 32,
    workers: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    on_error: str = "record",
    sheet: str | Path | None = None,
    progress: bool = False,
) -> Summary:
    """Write the embeddings of files, folders and `.tar` shards to a .parquet, .npz or .csv table, a row an
    image.

    A bad image is a row with a reason (`on_error="record"`) or raises ImageError and leaves nothing
    ("raise"). `sheet` draws a PNG with the nearest neighbours of some faces under the face and under the
    pose branch.
    """
    if on_error not in ("record", "raise"):
        raise OptionError(f"on_error {on_error!r}: choose record or raise")
    if workers < 1:
        raise OptionError(f"workers {workers}: at least 1")
    if sheet is not None:
        check_path(Path(sheet))
    files = list_files([source] if isinstance(source, (str, Path)) else source)
    embedder = FaceEmbedder(model, branch, pool=pool, batch_size=batch_size, device=device, dtype=dtype)
    if sheet is not None and not embedder.has_branches:
        raise OptionError(f"a sheet compares face and pose branch, and {embedder.name} has none")
    drawing = Sheet() if sheet is not None else None
    _logger.info("embedding with %s on %s", embedder.name, embedder.device)
    start, total, failed, photographs = time.monotonic(), 0, 0, 0
    reasons: tuple[str, ...] = ()
    count = None if any(file.suffix == ".tar" for file in files) else len(files)
    with table_writer(out, embedder.meta) as write, Progress(count, "images", progress, "embedding") as bar:
        for rows, good, maps in embedder.blocks(read_items(files), workers, sheet is not None):
            for row in rows:
                if row.error and on_error == "raise":
                    raise ImageError(f"{row.path}: {row.error}")
                if row.error:
                    failed += 1
                    reasons = (*reasons, f"{row.path}: {row.error}")[:5]
                write(row)
            photographs += sum(not looks_like_crop(*p.size) for p in good if p.size)
            total += len(rows)
            bar.update(len(rows), **({"failed": failed} if failed else {}))
            if drawing:
                drawing.add([(p.path, p.image) for p in good if p.image is not None], maps)
    if photographs > (total - failed) / 2:
        _logger.warning(
            "most of these %d images look like photographs, not like face crops; the weights expect a crop",
            total,
        )
    if drawing and sheet is not None:
        drawing.draw(sheet)
    space = embedder.meta["space"]
    seconds = time.monotonic() - start
    return Summary(Path(out), total, failed, seconds, embedder.device.type, space, reasons)


def looks_like_crop(width: int, height: int) -> bool:
    """Whether an image of this size may be a face crop: near square, and not of a camera's size."""
    return max(width, height) <= CROP_ASPECT * min(width, height) and width * height <= CROP_PIXELS
