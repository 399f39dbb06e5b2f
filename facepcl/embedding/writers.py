"""Where the embeddings of a job go, and what is counted: one table, or a folder with a table a shard."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepcl.data.file_types import SHARD_SUFFIXES, Selection, without_query
from facepcl.data.sources import is_table_of, no_images
from facepcl.embedding.embedder import Batch
from facepcl.embedding.embeddings import ROWS_PER_GROUP, Embeddings, describe_space, joined
from facepcl.embedding.tables import read_table, tables_in, write_table
from facepcl.errors import ImageError, OptionError, TableError, shortened
from facepcl.images.face import NO_FACE
from facepcl.images.geometry import looks_like_crop
from facepcl.jobs.engine import Stream, Writer
from facepcl.jobs.state import Job, Shard
from facepcl.utils.files import remove_temporaries, writing
from facepcl.utils.launch import Share
from facepcl.utils.memory import give_back_freed_memory
from facepcl.utils.storage import is_temporary

_logger = logging.getLogger("facepcl")

# what is done to the blocks of a table, in order, when it is put together
Completion = Callable[[Iterator[Embeddings]], Iterator[Embeddings]]

REASONS = 5
LONGEST_NAME = 80


@dataclass
class Summary:
    """What `embed` did: `total` rows, of which `failed` hold a reason and `faceless` are photos without
    a face; `embedded` images were done now, in `seconds`, the others were there before. Of a folder of
    shards: `share` is this process's part, with so many `shards`; of all `listed` ones so many are `missing`.
    """

    path: Path
    total: int = 0
    failed: int = 0
    faceless: int = 0
    embedded: int = 0
    photographs: int = 0  # images that do not look like face crops
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()  # the first few
    share: Share | None = None
    shards: int = 0
    listed: int = 0
    missing: int = 0

    def count(self, rows: Embeddings) -> None:
        """Take account of `rows`."""
        reasons = zip(rows.paths, rows.errors, strict=True)
        failed = [f"{shortened(path)}: {error}" for path, error in reasons if error and error != NO_FACE]
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

    def warn_of_photos(self) -> None:
        """Say so if most images do not look like crops."""
        if self.photographs > (self.total - self.failed) / 2:
            _logger.warning(
                "most of these %d images look like photos, not like face crops; the weights expect a "
                "crop: add --align (align=True)",
                self.total,
            )


class TableWriter(Writer):
    """One table: its parts are tables in the job's folder until all are there."""

    part_images = ROWS_PER_GROUP
    resume_option = " with --resume"

    def __init__(
        self, job: Job, summary: Summary, meta: dict[str, Any], on_error: str, complete: Completion = iter
    ):
        self.job, self.summary, self.meta, self._complete = job, summary, meta, complete
        self._raises = on_error == "raise"
        self.counts = {"failed": 0}
        job.drop_parts(lambda part: has_temporary_errors(read_table(part, vectors=False)))
        parts = job.parts()  # all but the last are full
        last = read_table(parts[-1], vectors=False).images if parts else 0
        self.done = max(0, len(parts) - 1) * self.part_images + last

    def take(self, batch: Batch) -> Embeddings:
        for path, error in zip(batch.rows.paths, batch.rows.errors, strict=True):
            self.job.check_there(path, error)
            if error not in (None, NO_FACE):
                if self._raises:
                    raise ImageError(f"{shortened(path)}: {error}")
                self.counts["failed"] += 1
        return batch.rows

    def write(self, stream: Stream, parts: Iterator[list[Embeddings]]) -> None:
        for number, blocks in enumerate(parts, len(self.job.parts())):
            write_table(self.job.part(number, ".npz"), self.meta, blocks, sum(map(len, blocks)))
            self.done += sum(block.images for block in blocks)

    def kept(self) -> str:
        return f"{self.done:,} images are done and kept in {self.job.folder}" if self.done else ""

    def finish(self) -> None:
        """Write the parts as one table; its rows are counted on the way."""
        give_back_freed_memory()
        parts = self.job.parts()
        if not parts:
            raise no_images((self.job.read() or {})["sources"], self.job.selection)

        def counted() -> Iterator[Embeddings]:
            for rows in map(read_table, parts):
                self.summary.count(rows)
                yield rows

        meta, row_count = read_table(parts[-1], vectors=False).meta, self.done
        if "align" in meta:  # a row for each face
            row_count = sum(len(read_table(part, vectors=False)) for part in parts)
        remove_temporaries(self.job.out)
        write_table(self.job.out, meta, self._complete(counted()), row_count)


class FolderWriter(TableWriter):
    """A folder of tables, `NUMBER-NAME.parquet` for each shard; this process writes those of its share."""

    def __init__(
        self, job: Job, summary: Summary, meta: dict[str, Any], on_error: str, complete: Completion = iter
    ):
        super().__init__(job, summary, meta, on_error, complete)
        self._tables = [_table_name(shard, job.selection) for shard in job.shards()]
        self.meta = meta | {"shards": len(self._tables)}
        self._is_foreign = False  # whether the folder holds tables of something else

    def streams(self) -> Iterator[Stream]:
        listed = set(self._tables)
        others = [path for path in tables_in(self.job.out) if path.name not in listed]
        if others:
            self._refuse(f"{min(others)} is not of these sources")
        for shard in self.job.shards():
            if shard.number % self.job.share.world_size == self.job.share.rank and not self._is_done(shard):
                yield Stream(self._tables[shard.number], self.job.unchanged([shard]))

    def _refuse(self, reason: str) -> None:
        self._is_foreign = True
        raise OptionError(f"{reason}; choose another folder")

    def _is_done(self, shard: Shard) -> bool:
        """Whether the table of a shard is there and whole; its rows are counted."""
        path = self.job.out / self._tables[shard.number]
        remove_temporaries(path)
        if not path.exists():
            return False
        try:
            rows = read_table(path, vectors=False)
        except TableError as error:
            _logger.warning("%s; it is written again", error)
            return False
        for name, value in describe_codes(self.meta).items():
            if (there := describe_codes(rows.meta)[name]) != value:
                self._refuse(f"{path} was made with {name} {there}, not {value}")
        shards = rows.meta.get("shards", len(self._tables))  # an earlier version did not say
        is_same = is_table_of(rows.paths, shard.entries, path, self.job.selection)
        if shards != len(self._tables) or not is_same:
            self._refuse(f"{path} holds other images than its sources now")
        if has_temporary_errors(rows):
            _logger.warning("%s has errors for files that exist now; it is written again", path)
            return False
        self.summary.count(rows)
        self.summary.shards += 1
        return True

    def take(self, batch: Batch) -> Embeddings:
        self.summary.count(batch.rows)
        return super().take(batch)

    def write(self, stream: Stream, parts: Iterator[list[Embeddings]]) -> None:
        """Write a shard's table, which appears whole."""
        with writing(self.job.out):
            self.job.out.mkdir(exist_ok=True)
        try:
            write_table(self.job.out / stream.key, self.meta, self._complete(map(joined, parts)))
        except BaseException:
            with suppress(OSError):  # not empty
                self.job.out.rmdir()
            raise
        self.summary.shards += 1

    def _missing(self) -> int:
        return sum(not (self.job.out / name).exists() for name in self._tables)

    def kept(self) -> str:
        done = 0 if self._is_foreign else len(self._tables) - self._missing()
        return f"{done:,} shards are done and kept in {self.job.out}" if done else ""

    def is_whole(self) -> bool:
        return not self._missing()

    def finish(self) -> None:
        self.summary.listed, self.summary.missing = len(self._tables), self._missing()
        if not self.summary.missing:
            shutil.rmtree(self.job.out / ".facepcl", ignore_errors=True)  # the state of an earlier version


def has_temporary_errors(rows: Embeddings) -> bool:
    """Whether some of the images are worth another try."""
    return any(map(is_temporary, rows.errors, rows.paths))


def describe_codes(meta: dict[str, Any]) -> dict[str, Any]:
    """What the embeddings of a job have in common, for its description."""
    return {
        "space": describe_space(meta),
        **{key: meta.get(key) for key in ("align", "attributes", "fps", "dtype")},
    }


def _table_name(shard: Shard, selection: Selection) -> str:
    """The name of a shard's table; sorted, these names are the order of the listing."""
    (path, error, _), *others = shard.listed
    is_shard = not (others or error) and selection.is_shard(path)
    name = os.path.basename(without_query(path)) if is_shard else "files"
    for suffix in SHARD_SUFFIXES:
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:LONGEST_NAME]
    return f"{shard.number:08d}-{name}.parquet"
