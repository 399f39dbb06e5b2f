"""Whole folders to embeddings: `embed`."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from facepcl._progress import Progress
from facepcl.embedding import FaceEmbedder
from facepcl.encoder import BRANCH, MODEL, POOL
from facepcl.errors import ImageError, OptionError, TableError
from facepcl.faces import NO_FACE
from facepcl.machine import give_back_freed_memory
from facepcl.sheet import Sheet, check_path
from facepcl.sources import list_entries, read_items
from facepcl.tables import (
    ROWS_A_GROUP,
    Embeddings,
    check_table_path,
    describe_space,
    read_embeddings,
    write_table,
)
from facepcl.unfinished import Unfinished, check_resumable, unfinished

_logger = logging.getLogger("facepcl")

CROP_ASPECT, CROP_PIXELS = 4 / 3, 640 * 640  # beyond either an image is a photograph, not a face crop
REASONS = 5


@dataclass
class Summary:
    """What `embed` did: `total` rows, of which `failed` hold a reason and `faceless` are photographs without
    a face; `embedded` images were done now, in `seconds`, the others were there before."""

    path: Path
    space: str
    device: str
    total: int = 0
    failed: int = 0
    faceless: int = 0
    embedded: int = 0
    photographs: int = 0  # images that do not look like face crops
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()  # the first few

    def count(self, rows: Embeddings) -> None:
        """Take account of `rows`."""
        reasons = zip(rows.paths, rows.errors, strict=True)
        failed = [f"{path}: {error}" for path, error in reasons if error and error != NO_FACE]
        self.total += len(rows)
        self.faceless += rows.errors.count(NO_FACE)  # which is a finding, no error
        self.failed += len(failed)
        self.reasons = (*self.reasons, *failed)[:REASONS]
        if rows.faces is None:
            sizes = rows.sizes.tolist()
            self.photographs += sum(min(size) > 0 and not looks_like_crop(*size) for size in sizes)

    @property
    def images_per_second(self) -> float:
        return self.embedded / max(self.seconds, 1e-9)


def embed(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | nn.Module = MODEL,
    branch: str = BRANCH,
    pool: str = POOL,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool = False,
    resume: bool = False,
    on_error: str = "record",
    sheet: str | Path | None = None,
    align: bool = False,
    one: bool = False,
    detector: str | Path | None = None,
    progress: bool = False,
) -> Summary:
    """Write the embeddings of images to a .parquet, .npz or .csv table, a row an image, in order.

    `source`: files, folders, globs, `.csv` manifests with a column `path`, `.tar` shards. A bad image is a
    row with a reason (`on_error="record"`) or raises ImageError ("raise"). `workers`: processes that decode;
    None is half of the cores, or all of them beside an accelerator. What is done is kept in `OUT.parts`
    until the table is whole: after an interruption, the same call with `resume=True` goes on from there.
    `align`: the sources are photographs; their faces are found and cut out (needs `facepcl[align]`), a row a
    face, with its box, landmarks and score; `one`: only the most prominent face of each; `detector`: YuNet's
    ONNX file, None fetches it once from the Hub.
    `sheet` draws a PNG with the nearest neighbours of some faces under the face and under the pose branch.
    """
    _check(on_error, workers, sheet, Path(out))
    sources = [str(s) for s in ([source] if isinstance(source, (str, Path)) else source)]
    entries = list_entries(sources)
    with unfinished(Path(out)) as work:
        begun = _begun(work, resume)
        embedder = FaceEmbedder(
            model,
            branch,
            pool=pool,
            batch_size=batch_size,
            device=device,
            dtype=begun["dtype"] if begun and dtype == "auto" else dtype,  # a timing may differ today
            backend="compile" if compile else "auto",
            align=align,
            one=one,
            detector=detector,
        )
        summary = Summary(work.out, embedder.meta["space"], embedder.meta["device"])
        if resume and not begun and work.out.exists():
            work.clear()  # after a kill in the midst of clearing up
            return _already_there(summary, embedder.meta)
        drawing = Sheet(embedder) if sheet is not None else None
        job = _describe(embedder.meta, sources, sheet is not None)
        if begun:
            check_resumable(work, begun, job)
        else:
            work.begin(job, entries)
        try:
            _embed_rest(work, embedder, workers, on_error, drawing, progress, summary)
            give_back_freed_memory()
            _write_whole(work, summary)
        except BaseException:
            work.tell()
            raise
        if drawing and sheet is not None:
            drawing.draw(sheet, summary.total - summary.failed)
        work.clear()
    return summary


def _check(on_error: str, workers: int | None, sheet: str | Path | None, out: Path) -> None:
    """Raise for what cannot work, before anything is loaded."""
    if on_error not in ("record", "raise"):
        raise OptionError(f"on_error {on_error!r}: choose record or raise")
    if workers is not None and workers < 1:
        raise OptionError(f"workers {workers}: at least 1")
    if sheet is not None:
        check_path(Path(sheet))
    check_table_path(out)


def _describe(meta: dict[str, Any], sources: list[str], sheet: bool) -> dict[str, Any]:
    """What a job must have been begun with to go on."""
    folder = "" if all(Path(source).is_absolute() for source in sources) else str(Path.cwd())
    job = {"meta": meta, "dtype": meta["dtype"], "sources": sources, "folder": folder, "sheet": sheet}
    return {**job, "align": meta.get("align")}


def _begun(work: Unfinished, resume: bool) -> dict[str, Any] | None:
    """The job to go on with. Raises OptionError rather than throw away what another call has done."""
    begun = work.read_job()
    if not begun or resume:
        return begun
    if work.parts:
        raise OptionError(
            f"{work.folder} holds {work.rows_done:,} rows of an unfinished {work.out.name}: add --resume "
            "(resume=True) to go on, or delete that folder to begin again"
        )
    return None


def _already_there(summary: Summary, meta: dict[str, Any]) -> Summary:
    there = read_embeddings(summary.path, vectors=False)
    if there.meta.get("space") != meta["space"]:
        raise TableError(
            f"{summary.path} lies in another space, {describe_space(there.meta)}, than what is asked for, "
            f"{describe_space(meta)}; choose another name"
        )
    if there.meta.get("align") != meta.get("align"):
        raise TableError(
            f"{summary.path} holds {'faces' if 'align' in there.meta else 'images'} that were found "
            "in another way than what is asked for; choose another name"
        )
    _logger.info("%s is whole already; nothing was left to do", summary.path)
    summary.count(there)
    return summary


def _embed_rest(
    work: Unfinished,
    embedder: FaceEmbedder,
    workers: int | None,
    on_error: str,
    drawing: Sheet | None,
    progress: bool,
    summary: Summary,
) -> None:
    """Add the parts that are missing."""
    start, meta, number, failed = time.monotonic(), embedder.meta, len(work.parts), 0
    before, rows = work.images_done, work.rows_done
    _logger.info("embedding with %s on %s, %s", meta["model"], meta["device"], meta["dtype"])
    if number:
        _logger.info("resuming: %d parts, %s rows, are done", number, f"{rows:,}")
    if drawing:
        drawing.restore(work.samples())
    images = (work.read_job() or {}).get("images")
    waiting: list[Embeddings] = []
    done = before
    with Progress(images, "images", progress, "embedding", initial=before) as bar:
        items = read_items(work.entries(), before)
        for batch in embedder.batches(items, workers, drawing is not None):
            if on_error == "raise":
                _raise_first(batch.rows)
            if drawing:
                drawing.add(batch, rows)
            waiting.append(batch.rows)
            done, rows = done + batch.images, rows + len(batch.rows)
            failed += sum(error not in (None, NO_FACE) for error in batch.rows.errors)
            bar.update(batch.images, **({"failed": failed} if failed else {}))
            if done % ROWS_A_GROUP == 0:
                work.write(number, waiting, drawing.taken() if drawing else None)
                waiting, number = [], number + 1
        if waiting:
            work.write(number, waiting, drawing.taken() if drawing else None)
    summary.embedded, summary.seconds = done - before, time.monotonic() - start


def _raise_first(rows: Embeddings) -> None:
    for path, error in zip(rows.paths, rows.errors, strict=True):
        if error and error != NO_FACE:
            raise ImageError(f"{path}: {error}")


def _write_whole(work: Unfinished, summary: Summary) -> None:
    """The parts as one table; every row of them is counted on the way."""
    if not work.parts:
        raise OptionError(f"no images in {', '.join((work.read_job() or {})['sources'])}")

    def counted() -> Iterator[Embeddings]:
        for rows in work.read():
            summary.count(rows)
            yield rows

    write_table(work.out, work.meta, counted(), work.rows_done)
    if summary.photographs > (summary.total - summary.failed) / 2:
        _logger.warning(
            "most of these %d images look like photographs, not like face crops; the weights expect a crop: "
            "add --align (align=True)",
            summary.total,
        )


def looks_like_crop(width: int, height: int) -> bool:
    """Whether an image of this size may be a face crop: near square, and not of a camera's size."""
    return max(width, height) <= CROP_ASPECT * min(width, height) and width * height <= CROP_PIXELS
