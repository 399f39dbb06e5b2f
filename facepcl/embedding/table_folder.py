"""A folder of Parquet tables, one a shard, that several processes fill: what is to be done, what is."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.data.shards import Shard, cut, unchanged
from facepcl.data.sources import Entry, Item, read_items
from facepcl.embedding.embeddings import Embeddings, describe_space
from facepcl.embedding.tables import read_embeddings as read_table
from facepcl.embedding.tables import row_count
from facepcl.errors import MissingPath, OptionError, TableError, require
from facepcl.utils.files import atomic_first
from facepcl.utils.launch import Share
from facepcl.utils.lock import LOCK, locked

STATE, JOB = ".facepcl", "job.jsonl"  # readers of Parquet folders pass hidden names by
TABLE = re.compile(r"(\d{8})-.*\.parquet")
ALL = Share()


def is_data_set(out: str | Path) -> bool:
    """Whether `out` means a folder of tables: it is one, or its name has no ending as a table's has."""
    return str(out).endswith(("/", os.sep)) or Path(out).is_dir() or not Path(out).suffix


class DataSet:
    """The folder `out`: `NUMBER-NAME.parquet` for each shard that is done, and in `.facepcl` what the job is:
    `job.jsonl`, a line that says what is being done and one for each shard of the listing.

    Whoever comes first writes it, and all read it: processes share nothing but this folder.
    """

    def __init__(self, out: Path):
        self.out = out
        self.state = out / STATE

    def check(self) -> None:
        """Raise OptionError, MissingPath or MissingExtra if nothing can be written there."""
        if not self.out.absolute().parent.is_dir():
            raise MissingPath(f"{self.out.absolute().parent}: there is no such folder to write to")
        require("pyarrow.parquet", "parquet")
        if not self.out.exists():
            return
        if not self.out.is_dir():
            raise OptionError(f"{self.out} is a file; name a folder, or a table that ends in .parquet")
        if self.read_job():
            return
        if others := sorted(path.name for path in self.out.iterdir() if not path.name.startswith(".")):
            raise OptionError(
                f"{self.out} holds {others[0]} and no data set of embeddings; name a new folder"
            )

    def read_job(self) -> dict[str, Any] | None:
        """What the job was begun with, or None if it was not begun."""
        try:
            with (self.state / JOB).open(encoding="ascii") as file:
                job: dict[str, Any] = dict(json.loads(file.readline()))
                return job
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise TableError(f"{self.state / JOB} is damaged; delete {self.out} and begin anew") from error

    def begin(self, job: dict[str, Any], entries: Iterable[Entry]) -> None:
        """Write down what is to be done, unless another process has meanwhile."""
        with atomic_first(self.state / JOB) as temporary, temporary.open("w", encoding="ascii") as file:
            file.write(json.dumps(job) + "\n")
            for shard in cut(entries):
                file.write(shard.to_line() + "\n")

    def shards(self, share: Share = ALL) -> Iterator[Shard]:
        """The shards of the listing that belong to `share`, in order."""
        with (self.state / JOB).open(encoding="ascii") as file:
            file.readline()
            for number, line in enumerate(file):
                if number % share.world_size == share.rank:
                    yield Shard.from_line(number, line)

    def count(self) -> int:
        """How many shards the listing has."""
        with (self.state / JOB).open("rb") as file:
            return sum(1 for _ in file) - 1

    def path(self, shard: Shard) -> Path:
        """The table of `shard`, there or not."""
        return self.out / shard.table

    def done(self, share: Share = ALL) -> list[int]:
        """The numbers of the shards of `share` that are there."""
        found = (TABLE.fullmatch(name) for name in os.listdir(self.out))
        numbers = sorted({int(match[1]) for match in found if match})
        return [number for number in numbers if number % share.world_size == share.rank]

    def missing(self) -> int:
        """How many shards of the listing are not there."""
        return len({*range(self.count())}.difference(self.done()))

    def items(self, shard: Shard) -> Iterator[Item]:
        """The images of `shard`. Raises TableError for a tar that is not what was listed."""
        return read_items(unchanged(shard.listed, self.out, self.out))

    @contextmanager
    def claimed(self, share: Share) -> Iterator[Path]:
        """A folder to write tables in, for one process of each share. Raises OptionError for a second."""
        scratch = self._scratch(share)
        refusal = f"{self.out}: another process is at work on {share}; wait for it, or give another rank"
        try:
            with locked(scratch, refusal, lambda: False):
                for path in scratch.iterdir():  # what a kill has left
                    if path.name != LOCK:
                        path.unlink()
                yield scratch
        finally:
            if not self.read_job():  # nothing was begun: leave nothing, unless another process is at it
                with suppress(OSError):
                    self.state.rmdir()
                    self.out.rmdir()

    def _scratch(self, share: Share) -> Path:
        return self.state / f"rank-{share.rank}-of-{share.world_size}"

    def clear(self) -> None:
        """Remove what killed processes have left, once the data set is whole."""
        for scratch in self.state.glob("rank-*"):
            with suppress(OptionError), locked(scratch, "it is at work", lambda: False):
                pass


def read_embeddings(path: str | Path, vectors: bool = True) -> Embeddings:
    """Read a table that `facepcl.embed` wrote, or a folder of them as one.

    Args:
        path: The table or folder.
        vectors: False leaves the vectors on the disk; `.vectors` then has shape [N, 0].

    Returns:
        An `Embeddings` with `.vectors`, `.paths`, `.errors` and `.meta`.

    Raises:
        MissingPath: There is no such table.
        TableError: The file is not a table, or is incomplete.
        MissingExtra: A Parquet table needs `facepcl[parquet]`.
    """
    path = Path(path)
    if not path.suffix and not path.exists():
        raise MissingPath(f"{path}: there is no such folder of tables")
    return _read_folder(path, vectors) if path.is_dir() else read_table(path, vectors)


def _read_folder(folder: Path, with_vectors: bool) -> Embeddings:
    tables = sorted(folder.glob("*.parquet"))
    if not tables:
        raise MissingPath(f"{folder}: there are no tables in this folder")
    if (data_set := DataSet(folder)).read_job() and (missing := data_set.missing()):
        raise TableError(
            f"{folder} lacks {missing} of its {data_set.count()} shards; embed them with --resume, or read "
            "its tables one by one"
        )
    count = sum(map(row_count, tables))
    first = read_table(tables[0], vectors=False)
    # filled table by table: joined at the end they would be in memory twice
    vectors = np.empty((count, first.meta["dimension"] if with_vectors else 0), np.float32)
    paths: list[str] = []
    errors: list[str | None] = []
    sizes, faces = [], []
    for table in tables:
        rows = read_table(table, with_vectors)
        _check_same(folder, first, tables[0], rows, table)
        vectors[len(paths) : len(paths) + len(rows)] = rows.vectors
        paths += rows.paths
        errors += rows.errors
        sizes.append(rows.sizes)
        faces += [] if rows.faces is None else [rows.faces]
    return Embeddings(
        vectors, paths, errors, np.concatenate(sizes), first.meta, np.concatenate(faces) if faces else None
    )


def _check_same(folder: Path, first: Embeddings, one: Path, rows: Embeddings, other: Path) -> None:
    if rows.meta["space"] != first.meta["space"]:
        raise TableError(
            f"{folder} holds tables of different spaces: {one.name} of {describe_space(first.meta)}, "
            f"{other.name} of {describe_space(rows.meta)}; read them one by one"
        )
    if (rows.faces is None) != (first.faces is None):
        raise TableError(
            f"{folder}: {one.name} and {other.name} are not alike: one has a row for each face; read them "
            "one by one"
        )
