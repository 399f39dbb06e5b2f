"""Embeddings as Parquet."""

import json
from collections.abc import Iterable, Iterator, Mapping
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
CODE = "embedding"  # the column; of several branches each has its own, with its name behind this
NO_CODE = "the table holds no embedding of it"


def write_parquet(path: Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int) -> None:
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
    ends = np.concatenate([[0], np.cumsum(good * vectors.shape[1])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(vectors.reshape(-1)), mask=pa.array(~good))


def _number_columns(meta: dict[str, Any], block: Embeddings) -> Iterator[tuple[str, np.ndarray]]:
    for kind, names in number_columns(meta).items():
        yield from zip(names, getattr(block, kind).T, strict=True)


def _number_array(pa: Any, values: np.ndarray, kind: Any) -> Any:
    unknown = np.isnan(values)
    return pa.array(np.where(unknown, 0, values).astype(kind.to_pandas_dtype()), kind, mask=unknown)


def count_rows(path: Path) -> int:
    with path.open("rb") as source:
        return int(require("pyarrow.parquet", "parquet").read_metadata(source).num_rows)


def read_parquet(path: Path, with_vectors: bool, given: Mapping[str, Any] | None = None) -> Embeddings:
    """Read a table, also one that another program has rewritten, with other types or fewer columns."""
    parquet = require("pyarrow.parquet", "parquet")
    # with its buffer, batch by batch the bytes of the whole file would come to lie in memory
    with path.open("rb") as source, parquet.ParquetFile(source, pre_buffer=False) as file:
        names = file.schema_arrow.names
        if "path" not in names or not any(name.startswith(CODE) for name in names):
            raise ValueError(f"its columns are {', '.join(names)[:200]}")
        own = (file.schema_arrow.metadata or {}).get(META_KEY.encode())
        meta = find_meta(path, own and json.loads(own), given)
        space, (meta, codes) = meta.get("space"), _codes_there(path, meta, names)
        columns_of_numbers = number_columns(meta, names)
        vectors = np.full(
            (file.metadata.num_rows, meta["dimension"] if with_vectors else 0), np.nan, np.float32
        )
        sizes = np.zeros((len(vectors), 2), np.int32)
        numbers = {
            kind: np.full((len(vectors), len(columns)), np.nan, np.float32)
            for kind, columns in columns_of_numbers.items()
        }
        paths: list[str] = []
        errors: list[str | None] = []
        wanted = ["path", "error", "width", "height", "space", *chain(*columns_of_numbers.values())]
        wanted += codes if with_vectors or "error" not in names else ()
        # A batch at a time and never as Python numbers, which take ten times the memory of the vectors.
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=[name for name in wanted if name in names]):
            place = slice(len(paths), len(paths) + len(batch))
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            _check_space(path, columns.get("space"), space)
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
            f"{path} has no column {missing[0]}, of which its metadata tells; keep all codes or one"
        )
    return meta, codes


def _check_space(path: Path, column: Any, space: str | None) -> None:
    """Raise TableError if rows say that they are of another space than the metadata."""
    others = [] if column is None else [s for s in column.unique().to_pylist() if s not in (None, space)]
    if others:
        raise TableError(
            f"{path} has rows of the space {others[0]}, and its metadata is of the space {space}: embeddings "
            "of different models or branches do not belong in one table"
        )


def _matrix(path: Path, name: str, column: Any, width: int) -> np.ndarray:
    """The lists of a column that are not null, `[G, width]`."""
    column = column.drop_null()
    widths = set(require("pyarrow.compute", "parquet").list_value_length(column).to_pylist())
    if widths - {width}:
        raise TableError(
            f"{path} has rows with {min(widths - {width})} numbers in {name}, and its metadata says {width}: "
            "they are of another model or branch"
        )
    numbers: np.ndarray = column.flatten().to_numpy()
    return numbers.reshape(-1, width)
