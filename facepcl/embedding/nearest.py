"""The nearest rows of each query, exactly and in order, out of blocks of rows of any number."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from threading import Lock, Semaphore
from typing import Any

import numpy as np
import torch

from facepcl.embedding.embeddings import NO_VECTORS, Embeddings, Match, compared_branch, unit
from facepcl.errors import OptionError
from facepcl.utils.cpus import cores
from facepcl.utils.torch_state import default_torch_state

# of the vectors of a block, and of its cosines with some queries: 2 MB, as caches hold
BLOCK_NUMBERS = 1 << 19
BELOW_ALL = -2.0  # cosines are -1 and more, up to rounding


def rows_per_block(dimension: int) -> int:
    """How many vectors are read and compared at once."""
    return max(64, BLOCK_NUMBERS // dimension)


class Nearest:
    """The `top` rows nearest to each of `queries` `[Q, D]` among those that were added so far, with a cosine
    of `least` or more. Of equal cosines the lower row number comes first, in whatever order rows are added.

    `own` gives the row that a query is of, by the query's number: it is not among its matches. Several
    threads may add rows; as many products run at once as torch leaves cores to. To be used within
    `default_torch_state`.
    """

    def __init__(
        self,
        queries: np.ndarray,
        top: int,
        least: float | None = None,
        own: Mapping[int, int] | None = None,
    ):
        self._queries, self._top = torch.from_numpy(unit(np.asarray(queries, np.float32))), top
        self._own = np.full(len(queries), -1)
        for query, row in (own or {}).items():
            self._own[query] = row
        self._needed = np.full(len(queries), BELOW_ALL if least is None else least, np.float32)
        self._cosines = np.full((len(queries), top), -np.inf, np.float32)
        self._rows = np.full((len(queries), top), -1, np.int64)
        self._rooms: list[torch.Tensor] = []  # for the cosines of a block, to be used again
        self._products, self._merges = Semaphore(max(1, cores() // torch.get_num_threads())), Lock()

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Compare with rows of these numbers `[B]`, which ascend, and vectors float32 `[B, D]`."""
        # numpy for what is short: torch's threads would wait for each other as long as it takes
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        if not (finite := np.isfinite(lengths)).all():  # of a damaged table
            rows, vectors, lengths = rows[finite], vectors[finite], lengths[finite]
        if not len(rows):
            return
        block, lengths = torch.from_numpy(vectors), np.maximum(lengths, 1e-12)  # as `unit` has it
        torch.get_num_threads()  # a new thread's products take all cores until it asks how many it may use
        at_once = max(1, BLOCK_NUMBERS // len(rows))
        for first in range(0, len(self._queries), at_once):
            queries = self._queries[first : first + at_once]
            with self._room(len(queries) * len(rows)) as room:
                with self._products:
                    torch.mm(queries, block.T, out=room.view(len(queries), len(rows)))
                cosines = room.view(len(queries), len(rows)).numpy()
                cosines /= lengths
                self._take(first, rows, cosines)

    @contextmanager
    def _room(self, count: int) -> Iterator[torch.Tensor]:
        """Memory for so many cosines."""
        try:
            room = self._rooms.pop()
        except IndexError:
            room = torch.empty(0)
        room = room if len(room) >= count else torch.empty(count)
        yield room[:count]
        self._rooms.append(room)

    def _take(self, first: int, rows: np.ndarray, cosines: np.ndarray) -> None:
        """Cosines `[Q, B]` of the queries from number `first` on."""
        own = self._own[first : first + len(cosines)]
        places = np.searchsorted(rows, own).clip(max=len(rows) - 1)
        is_there = rows[places] == own
        cosines[is_there, places[is_there]] = -np.inf
        enough = cosines.max(1) >= self._needed[first : first + len(cosines)]
        with self._merges:
            for place in np.flatnonzero(enough).tolist():
                self._merge(first + place, rows, cosines[place])

    def _merge(self, query: int, rows: np.ndarray, cosines: np.ndarray) -> None:
        new = np.flatnonzero(cosines >= self._needed[query])
        if len(new) > self._top:
            last = np.partition(cosines[new], -self._top)[-self._top]
            new = new[cosines[new] >= last]
        found = np.concatenate([self._cosines[query], cosines[new]])
        numbers = np.concatenate([self._rows[query], rows[new]])
        order = np.lexsort((numbers, -found))[: self._top]
        self._cosines[query], self._rows[query] = found[order], numbers[order]
        self._needed[query] = max(self._needed[query], found[order[-1]])

    def found(self, query: int) -> list[tuple[int, float]]:
        """Row numbers and cosines of one query's matches, nearest first."""
        there = self._rows[query] >= 0
        return list(zip(self._rows[query][there].tolist(), self._cosines[query][there].tolist(), strict=True))


def check_top(top: Any, name: str) -> None:
    """Raise OptionError for what is no number of matches."""
    if not isinstance(top, Integral) or isinstance(top, bool) or int(top) < 1:
        raise OptionError(f"{name} must be a whole number of at least 1, not {top!r:.40}")


def check_row(row: Any, count: int, where: str) -> int:
    """A row's number. Raises OptionError for what is none of `where`."""
    if not isinstance(row, Integral) or isinstance(row, bool):
        raise OptionError(f"a row is a whole number, not {row!r:.40}")
    if not 0 <= int(row) < count:
        raise OptionError(f"{where} has no row {row}: its {count:,} rows are numbered from 0")
    return int(row)


def nearest_in(table: Embeddings, query: Any, k: int) -> list[Match]:
    """As `Embeddings.nearest`."""
    check_top(k, "k")
    table = table.branch(compared_branch(table.meta, "this table"))
    if isinstance(query, Integral):
        row: int | None = check_row(query, len(table), "this table")
        if table.errors[query] is not None:
            raise OptionError(f"row {row} has no embedding ({table.errors[query]})")
        vector = table.vectors[row]
    else:
        row, vector = None, np.asarray(query, np.float32)
        if vector.shape != (width := table.vectors.shape[1:]):
            raise OptionError(
                f"the query is of the shape {list(vector.shape)}, and vectors are {list(width)}"
            )
        if not np.isfinite(vector).all():
            raise OptionError("the query is not finite")
    best = Nearest(vector[None], min(k, max(1, len(table))), own={} if row is None else {0: row})
    with default_torch_state():
        for rows, vectors in blocks_of(table):
            best.add(rows, vectors)
    return [match_of(table, place, place, cosine) for place, cosine in best.found(0)]


def blocks_of(table: Embeddings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows without an error as `Nearest.add` takes them."""
    good = np.flatnonzero([error is None for error in table.errors])
    if not (width := table.vectors.shape[1]):
        raise OptionError(NO_VECTORS)
    step = rows_per_block(width)
    for start in range(0, len(good), step):
        rows = good[start : start + step]
        yield rows, table.vectors[rows].astype(np.float32, copy=False)


def match_of(table: Embeddings, place: int, row: int, cosine: float) -> Match:
    """The match that stands at a `place` in `table`, under its number in the table that was searched;
    rounding takes cosines above 1."""
    return Match(row, min(1.0, cosine), table.paths[place], *table.face_of(place))
