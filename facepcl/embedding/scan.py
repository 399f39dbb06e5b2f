"""Tables of any size as blocks of vectors, in constant memory, and some of their rows by number."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepcl.embedding.embeddings import Embeddings, columns_of
from facepcl.embedding.embeddings import describe_space as in_words
from facepcl.embedding.nearest import blocks_of, rows_per_block
from facepcl.embedding.parquet_table import describe_parquet, read_code, read_parquet
from facepcl.embedding.tables import check_whole, explained, read_embeddings, tables_in
from facepcl.errors import MissingPath, TableError
from facepcl.utils.cpus import cores
from facepcl.utils.futures import in_order, side_by_side

Block = tuple[np.ndarray, np.ndarray]  # numbers of rows [B] and their vectors [B, D]
Visitor = Callable[[np.ndarray, np.ndarray], object]
BLOCKS_PER_STREAM = 8  # a table is cut into stretches that are read side by side


class Place(NamedTuple):
    """One row: its number, and where it stands in the rows that were read."""

    row: int
    table: Embeddings
    place: int


class Memory:
    """A table that is in memory, as npz and csv are read."""

    def __init__(self, table: Embeddings, name: str):
        self.meta, self.name = table.meta, name
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def visit(self, branch: str, add: Visitor) -> Iterator[int]:
        """Have `add` take the vectors of one branch, without rows that have an error; how many, each time."""
        return _visited(blocks_of(self._table.branch(branch)), add)

    def places(self, rows: Iterable[int], vectors: bool = False) -> Iterator[Place]:
        """The rows of these numbers."""
        return (Place(row, self._table, row) for row in rows)


class _File(NamedTuple):
    path: Path
    start: int  # the number of its first row
    groups: list[int]  # rows of each row group

    @property
    def end(self) -> int:
        return self.start + sum(self.groups)


class Files:
    """Parquet tables that stay on the disk; their rows are numbered through. Raises TableError for a folder
    that lacks some, or has tables of several spaces."""

    def __init__(self, paths: list[Path], folder: Path | None = None):
        self.name = str(folder or paths[0])
        self._files: list[_File] = []
        for path in paths:
            with explained(path):
                meta, groups = describe_parquet(path)
            if not self._files:
                self.meta: dict[str, Any] = meta
            elif meta["space"] != self.meta["space"]:
                raise TableError(
                    f"{folder} holds tables of different spaces: {paths[0].name} of {in_words(self.meta)}, "
                    f"{path.name} of {in_words(meta)}; search them one by one"
                )
            self._files.append(_File(path, len(self), groups))
        if folder:
            check_whole(folder, self.meta, paths)

    def __len__(self) -> int:
        return self._files[-1].end if self._files else 0

    def visit(self, branch: str, add: Visitor) -> Iterator[int]:
        """As `Memory.visit`; several threads read, and call `add`, at once."""
        column = columns_of(self.meta)[branch]
        rows = rows_per_block(column.stop - column.start)
        streams = chain.from_iterable(_streams(file, branch, rows) for file in self._files)
        return side_by_side((_visited(stream, add) for stream in streams), cores())

    def places(self, rows: Iterable[int], vectors: bool = False) -> Iterator[Place]:
        """The rows of these numbers, in the order of the table; nothing else is kept in memory."""
        numbers = np.unique(np.fromiter(rows, np.int64))
        chosen = [numbers[slice(*np.searchsorted(numbers, (f.start, f.end)))] for f in self._files]
        parts = [(file, some) for file, some in zip(self._files, chosen, strict=True) if len(some)]
        with ThreadPoolExecutor(cores()) as threads:
            for found in in_order(lambda part: threads.submit(_places, *part, vectors), parts, cores()):
                yield from found


def _places(file: _File, rows: np.ndarray, vectors: bool) -> list[Place]:
    with explained(file.path):
        table = read_parquet(file.path, vectors, None, rows - file.start)
    return [Place(row, table, place) for place, row in enumerate(rows.tolist())]


def _visited(blocks: Iterator[Block], add: Visitor) -> Iterator[int]:
    for rows, vectors in blocks:
        add(rows, vectors)
        yield len(rows)


def _streams(file: _File, branch: str, rows: int) -> Iterator[Iterator[Block]]:
    """A table in stretches of whole row groups."""
    start, groups = file.start, list[int]()
    for group in range(len(file.groups)):
        groups.append(group)
        length = sum(file.groups[groups[0] : group + 1])
        if length >= BLOCKS_PER_STREAM * rows or group == len(file.groups) - 1:
            yield _blocks(file.path, branch, groups, rows, start)
            start, groups = start + length, []


def _blocks(path: Path, branch: str, groups: list[int], rows: int, start: int) -> Iterator[Block]:
    with explained(path):
        for numbers, vectors in read_code(path, branch, groups, rows):
            yield start + numbers, vectors


def open_table(table: str | Path | Embeddings) -> Memory | Files:
    """A table, or a folder of tables, to be read in blocks. Raises as `read_embeddings`."""
    if isinstance(table, Embeddings):
        return Memory(table, "this table")
    if isinstance(table, (str, Path)):
        if os.path.isdir(table):
            folder = Path(table)
            if not (paths := tables_in(folder)):
                raise MissingPath(f"{folder}: there are no tables in this folder")
            return Files(paths, folder)
        if Path(table).suffix == ".parquet" and os.path.isfile(table):
            return Files([Path(table)])
    return Memory(read_embeddings(table), str(table))
