"""Shards to a folder of tables, by one process of several: `embed` with a folder as OUT."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepcl.data.shards import Shard
from facepcl.data.sources import Item, list_entries
from facepcl.embedding.embedder import Batch, FaceEmbedder, chunks
from facepcl.embedding.embeddings import ROWS_A_GROUP, Embeddings
from facepcl.embedding.resume import check_resumable, describe_job
from facepcl.embedding.summary import Summary, raise_first
from facepcl.embedding.table_folder import DataSet
from facepcl.embedding.tables import read_embeddings, write_table
from facepcl.errors import OptionError, TableError
from facepcl.utils.launch import Share
from facepcl.utils.progress import Progress

_logger = logging.getLogger("facepcl")


class Manner(NamedTuple):
    """How a job is done, as `embed` is told."""

    dtype: str
    workers: int | None
    on_error: str
    resume: bool
    progress: bool


def embed_share(
    sources: list[str], out: Path, share: Share, make: Callable[[str], FaceEmbedder], how: Manner
) -> Summary:
    """Embed those shards of `sources` that are `share`'s into the folder `out`, by what `make(dtype)`
    makes."""
    data_set = DataSet(out)
    data_set.check()
    begun = data_set.read_job()
    if begun and not how.resume:
        _check_unasked(data_set, begun, share)
    with data_set.claimed(share) as scratch:
        entries = iter(()) if begun else list_entries(sources)
        embedder = make(begun["dtype"] if begun and how.dtype == "auto" else how.dtype)
        job = describe_job(embedder.meta, sources, False)
        if not begun:
            data_set.begin({**job, "world_size": share.world_size}, entries)
            begun = data_set.read_job() or {}  # another process's, if that was first
            if not how.resume:
                _check_unasked(data_set, begun, share)
            if how.dtype == "auto" and begun["dtype"] != embedder.meta["dtype"]:
                embedder = make(begun["dtype"])
                job = describe_job(embedder.meta, sources, False)
        check_resumable(out, out, begun, job)
        work = _Work(data_set, share, embedder, scratch, how)
        try:
            work.run()
        except BaseException:
            told = "%s shards are done and kept in %s; the same command with --resume goes on from there"
            _logger.warning(told, f"{len(data_set.done()):,}", out)
            raise
    if not work.summary.missing:
        data_set.clear()
    work.summary.warn_of_photographs()
    return work.summary


def _check_unasked(data_set: DataSet, begun: dict[str, Any], share: Share) -> None:
    """Raise OptionError rather than go on unasked with what another call has begun; processes of one world
    size are one call."""
    if begun["world_size"] != share.world_size:
        raise OptionError(
            f"{data_set.out} was begun by {begun['world_size']} processes, not {share.world_size}: add "
            "--resume (resume=True) to share out what is missing anew"
        )
    if done := data_set.done(share):
        raise OptionError(
            f"{data_set.out} holds {len(done):,} shards of {share}: add --resume "
            "(resume=True) to go on, or delete that folder to begin again"
        )


class _Work:
    """One process's part of a job."""

    def __init__(self, data_set: DataSet, share: Share, embedder: FaceEmbedder, scratch: Path, how: Manner):
        self.data_set, self.share, self.embedder = data_set, share, embedder
        self.scratch, self.how = scratch, how
        self.summary = Summary(data_set.out, embedder.meta["space"], embedder.meta["device"], share=share)
        self.begun: deque[Shard] = deque()  # read from, and not yet written
        self.failed: tuple[Shard, Exception] | None = None  # the last one that was begun, and why

    def run(self) -> None:
        """Write the tables that are missing, in order; the images of the next shard are decoded meanwhile."""
        share, meta, start = self.share, self.embedder.meta, time.monotonic()
        told = f" (by {share.told_by})" if share.told_by else ""
        if share.world_size > 1:
            _logger.info("%s%s", share, told)
        _logger.info("embedding with %s on %s, %s", meta["model"], meta["device"], meta["dtype"])
        with (
            Progress(None, "images", self.how.progress, "embedding") as bar,
            closing(self.embedder.of_chunks(self._chunks(), self.how.workers)) as batches,
        ):
            for batch in batches:
                shard = self.begun[0]
                self._write(shard, self._rows(batch, batches, bar))
                self.begun.popleft()
        summary = self.summary
        summary.seconds = time.monotonic() - start
        summary.listed = self.data_set.count()
        summary.missing = self.data_set.missing()

    def _chunks(self) -> Iterator[list[Item]]:
        """The images of all shards that are missing, an empty batch at the end of each.

        They are read ahead: what fails then is raised in its turn, after the shards before it are written.
        """
        for shard in self.data_set.shards(self.share):
            if not self._is_there(shard):
                self.begun.append(shard)
                try:
                    yield from chunks(self.data_set.items(shard), self.embedder.chunk_size)
                except Exception as error:
                    self.failed = shard, error
                yield []
                if self.failed:
                    return

    def _is_there(self, shard: Shard) -> bool:
        """Whether the table of `shard` is there and whole; its rows are counted."""
        path = self.data_set.path(shard)
        if not path.exists():
            return False
        try:
            self.summary.count(read_embeddings(path, vectors=False))
        except TableError as error:
            _logger.warning("%s; it is made again", error)
            return False
        self.summary.shards += 1
        return True

    def _rows(self, batch: Batch, batches: Iterator[Batch], bar: Progress) -> Iterator[Embeddings]:
        """The rows of a shard whose first batch is `batch`, so many together as a table's groups have."""
        waiting: list[Embeddings] = []
        done = 0
        while batch.images:
            if self.how.on_error == "raise":
                raise_first(batch.rows)
            waiting.append(batch.rows)
            done += batch.images
            self.summary.count(batch.rows)
            self.summary.embedded += batch.images
            bar.update(batch.images, shards=self.summary.shards)
            if done % ROWS_A_GROUP == 0:
                yield _joined(waiting)
                waiting = []
            batch = next(batches)
        if self.failed and self.failed[0] is self.begun[0]:
            raise self.failed[1]
        if waiting:
            yield _joined(waiting)

    def _write(self, shard: Shard, rows: Iterator[Embeddings]) -> None:
        """The table of `shard`, whole under another name, then under its own."""
        path = self.data_set.path(shard)
        write_table(self.scratch / path.name, self.embedder.meta, rows)
        os.replace(self.scratch / path.name, path)
        self.summary.shards += 1


def _joined(blocks: list[Embeddings]) -> Embeddings:
    faces = [block.faces for block in blocks if block.faces is not None]
    return Embeddings(
        np.concatenate([block.vectors for block in blocks]),
        [path for block in blocks for path in block.paths],
        [error for block in blocks for error in block.errors],
        np.concatenate([block.sizes for block in blocks]),
        blocks[0].meta,
        np.concatenate(faces) if faces else None,
    )
