"""Whole folders to embeddings: `embed`."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from facepcl.alignment.contact_sheet import check_sheet
from facepcl.data.remote import is_url
from facepcl.data.sources import Entry, is_table_of, list_entries, read_items
from facepcl.embedding.contact_sheet import Sheet
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.embeddings import ROWS_A_GROUP, Embeddings, describe_space
from facepcl.embedding.encoder import BRANCH, MODEL, POOL
from facepcl.embedding.resume import Unfinished, check_resumable, describe_job, unfinished
from facepcl.embedding.sharded_job import Manner, embed_share
from facepcl.embedding.summary import Summary, raise_first
from facepcl.embedding.table_folder import is_data_set
from facepcl.embedding.tables import check_table_path, read_embeddings, write_table
from facepcl.errors import OptionError, TableError
from facepcl.images.face import NO_FACE
from facepcl.utils.launch import find_share, own_device
from facepcl.utils.memory import give_back_freed_memory
from facepcl.utils.progress import Progress

_logger = logging.getLogger("facepcl")


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
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = False,
) -> Summary:
    """Write the embeddings of images to a .parquet, .npz or .csv table, one row per image, in order.

    Args:
        source: Files, folders, globs, `.csv` manifests with a column `path`, `.tar` shards, also behind URLs
            that fsspec reads (`s3://`, `hf://`).
        out: The table. If it is a folder, one Parquet file is written per shard (docs/scaling.md).
        model: As for `FaceEmbedder`, like `branch`, `pool`, `batch_size`, `device` and `dtype`.
        workers: Processes that decode; None is half of the cores, or all of them beside an accelerator.
        compile: Compile the network; pays on some machines and takes half a minute.
        resume: Continue an interrupted job from `OUT.parts`, with bit-identical output.
        on_error: `record` writes a row with the reason for an image that fails, `raise` raises ImageError.
        sheet: A PNG of some faces beside their nearest neighbours under the face and the pose branch.
        align: The sources are photos: find and crop their faces (needs `facepcl[align]`). The table has one
            row per face, with box, landmarks and score.
        one: With `align`, only the most prominent face of each photo.
        detector: YuNet's ONNX file; None downloads it once from the Hub.
        rank: Which share of the shards this process embeds, of `world_size`; None takes both from torchrun or
            SLURM.
        world_size: The number of processes that fill the folder `out`.
        progress: Show a progress bar.

    Returns:
        A summary: path, counts of images and errors, seconds.

    Raises:
        OptionError: An argument is wrong, or `resume` would mix weights, branches or sources.
        MissingPath: A source does not exist.
        WeightsError: There are no weights or no detector.
    """
    if is_url(str(out)):
        raise OptionError(f"{out}: tables are written to the file system; copy them there, or mount it")
    _check(on_error, workers, sheet)
    sources = [str(s) for s in ([source] if isinstance(source, (str, Path)) else source)]
    in_shards = is_data_set(out)

    def make(dtype: str) -> FaceEmbedder:
        return FaceEmbedder(
            model,
            branch,
            pool=pool,
            batch_size=batch_size,
            device=own_device(device) if in_shards else device,
            dtype=dtype,
            backend="compile" if compile else "auto",
            align=align,
            one=one,
            detector=detector,
        )

    how = Manner(dtype, workers, on_error, resume, progress)
    if in_shards:
        if sheet is not None:
            raise OptionError(f"{out} is a folder of tables, and a sheet belongs to one: leave --sheet out")
        return embed_share(sources, Path(out), find_share(rank, world_size), make, how)
    if rank is not None or world_size is not None:
        raise OptionError(
            f"{out} is one table, which one process writes; --rank and --world-size fill a folder, as in "
            "-o embeddings/"
        )
    return _embed_table(sources, Path(out), make, how, sheet)


def _embed_table(
    sources: list[str],
    out: Path,
    make: Callable[[str], FaceEmbedder],
    how: Manner,
    sheet: str | Path | None,
) -> Summary:
    """Embed `sources` into the one table `out`."""
    check_table_path(out)
    entries = list_entries(sources)
    with unfinished(out) as work:
        begun = _begun(work, how.resume)
        embedder = make(begun["dtype"] if begun and how.dtype == "auto" else how.dtype)  # timings differ
        summary = Summary(work.out, embedder.meta["space"], embedder.meta["device"])
        if how.resume and not begun and work.out.exists():
            work.clear()  # after a kill in the midst of clearing up
            if sheet is not None and not Path(sheet).exists():
                raise OptionError(f"{out} is whole, and {sheet} is drawn while it is made; delete {out}")
            return _already_there(summary, embedder.meta, entries)
        drawing = Sheet(embedder) if sheet is not None else None
        job = describe_job(embedder.meta, sources, sheet is not None)
        if begun:
            check_resumable(work.out, work.folder, begun, job)
        else:
            work.begin(job, entries)
        try:
            _embed_rest(work, embedder, how, drawing, summary)
            give_back_freed_memory()
            _write_whole(work, summary)
        except BaseException:
            work.tell()
            raise
        if drawing and sheet is not None:
            drawing.draw(sheet, summary.total - summary.failed)
        work.clear()
    return summary


def _check(on_error: str, workers: int | None, sheet: str | Path | None) -> None:
    """Raise for what cannot work, before anything is loaded."""
    if on_error not in ("record", "raise"):
        raise OptionError(f"on_error {on_error!r}: choose record or raise")
    if workers is not None and workers < 1:
        raise OptionError(f"workers {workers}: at least 1")
    if sheet is not None:
        check_sheet(Path(sheet))


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


def _already_there(summary: Summary, meta: dict[str, Any], entries: Iterator[Entry]) -> Summary:
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
    if not is_table_of(there.paths, entries):
        raise OptionError(f"{summary.path} is whole, and of other images than these; choose another name")
    _logger.info("%s is whole already; nothing was left to do", summary.path)
    summary.count(there)
    return summary


def _embed_rest(
    work: Unfinished,
    embedder: FaceEmbedder,
    how: Manner,
    drawing: Sheet | None,
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
    with Progress(images, "images", how.progress, "embedding", initial=before) as bar:
        items = read_items(work.entries(), before)
        for batch in embedder.batches(items, how.workers, drawing is not None):
            if how.on_error == "raise":
                raise_first(batch.rows)
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


def _write_whole(work: Unfinished, summary: Summary) -> None:
    """The parts as one table; every row of them is counted on the way."""
    if not work.parts:
        raise OptionError(f"no images in {', '.join((work.read_job() or {})['sources'])}")

    def counted() -> Iterator[Embeddings]:
        for rows in work.read():
            summary.count(rows)
            yield rows

    write_table(work.out, work.meta, counted(), work.rows_done)
    summary.warn_of_photographs()
