"""Whole folders to embeddings: `embed`."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from facepcl.data.file_types import check_no_source
from facepcl.data.remote import is_url
from facepcl.data.sources import as_sources, is_table_of, list_entries
from facepcl.data.workers import check_workers
from facepcl.embedding.contact_sheet import QUERIES, check_queries, draw_sheet
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.encoder import BRANCH, MODEL, POOL
from facepcl.embedding.tables import (
    check_replaceable,
    check_table_folder,
    check_table_path,
    is_folder,
    read_table,
    tables_in,
)
from facepcl.embedding.writers import (
    Completion,
    FolderWriter,
    Summary,
    TableWriter,
    describe_codes,
    has_temporary_errors,
)
from facepcl.errors import OptionError, TableError
from facepcl.images.sheet import check_sheet
from facepcl.jobs.engine import run
from facepcl.jobs.state import Job, check_same
from facepcl.utils.launch import find_share, own_device, torchrun_share
from facepcl.utils.progress import Progress

_logger = logging.getLogger("facepcl")

COMMAND = "embed"


def embed(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | nn.Module = MODEL,
    branch: str = BRANCH,
    pool: str = POOL,
    flip: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool = False,
    resume: bool = False,
    on_error: str = "record",
    sheet: str | Path | None = None,
    queries: int | Sequence[str] = QUERIES,
    align: bool = False,
    one: bool = False,
    detector: str | Path | None = None,
    all_files: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = False,
) -> Summary:
    """Write the embeddings of images to a .parquet, .npz or .csv table, one row per image, in order.

    Args:
        source: Files, folders, globs, `.csv` manifests with a column `path`, `.tar` shards, also behind URLs
            that fsspec reads (`s3://`, `hf://`).
        out: The table. If it is a folder, one Parquet file is written per shard (docs/scaling.md).
        model: As for `FaceEmbedder`, like `branch`, `pool`, `flip`, `batch_size`, `device` and `dtype`.
        workers: Processes that decode; None is half of the cores, or all of them where faces are looked for
            or beside an accelerator; 0 decodes in this process.
        compile: Compile the network; pays on some machines and takes half a minute.
        resume: Continue an interrupted job from `OUT.parts`, with bit-identical output.
        on_error: `record` writes a row with the reason for an image that fails, `raise` raises ImageError.
        sheet: A .png or .jpg of some faces of the table beside their nearest neighbours by identity (by the
            face branch for weights without a head for it) and under the pose branch.
        queries: How many faces `sheet` shows with their neighbours, or the paths or file names of images
            whose faces it shows.
        align: The sources are photos: find and crop their faces (needs `facepcl[align]`). The table has one
            row per face, with box, landmarks and score.
        one: With `align`, only the most prominent face of each photo.
        detector: YuNet's ONNX file; None downloads it once from the Hub.
        all_files: Read all files of folders, globs and shards, whatever their names end in; otherwise those
            that are not named as images or shards are skipped, and counted in a warning.
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
    sources = as_sources(source)

    def load(device: str, dtype: str) -> FaceEmbedder:
        embedder = FaceEmbedder(
            model,
            branch,
            pool=pool,
            flip=flip,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            backend="compile" if compile else "auto",
            align=align,
            one=one,
            detector=detector,
        )
        if sheet is not None and not embedder.has_branches:
            raise OptionError(f"a sheet compares the face and pose branches, but {embedder.name} has none")
        return embedder

    check_drawings(sources, out, (sheet, check_sheet))
    if sheet is not None:
        check_queries(queries)
    summary, embedder = fill_table(
        COMMAND,
        sources,
        out,
        load,
        device=device,
        dtype=dtype,
        workers=workers,
        resume=resume,
        on_error=on_error,
        all_files=all_files,
        rank=rank,
        world_size=world_size,
        progress=progress,
    )
    summary.warn_of_photos()
    if sheet is not None:
        draw_sheet(read_table(summary.path, vectors=False), embedder, sources, sheet, workers, queries)
    return summary


def check_drawings(
    sources: Sequence[str],
    out: str | Path | None,
    *drawings: tuple[str | Path | None, Callable[[str | Path], None]],
) -> None:
    """Raise unless the sheet and page of a table `out`, as far as they have names, pass their checks."""
    for file, check in drawings:
        if file is None:
            continue
        if out is not None and is_folder(out):
            raise OptionError(f"{out} is a folder of tables, and {file} belongs to one: write a .parquet")
        check_no_source(file, sources)
        check(file)


def fill_table(
    command: str,
    sources: list[str],
    out: str | Path,
    load: Callable[[str, str], FaceEmbedder],
    *,
    device: str,
    dtype: str,
    workers: int | None,
    resume: bool,
    on_error: str,
    all_files: bool,
    rank: int | None,
    world_size: int | None,
    progress: bool,
    fps: float = 0.0,
    complete: Completion = iter,
) -> tuple[Summary, FaceEmbedder]:
    """Do the job of `embed`, with the embedder of `load(device, dtype)`; return what was done, and it.

    `fps`: of videos, which are left out with 0. `complete`: what is done to the blocks of a table, in order,
    when it is put together.
    """
    in_folder = is_folder(out)
    device = own_device(device) if in_folder else device
    _check_options(out, in_folder, on_error, workers, rank, world_size)
    check_no_source(out, sources)
    job = Job(Path(out), find_share(rank, world_size) if in_folder else None, all_files, fps, sources)
    with job.claimed():
        previous = job.previous(resume)
        if in_folder and not previous:
            previous = _finished_tables(job, resume)
        if not previous and not in_folder:
            check_replaceable(job.out)
        # raises for what is not there, before weights are loaded
        entries = None if previous else list_entries(sources, job.selection)
        known = previous["dtype"] if previous and dtype == "auto" else dtype  # timings differ
        embedder = load(device, known)
        summary = Summary(job.out)
        is_whole = resume and not in_folder and not previous and job.out.exists()
        if is_whole and _check_whole(job, summary, embedder.meta, dtype):
            job.release_when(lambda: True)  # after a kill while its state was removed
        else:
            wanted = describe_codes(embedder.meta) | job.describe_sources()
            begun = job.begin(command, wanted, entries)
            if dtype == "auto" and begun["dtype"] != wanted["dtype"]:  # another process began it
                embedder = load(device, begun["dtype"])
            job.check(command, begun, wanted | describe_codes(embedder.meta))
            kind = FolderWriter if in_folder else TableWriter
            writer = kind(job, summary, embedder.meta, on_error, complete)
            _embed_missing(writer, embedder, workers, progress)
    return summary, embedder


def _check_options(
    out: str | Path,
    in_folder: bool,
    on_error: str,
    workers: int | None,
    rank: int | None,
    world_size: int | None,
) -> None:
    """Raise for what cannot work, before anything is loaded."""
    if is_url(str(out)):
        raise OptionError(f"{out}: tables cannot be written to a URL; write a local file and copy it")
    if on_error not in ("record", "raise"):
        raise OptionError(f"on_error must be record or raise, not {on_error!r}")
    check_workers(workers)
    if in_folder:
        check_table_folder(Path(out))
        return
    if rank is not None or world_size is not None:
        raise OptionError(
            f"{out} is a single table, which one process writes; with --rank and --world-size, name a "
            "folder, as in -o embeddings/"
        )
    torchrun_share()  # raises for half of what a launcher sets, which pretraining refuses, too
    check_table_path(Path(out))


def _finished_tables(job: Job, resume: bool) -> dict[str, Any] | None:
    """The metadata of the tables in a folder without the state of a job: of a finished one, or of an earlier
    version's. Raises OptionError unless `resume`, or this is one of several processes of the same job."""
    tables = tables_in(job.out)
    for table in tables:
        with suppress(TableError):  # a damaged one is written again
            meta = read_table(table, vectors=False).meta
            # of several processes the last ones may come when all is done
            if resume or (job.share.world_size > 1 and meta.get("shards") == len(tables)):
                return meta
            break
    if tables and not resume:
        job.refuse_to_restart(f"{job.out} holds tables")
    return None


def _check_whole(job: Job, summary: Summary, meta: dict[str, Any], dtype: str) -> bool:
    """Count the rows of a table that is whole, unless images failed by their drive, which are tried again.
    Raises OptionError if it is not the one that is asked for."""
    table = read_table(summary.path, vectors=False)
    there, wanted = describe_codes(table.meta), describe_codes(meta)
    wanted |= {"dtype": there["dtype"]} if dtype == "auto" else {}
    check_same(summary.path, there, wanted, str(summary.path))
    entries = list_entries(job.sources, job.selection.again())
    if not is_table_of(table.paths, entries, summary.path, job.selection):
        raise OptionError(
            f"{summary.path} is complete, but has other images or other names; choose another name"
        )
    if has_temporary_errors(table):
        _logger.warning("%s has errors for files that exist now; it is written again", summary.path)
        return False
    _logger.info("%s is already complete; nothing was left to do", summary.path)
    summary.count(table)
    return True


def _embed_missing(writer: TableWriter, embedder: FaceEmbedder, workers: int | None, progress: bool) -> None:
    job, summary, meta = writer.job, writer.summary, embedder.meta
    in_folder = isinstance(writer, FolderWriter)
    if in_folder:
        summary.share = job.share
        if job.share.world_size > 1:
            _logger.info("%s (by %s)", job.share, job.share.source)
    _logger.info("embedding with %s on %s, %s", meta["model"], meta["device"], meta["dtype"])
    if writer.done:
        _logger.info("resuming: %s images are done", f"{writer.done:,}")
    total = None if in_folder else job.image_count()
    bar = Progress(total, "images", progress, "embedding", initial=writer.done)
    summary.embedded, summary.seconds = run(writer, embedder, workers, bar)
