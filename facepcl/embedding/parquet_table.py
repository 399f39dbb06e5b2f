"""Embeddings as Parquet."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.data.sources import printable
from facepcl.embedding.embeddings import (
    MOST_LIKELY,
    ROWS_PER_GROUP,
    Embeddings,
    find_meta,
    meta_of_branch,
    most_likely,
    named_columns,
    number_columns,
)
from facepcl.errors import TableError, require

META_KEY = "facepcl"
COUNTED = ("face", "track")  # columns of whole numbers
BUFFER = 1 << 20  # bytes of a column that are read at once
CODE = "embedding"  # the column; of several branches each has its own, with its name behind this
NO_CODE = "the table holds no embedding of it"


def write_parquet(path: Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int | None) -> None:
    """Write `blocks`, one at a time."""
    parquet = require("pyarrow.parquet", "parquet")
    schema, start = _schema(meta), 0
    # the numbers of vectors neither repeat nor compress, so trying to would only cost time
    packing = dict.fromkeys(schema.names, "snappy") | {
        f"{name}.list.element": "none" for name in _codes(meta)
    }
    # pyarrow takes no path that is not UTF-8
    with (
        path.open("wb") as to,
        parquet.ParquetWriter(to, schema, use_dictionary=["error", "space"], compression=packing) as file,
    ):
        for block in blocks:
            file.write_table(to_arrow(meta, block, np.arange(start, start + len(block))))
            start += len(block)


def to_arrow(meta: dict[str, Any], block: Embeddings, index: np.ndarray) -> Any:
    """`block` as a pyarrow table with the columns and metadata of a Parquet file; `index` `[N]`: numbers of
    its rows."""
    pa, schema = require("pyarrow", "parquet"), _schema(meta)
    good = np.array([error is None for error in block.errors], bool)
    vectors = block.vectors if good.all() else block.vectors[good]
    columns = [
        pa.array(map(printable, block.paths), pa.string()),
        pa.array(index, pa.int64()),
        pa.array(map(printable, block.errors), pa.string()),
        *(pa.array(side, pa.int32(), mask=~good) for side in block.sizes.T),
        *(_number_array(pa, v, schema.field(n).type) for n, v in _number_columns(meta, block)),
        *([pa.array(most_likely(block), pa.string())] if "attributes" in meta else []),
        pa.array([meta.get("space")] * len(block), pa.string()),
        *(_list_array(pa, vectors[:, place], good) for place in _codes(meta).values()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _codes(meta: dict[str, Any]) -> dict[str, slice]:
    return named_columns(meta, CODE, f"{CODE}_")


def _schema(meta: dict[str, Any]) -> Any:
    pa = require("pyarrow", "parquet")
    fields = [("path", pa.string()), ("index", pa.int64()), ("error", pa.string())]
    fields += [("width", pa.int32()), ("height", pa.int32())]
    for name in chain(*number_columns(meta).values()):
        fields += [(name, pa.int32() if name in COUNTED else pa.float32())]
    fields += [(MOST_LIKELY, pa.string())] if "attributes" in meta else []
    fields += [("space", pa.string())]  # of each row, too: programs that join tables lose the metadata
    # not fixed_size_list: with nulls, several releases of pyarrow fail to write or read it
    fields += [(name, pa.list_(pa.float32())) for name in _codes(meta)]
    return pa.schema(fields, metadata={META_KEY: json.dumps(meta)})


def _list_array(pa: Any, vectors: np.ndarray, good: np.ndarray) -> Any:
    """`vectors` of the `good` rows as a column of lists, null for the others."""
    ends = np.concatenate([[0], np.cumsum(good * vectors.shape[1])])
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(vectors.reshape(-1)), mask=pa.array(~good)
    )


def _number_columns(meta: dict[str, Any], block: Embeddings) -> Iterator[tuple[str, np.ndarray]]:
    for kind, names in number_columns(meta).items():
        yield from zip(names, getattr(block, kind).T, strict=True)


def _number_array(pa: Any, values: np.ndarray, kind: Any) -> Any:
    unknown = np.isnan(values)
    return pa.array(np.where(unknown, 0, values).astype(kind.to_pandas_dtype()), kind, mask=unknown)


def count_rows(path: Path) -> int:
    with path.open("rb") as source:
        return int(require("pyarrow.parquet", "parquet").read_metadata(source).num_rows)


def read_parquet(
    path: Path,
    with_vectors: bool,
    given: Mapping[str, Any] | None = None,
    chosen: np.ndarray | None = None,
) -> Embeddings:
    """Read a table, also one that another program has rewritten, with other types or fewer columns.

    Of it the rows with the `chosen` numbers, which ascend, or all; without vectors, of chosen rows path and
    face alone.
    """
    with path.open("rb") as source, _opened(source) as file:
        names = file.schema_arrow.names
        space, meta, codes = _described(path, file, given)
        columns_of_numbers = number_columns(meta, names)
        count = file.metadata.num_rows if chosen is None else len(chosen)
        vectors = np.full((count, meta["dimension"] if with_vectors else 0), np.nan, np.float32)
        sizes = np.zeros((len(vectors), 2), np.int32)
        paths: list[str] = []
        errors: list[str | None] = []
        wanted = ["path", "error", "width", "height", "space", *chain(*columns_of_numbers.values())]
        wanted += codes if with_vectors or "error" not in names else ()
        if chosen is not None and not with_vectors:  # where matches are, and no more
            columns_of_numbers = {kind: n for kind, n in columns_of_numbers.items() if kind == "faces"}
            wanted = ["path", *chain(*columns_of_numbers.values())]
        numbers = {
            kind: np.full((len(vectors), len(columns)), np.nan, np.float32)
            for kind, columns in columns_of_numbers.items()
        }
        # A batch at a time and never as Python numbers, which take ten times the memory of the vectors.
        for batch in _batches(file, [name for name in wanted if name in names], chosen):
            place = slice(len(paths), len(paths) + len(batch))
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            check_space(path, _spaces(columns), space)
            paths += [name or "" for name in columns["path"].to_pylist()]
            reasons = columns["error"].to_pylist() if "error" in columns else [None] * len(batch)
            for name, part in codes.items() if codes.keys() <= columns.keys() else ():
                good = columns[name].is_valid().to_numpy(zero_copy_only=False)
                reasons = [why or (None if g else NO_CODE) for why, g in zip(reasons, good, strict=True)]
                if with_vectors:
                    vectors[place, part][good] = _matrix(path, name, columns[name], part.stop - part.start)
            errors += [reason or None for reason in reasons]
            for axis, side in enumerate(("width", "height")):
                if side in columns:
                    sizes[place, axis] = np.nan_to_num(columns[side].cast("float64").to_numpy(False))
            for kind, values in numbers.items():
                for axis, name in enumerate(columns_of_numbers[kind]):
                    values[place, axis] = columns[name].cast("float32").to_numpy(False)
    return Embeddings(vectors, paths, errors, sizes, meta, **numbers)


def _opened(source: Any) -> Any:
    """A Parquet file whose columns are read piece by piece: with a buffer of pyarrow's own, or at once, a
    whole file or a whole row group would come to lie in memory."""
    parquet = require("pyarrow.parquet", "parquet")
    return parquet.ParquetFile(source, pre_buffer=False, buffer_size=BUFFER)


def _described(
    path: Path, file: Any, given: Mapping[str, Any] | None
) -> tuple[str | None, dict[str, Any], dict[str, slice]]:
    """The space of an open table as its metadata says it, the metadata of the codes that are there, and their
    columns. Raises ValueError for a file that is no table."""
    names = file.schema_arrow.names
    if "path" not in names or not any(name.startswith(CODE) for name in names):
        raise ValueError(f"its columns are {', '.join(names)[:200]}")
    own = (file.schema_arrow.metadata or {}).get(META_KEY.encode())
    meta = find_meta(path, own and json.loads(own), given)
    return meta.get("space"), *_codes_there(path, meta, names)


def _batches(file: Any, columns: list[str], chosen: np.ndarray | None) -> Iterator[Any]:
    """The rows of a file in order; or those that are `chosen`, of which other row groups are not read."""
    if chosen is None:
        yield from file.iter_batches(ROWS_PER_GROUP, columns=columns)
        return
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    groups = np.unique(np.searchsorted(ends, chosen, side="right")).tolist()
    there = [np.arange(ends[g] - file.metadata.row_group(g).num_rows, ends[g]) for g in groups]
    numbers, start = np.concatenate(there), 0
    for batch in file.iter_batches(8 * ROWS_PER_GROUP, row_groups=groups, columns=columns):
        wanted = np.searchsorted(numbers[start : start + len(batch)], chosen)
        first, last = np.searchsorted(chosen, (numbers[start], numbers[start + len(batch) - 1] + 1))
        yield batch.take(require("pyarrow", "parquet").array(wanted[first:last]))
        start += len(batch)


def _codes_there(
    path: Path, meta: dict[str, Any], names: list[str]
) -> tuple[dict[str, Any], dict[str, slice]]:
    """The columns of codes, and the metadata of what is there if only one of several was kept."""
    codes = _codes(meta)
    there = [name for name in codes if name in names]
    if len(there) == 1 < len(codes):
        meta = meta_of_branch(meta, there[0].removeprefix(f"{CODE}_"))
        return meta, {there[0]: slice(0, meta["dimension"])}
    if missing := [name for name in codes if name not in there]:
        raise TableError(
            f"{path} has no column {missing[0]}, which its metadata lists; keep all codes or one"
        )
    return meta, codes


def _spaces(columns: Mapping[str, Any]) -> list[str | None]:
    """Those that the rows of a batch name; none in a table without the column."""
    return columns["space"].unique().to_pylist() if "space" in columns else []


def check_space(path: Path, spaces: Iterable[str | None], space: str | None) -> None:
    """Raise TableError if the `spaces` that rows name are others than that of the metadata."""
    if others := [there for there in spaces if there not in (None, "", space)]:
        raise TableError(
            f"{path} has rows of the space {others[0]}, but its metadata has the space {space}: embeddings "
            "of different models or branches do not belong in one table"
        )


def _matrix(path: Path, name: str, column: Any, width: int) -> np.ndarray:
    """The lists of a column that are not null, `[G, width]`."""
    column = column.drop_null()
    widths = set(require("pyarrow.compute", "parquet").list_value_length(column).unique().to_pylist())
    if widths - {width}:
        raise TableError(
            f"{path} has rows with {min(widths - {width})} numbers in {name}, but its metadata says {width}: "
            "they are of another model or branch"
        )
    return column.flatten().to_numpy().reshape(-1, width)


def describe_parquet(path: Path) -> tuple[dict[str, Any], list[int]]:
    """The metadata of a table, and how many rows are in each of its row groups."""
    with path.open("rb") as source, _opened(source) as file:
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        return _described(path, file, None)[1], groups


def read_code(
    path: Path, branch: str, groups: list[int], rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The codes of some row groups in blocks of so many `rows`: numbers of the rows that have one, counted
    from the first of these groups, and their vectors float32 `[B, D]`."""
    pa = require("pyarrow", "parquet")
    with path.open("rb") as source, _opened(source) as file:
        space, _, codes = _described(path, file, None)
        name = next(iter(codes)) if len(codes) == 1 else f"{CODE}_{branch}"
        wanted = [column for column in ("error", "space", name) if column in file.schema_arrow.names]
        start = 0
        # without pyarrow's threads: several of these are read side by side
        for batch in file.iter_batches(rows, row_groups=groups, columns=wanted, use_threads=False):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            check_space(path, _spaces(columns), space)
            good = columns[name].is_valid().to_numpy(zero_copy_only=False)
            if "error" in columns and columns["error"].null_count < len(batch):
                good &= np.array([not reason for reason in columns["error"].to_pylist()], bool)
            column = columns[name] if good.all() else columns[name].filter(pa.array(good))
            width = codes[name].stop - codes[name].start
            # a copy: torch takes no array of arrow's, which may not be written to
            yield start + np.flatnonzero(good), np.array(_matrix(path, name, column, width), np.float32)
            start += len(batch)


def to_pandas(table: Embeddings) -> Any:
    """As `Embeddings.to_pandas`."""
    pandas = require("pandas", "pandas")
    pa = require("pyarrow", "pandas")
    there = {"align": table.faces, "attributes": table.attributes}  # columns that may be missing
    meta = {key: value for key, value in table.meta.items() if there.get(key, ()) is not None}
    # without the vectors: more than 2^31 numbers are too many for a column of arrow's lists
    rows = to_arrow(meta, replace(table, vectors=table.vectors[:, :0]), np.arange(len(table)))
    rows = rows.drop_columns(list(_codes(meta)))
    frame = rows.to_pandas(types_mapper={pa.int32(): pandas.Int32Dtype()}.get)  # which may be missing
    if table.vectors.shape[1]:  # they were read
        for name, place in _codes(meta).items():
            code = pandas.Series(list(table.vectors[:, place]), dtype=object)
            frame[name] = code.where(frame["error"].isna(), None)
    return frame
