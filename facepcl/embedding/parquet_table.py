"""Embeddings as Parquet."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.data.sources import printable
from facepcl.embedding.embeddings import ROWS_PER_GROUP, Embeddings, named_columns
from facepcl.errors import require
from facepcl.images.face import FACE_COLUMNS

META_KEY = "facepcl"


def write_parquet(path: Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int) -> None:
    """Write `blocks`, one at a time."""
    parquet = require("pyarrow.parquet", "parquet")
    schema, start = _schema(meta), 0
    codes = named_columns(meta, "embedding", "embedding_")
    # the numbers of vectors neither repeat nor compress, so trying to would only cost time
    packing = dict.fromkeys(schema.names, "snappy") | {f"{name}.list.element": "none" for name in codes}
    # pyarrow takes no path that is not UTF-8
    with (
        path.open("wb") as to,
        parquet.ParquetWriter(to, schema, use_dictionary=["error"], compression=packing) as file,
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
    codes = named_columns(meta, "embedding", "embedding_")
    columns = [
        pa.array(map(printable, block.paths), pa.string()),
        pa.array(index, pa.int64()),
        pa.array(map(printable, block.errors), pa.string()),
        *(pa.array(side, pa.int32(), mask=~good) for side in block.sizes.T),
        *(_face_array(pa, v, schema.field(n).type) for n, v in _face_columns(block)),
        *(_list_array(pa, vectors[:, place], good) for place in codes.values()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _schema(meta: dict[str, Any]) -> Any:
    pa = require("pyarrow", "parquet")
    fields = [("path", pa.string()), ("index", pa.int64()), ("error", pa.string())]
    fields += [("width", pa.int32()), ("height", pa.int32())]
    if "align" in meta:
        fields += [(name, pa.float32() if place else pa.int32()) for place, name in enumerate(FACE_COLUMNS)]
    # not fixed_size_list: with nulls, several releases of pyarrow fail to write or read it
    fields += [(name, pa.list_(pa.float32())) for name in named_columns(meta, "embedding", "embedding_")]
    return pa.schema(fields, metadata={META_KEY: json.dumps(meta)})


def _list_array(pa: Any, vectors: np.ndarray, good: np.ndarray) -> Any:
    """`vectors` of the `good` rows as a column of lists, null for the others."""
    ends = np.concatenate([[0], np.cumsum(good * vectors.shape[1])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(vectors.reshape(-1)), mask=pa.array(~good))


def _face_columns(block: Embeddings) -> Iterator[tuple[str, np.ndarray]]:
    if block.faces is not None:
        yield from zip(FACE_COLUMNS, block.faces.T, strict=True)


def _face_array(pa: Any, values: np.ndarray, kind: Any) -> Any:
    unknown = np.isnan(values)
    return pa.array(np.where(unknown, 0, values).astype(kind.to_pandas_dtype()), kind, mask=unknown)


def count_rows(path: Path) -> int:
    with path.open("rb") as source:
        return int(require("pyarrow.parquet", "parquet").read_metadata(source).num_rows)


def read_parquet(path: Path, with_vectors: bool) -> Embeddings:
    parquet = require("pyarrow.parquet", "parquet")
    # with its buffer, batch by batch the bytes of the whole file would come to lie in memory
    with path.open("rb") as source, parquet.ParquetFile(source, pre_buffer=False) as file:
        meta = json.loads((file.schema_arrow.metadata or {})[META_KEY.encode()])
        codes = named_columns(meta, "embedding", "embedding_") if with_vectors else {}
        dimension = meta["dimension"] if with_vectors else 0
        vectors = np.full((file.metadata.num_rows, dimension), np.nan, np.float32)
        sizes = np.zeros((len(vectors), 2), np.int32)
        paths: list[str] = []
        errors: list[str | None] = []
        # A batch at a time and never as Python numbers, which take ten times the memory of the vectors.
        names = ["path", "error", "width", "height", *codes]
        faces = np.full((len(vectors), len(FACE_COLUMNS)), np.nan, np.float32) if "align" in meta else None
        for batch in file.iter_batches(
            ROWS_PER_GROUP, columns=[*names, *(FACE_COLUMNS if "align" in meta else ())]
        ):
            place = slice(len(paths), len(paths) + len(batch))
            for name, part in codes.items():
                good = batch[name].is_valid().to_numpy(zero_copy_only=False)
                numbers = batch[name].flatten().to_numpy()
                vectors[place, part][good] = numbers.reshape(-1, part.stop - part.start)
            for axis, side in enumerate(("width", "height")):
                sizes[place, axis] = batch[side].fill_null(0).to_numpy()
            if faces is not None:
                for column, name in enumerate(FACE_COLUMNS):
                    faces[place, column] = batch[name].cast("float32").to_numpy(zero_copy_only=False)
            paths += batch["path"].to_pylist()
            errors += batch["error"].to_pylist()
    return Embeddings(vectors, paths, errors, sizes, meta, faces)
