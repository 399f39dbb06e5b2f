"""Embedding tables: Parquet, npz or csv, a row an image, with the space they live in."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from facepcl._files import atomic
from facepcl.errors import MissingPath, OptionError, TableError, require

META_KEY = "facepcl"
ROWS_A_GROUP = 1024
SIDECAR = ".meta.json"  # a csv has no room for metadata that other readers would not stumble over


@dataclass
class Row:
    """One image: `vector` float32 `[D]`, or None and the reason in `error`; `width` and `height` in
    pixels."""

    path: str
    index: int
    error: str | None = None
    width: int | None = None
    height: int | None = None
    vector: np.ndarray | None = None


@dataclass
class Embeddings:
    """A table: `vectors` float32 `[N, D]` (NaN where there is an error), `paths`, `errors` (None = fine),
    `meta`."""

    vectors: np.ndarray
    paths: list[str]
    errors: list[str | None]
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.paths)


Write = Callable[[Row], None]


@contextmanager
def table_writer(path: str | Path, meta: dict[str, Any]) -> Iterator[Write]:
    """A function that appends rows to the table at `path`, which appears, whole, when the block ends well.

    Raises OptionError for a name that ends in no known format, MissingPath, or MissingExtra for Parquet.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise OptionError(f"{path}: the name of a table ends in {', '.join(_WRITERS)}")
    if not path.absolute().parent.is_dir():
        raise MissingPath(f"{path.absolute().parent}: there is no such folder to write to")
    with atomic(path) as temporary, _WRITERS[path.suffix](temporary, meta) as write:
        yield write
    if path.suffix == ".csv":
        with atomic(_sidecar(path)) as temporary:
            temporary.write_text(json.dumps(meta, indent=2), "utf-8")


@contextmanager
def _parquet_writer(path: Path, meta: dict[str, Any]) -> Iterator[Write]:
    pa, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    # not fixed_size_list: with nulls, several releases of pyarrow fail to write or read it
    fields = [("path", pa.string()), ("index", pa.int64()), ("error", pa.string())]
    fields += [("width", pa.int32()), ("height", pa.int32()), ("embedding", pa.list_(pa.float32()))]
    schema = pa.schema(fields, metadata={META_KEY: json.dumps(meta)})
    waiting: list[dict[str, Any]] = []
    with parquet.ParquetWriter(str(path), schema) as file:

        def flush() -> None:
            file.write_table(pa.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(row: Row) -> None:
            waiting.append({**_plain(row), "embedding": row.vector})
            if len(waiting) == ROWS_A_GROUP:
                flush()

        yield write
        flush()


@contextmanager
def _npz_writer(path: Path, meta: dict[str, Any]) -> Iterator[Write]:
    rows: list[Row] = []
    yield rows.append
    with path.open("wb") as file:  # an open file: numpy would add .npz to a temporary name
        np.savez(
            file,
            vectors=_stack([row.vector for row in rows], meta["dimension"]),
            paths=np.array([_plain(row)["path"] for row in rows], dtype=np.str_),
            errors=np.array([row.error or "" for row in rows], dtype=np.str_),  # None would need a pickle
            sizes=np.array([(row.width or 0, row.height or 0) for row in rows], np.int32).reshape(-1, 2),
            meta=np.array(json.dumps(meta)),
        )


@contextmanager
def _csv_writer(path: Path, meta: dict[str, Any]) -> Iterator[Write]:
    dimension = meta["dimension"]
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = csv.writer(file)
        lines.writerow([*_COLUMNS, *(f"e{i}" for i in range(dimension))])

        def write(row: Row) -> None:
            vector = np.full(dimension, np.nan) if row.vector is None else row.vector
            lines.writerow([*_plain(row).values(), *(f"{value:.9g}" for value in vector)])

        yield write


_COLUMNS = ("path", "index", "error", "width", "height")
_WRITERS = {".parquet": _parquet_writer, ".npz": _npz_writer, ".csv": _csv_writer}


def _plain(row: Row) -> dict[str, Any]:
    # a name that is not UTF-8 reaches Python with surrogates, which Parquet cannot hold
    path, error = (
        text and text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for text in (row.path, row.error)
    )
    return {"path": path, "index": row.index, "error": error, "width": row.width, "height": row.height}


def _stack(vectors: Sequence[np.ndarray | None], dimension: int) -> np.ndarray:
    table = np.full((len(vectors), dimension), np.nan, np.float32)
    for place, vector in zip(table, vectors, strict=True):
        if vector is not None:
            place[:] = vector
    return table


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR)


def read_embeddings(path: str | Path) -> Embeddings:
    """A table written by `facepcl.embed`. Raises MissingPath, TableError if it is none, MissingExtra."""
    path = Path(path)
    if path.suffix not in _READERS:
        raise OptionError(f"{path}: the name of a table ends in {', '.join(_READERS)}")
    if not path.is_file():
        raise MissingPath(f"{path}: there is no such table")
    try:
        return _READERS[path.suffix](path)
    except (KeyError, ValueError, OSError, EOFError, csv.Error, BadZipFile) as error:
        raise TableError(f"{path} is not a table of embeddings ({error})") from error


def _read_parquet(path: Path) -> Embeddings:
    with require("pyarrow.parquet", "parquet").ParquetFile(str(path)) as file:
        meta = json.loads((file.schema_arrow.metadata or {})[META_KEY.encode()])
        vectors = np.full((file.metadata.num_rows, meta["dimension"]), np.nan, np.float32)
        paths: list[str] = []
        errors: list[str | None] = []
        # A batch at a time and never as Python numbers, which take ten times the memory of the vectors.
        for batch in file.iter_batches(ROWS_A_GROUP, columns=["path", "error", "embedding"]):
            place = vectors[len(paths) : len(paths) + len(batch)]
            column = batch["embedding"]
            good = column.is_valid().to_numpy(zero_copy_only=False)
            place[good] = column.flatten().to_numpy().reshape(-1, meta["dimension"])
            paths += batch["path"].to_pylist()
            errors += batch["error"].to_pylist()
    return Embeddings(vectors, paths, errors, meta)


def _read_npz(path: Path) -> Embeddings:
    with np.load(path, allow_pickle=False) as table:
        errors = [error or None for error in table["errors"].tolist()]
        return Embeddings(table["vectors"], table["paths"].tolist(), errors, json.loads(str(table["meta"])))


def _read_csv(path: Path) -> Embeddings:
    if not _sidecar(path).is_file():
        raise TableError(f"{path}: {_sidecar(path).name} with its metadata is not beside it")
    meta = json.loads(_sidecar(path).read_text("utf-8"))
    with path.open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)  # the first line names the columns
    numbers = [row[len(_COLUMNS) :] for row in rows]
    vectors = np.array(numbers, np.float32).reshape(len(rows), meta["dimension"])
    return Embeddings(vectors, [row[0] for row in rows], [row[2] or None for row in rows], meta)


_READERS = {".parquet": _read_parquet, ".npz": _read_npz, ".csv": _read_csv}


def similarity(a: Embeddings | np.ndarray, b: Embeddings | np.ndarray) -> np.ndarray:
    """Cosine `[N, M]` of each row of `a` `[N, D]` and each of `b` `[M, D]`; NaN for rows with an error.

    Raises TableError for two tables of different spaces, OptionError for arrays of different widths.
    """
    if isinstance(a, Embeddings) and isinstance(b, Embeddings) and a.meta.get("space") != b.meta.get("space"):
        raise TableError(
            f"the tables lie in different spaces: {describe_space(a.meta)} and {describe_space(b.meta)}; "
            "embed both with the same weights, branch and pool"
        )
    x, y = (np.atleast_2d(t.vectors if isinstance(t, Embeddings) else np.asarray(t)) for t in (a, b))
    if x.shape[1] != y.shape[1]:
        raise OptionError(f"vectors of {x.shape[1]} and {y.shape[1]} numbers do not compare")
    return _unit(x) @ _unit(y).T


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def describe_space(meta: dict[str, Any]) -> str:
    """A space in words: model, branch, pool and its hash."""
    return f"{meta.get('model')} {meta.get('branch')}/{meta.get('pool')} ({meta.get('space')})"
