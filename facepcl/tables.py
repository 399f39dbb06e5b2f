"""Embedding tables: Parquet, npz or csv, a row an image, with the space they live in."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from facepcl._files import atomic
from facepcl.errors import FacepclError, MissingPath, OptionError, TableError, require
from facepcl.faces import FACE_COLUMNS, Face

META_KEY = "facepcl"
ROWS_A_GROUP = 1024  # of Parquet, and rows of an unfinished job that are written together
SIDECAR = ".meta.json"  # a csv has no room for metadata that other readers would not stumble over


@dataclass(frozen=True)
class Row:
    """One image: `vector` float32 `[D]`, or None and the reason in `error`; `width` and `height` in
    pixels. Where faces were looked for: one face, its place in the photograph and its `number` there."""

    path: str
    index: int
    error: str | None = None
    width: int | None = None
    height: int | None = None
    vector: np.ndarray | None = None
    face: Face | None = None
    number: int | None = None


@dataclass
class Embeddings:
    """A table, or rows of one: `vectors` float32 `[N, D]` (NaN where there is an error), `paths`, `errors`
    (None = fine), `sizes` int32 `[N, 2]` (width and height of the files' images in pixels, 0 = unknown),
    `meta`; where faces were looked for, `faces` float32 `[N, 16]` with `FACE_COLUMNS` (NaN = none)."""

    vectors: np.ndarray
    paths: list[str]
    errors: list[str | None]
    sizes: np.ndarray
    meta: dict[str, Any]
    faces: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def images(self) -> int:
        """Of how many images these are: a photograph has a row for each face, or one without."""
        return len(self) if self.faces is None else int((~(self.faces[:, 0] > 0)).sum())

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One by one, numbered from `start`."""
        for i, (path, error) in enumerate(zip(self.paths, self.errors, strict=True)):
            if error:
                yield Row(path, start + i, error)
                continue
            width, height = map(int, self.sizes[i])
            face, number = None, None
            if self.faces is not None:
                number, score, *places = self.faces[i].tolist()
                face, number = Face.from_numbers([*places, score]), int(number)
            yield Row(path, start + i, None, width, height, self.vectors[i], face, number)


def check_table_path(path: Path) -> None:
    """Raise OptionError, MissingPath or MissingExtra if no table can be written there."""
    if path.suffix not in _WRITERS:
        raise OptionError(f"{path}: the name of a table ends in {', '.join(_WRITERS)}")
    if not path.absolute().parent.is_dir():
        raise MissingPath(f"{path.absolute().parent}: there is no such folder to write to")
    if path.suffix == ".parquet":
        require("pyarrow.parquet", "parquet")


def write_table(path: str | Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int) -> None:
    """Write `blocks`, `count` rows together, to the table at `path`, which appears, whole, at the end.

    Only one block is in memory at a time. Raises OptionError for a name that ends in no known format,
    MissingPath, or MissingExtra for Parquet.
    """
    path = Path(path)
    check_table_path(path)
    with atomic(path) as temporary:
        _WRITERS[path.suffix](temporary, meta, blocks, count)
    if path.suffix == ".csv":
        with atomic(_sidecar(path)) as temporary:
            temporary.write_text(json.dumps({**meta, "rows": count}, indent=2), "utf-8")


def _write_parquet(path: Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int) -> None:
    pa, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    # not fixed_size_list: with nulls, several releases of pyarrow fail to write or read it
    fields = [("path", pa.string()), ("index", pa.int64()), ("error", pa.string())]
    fields += [("width", pa.int32()), ("height", pa.int32()), ("embedding", pa.list_(pa.float32()))]
    if "align" in meta:
        fields[5:5] = [
            (name, pa.float32() if place else pa.int32()) for place, name in enumerate(FACE_COLUMNS)
        ]
    schema = pa.schema(fields, metadata={META_KEY: json.dumps(meta)})
    start = 0
    # the numbers of vectors neither repeat nor compress, so trying to would only cost time
    packing = {name: "snappy" for name, _ in fields} | {"embedding.list.element": "none"}
    with parquet.ParquetWriter(str(path), schema, use_dictionary=["error"], compression=packing) as file:
        for block in blocks:
            good = np.array([error is None for error in block.errors], bool)
            ends = np.concatenate([[0], np.cumsum(good * meta["dimension"])]).astype(np.int32)
            vectors = block.vectors if good.all() else block.vectors[good]
            column = pa.ListArray.from_arrays(
                pa.array(ends), pa.array(vectors.reshape(-1)), mask=pa.array(~good)
            )
            columns = [
                pa.array(map(_clean, block.paths), pa.string()),
                pa.array(np.arange(start, start + len(block))),
                pa.array(map(_clean, block.errors), pa.string()),
                *(pa.array(side, pa.int32(), mask=~good) for side in block.sizes.T),
                *(_face_array(pa, v, schema.field(n).type) for n, v in _face_columns(block)),
                column,
            ]
            file.write_table(pa.Table.from_arrays(columns, schema=schema))
            start += len(block)


def _face_columns(block: Embeddings) -> Iterator[tuple[str, np.ndarray]]:
    if block.faces is not None:
        yield from zip(FACE_COLUMNS, block.faces.T, strict=True)


def _face_array(pa: Any, values: np.ndarray, kind: Any) -> Any:
    unknown = np.isnan(values)
    return pa.array(np.where(unknown, 0, values).astype(kind.to_pandas_dtype()), kind, mask=unknown)


def _write_npz(path: Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int) -> None:
    paths: list[str] = []
    errors: list[str] = []
    sizes = [np.empty((0, 2), np.int32)]
    faces = [np.empty((0, len(FACE_COLUMNS)), np.float32)]
    with ZipFile(path, "w") as archive:
        with archive.open("vectors.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, meta["dimension"])}
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block.vectors, "<f4").data)
                paths += [_clean(path) or "" for path in block.paths]
                errors += [_clean(error) or "" for error in block.errors]  # None would need a pickle
                sizes.append(block.sizes)
                faces += [] if block.faces is None else [block.faces]
        rest = {
            "paths": np.array(paths, dtype=np.str_),
            "errors": np.array(errors, dtype=np.str_),
            "sizes": np.concatenate(sizes),
            "meta": np.array(json.dumps(meta)),
        } | ({"faces": np.concatenate(faces)} if "align" in meta else {})
        for name, array in rest.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_csv(path: Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int) -> None:
    # nine digits hold a float32; one pattern for a whole row is several times faster than its numbers
    numbers = ",".join(["%.9g"] * meta["dimension"])
    start = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        names = [*_COLUMNS, *(FACE_COLUMNS if "align" in meta else ())]
        csv.writer(file).writerow([*names, *(f"e{i}" for i in range(meta["dimension"]))])
        for block in blocks:
            for row, vector in zip(block.rows(start), block.vectors.tolist(), strict=True):
                cells = [_clean(row.path), row.index, _clean(row.error), row.width, row.height]
                if row.face is not None and row.number is not None:
                    cells += [row.number, *(f"{v:.9g}" for v in row.face.columns(row.number)[1:])]
                cells += [None] * (len(names) - len(cells))
                file.write(f"{_csv_line(cells)},{numbers % tuple(vector)}\r\n")
            start += len(block)


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


_COLUMNS = ("path", "index", "error", "width", "height")
_WRITERS: dict[str, Callable[[Path, dict[str, Any], Iterable[Embeddings], int], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
    ".csv": _write_csv,
}


def _clean(text: str | None) -> str | None:
    r"""A name that is not UTF-8 reaches Python with surrogates, which no table can hold: as \xff here."""
    return text and text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR)


def read_embeddings(path: str | Path, vectors: bool = True) -> Embeddings:
    """A table written by `facepcl.embed`; `vectors=False` leaves its vectors on the disk, `[N, 0]`.

    Raises MissingPath, TableError if it is none, MissingExtra.
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise OptionError(f"{path}: the name of a table ends in {', '.join(_READERS)}")
    if not path.is_file():
        raise MissingPath(f"{path}: there is no such table")
    try:
        table = _READERS[path.suffix](path, vectors)
        _check_shapes(table)
        return table
    except FacepclError:
        raise
    except Exception as error:  # numpy, zipfile, csv and pyarrow raise almost anything on damaged files
        raise TableError(
            f"{path} is not a table of embeddings ({str(error) or type(error).__name__})"
        ) from error


def _check_shapes(table: Embeddings) -> None:
    """Raise ValueError unless all columns have a value for each row."""
    columns = [table.vectors, table.sizes, *([] if table.faces is None else [table.faces])]
    numbers = all(column.ndim == 2 and column.dtype.kind in "fi" for column in columns)
    lengths = {len(table.paths), len(table.errors), *map(len, columns)}
    if not numbers or len(lengths) > 1 or table.sizes.shape[1] != 2 or not isinstance(table.meta, dict):
        raise ValueError("its columns do not belong together")


def _read_parquet(path: Path, with_vectors: bool) -> Embeddings:
    with require("pyarrow.parquet", "parquet").ParquetFile(str(path)) as file:
        meta = json.loads((file.schema_arrow.metadata or {})[META_KEY.encode()])
        dimension = meta["dimension"] if with_vectors else 0
        vectors = np.full((file.metadata.num_rows, dimension), np.nan, np.float32)
        sizes = np.zeros((len(vectors), 2), np.int32)
        paths: list[str] = []
        errors: list[str | None] = []
        # A batch at a time and never as Python numbers, which take ten times the memory of the vectors.
        names = ["path", "error", "width", "height", *(["embedding"] if with_vectors else [])]
        faces = np.full((len(vectors), len(FACE_COLUMNS)), np.nan, np.float32) if "align" in meta else None
        for batch in file.iter_batches(
            ROWS_A_GROUP, columns=[*names, *(FACE_COLUMNS if "align" in meta else ())]
        ):
            place = slice(len(paths), len(paths) + len(batch))
            if with_vectors:
                column = batch["embedding"]
                good = column.is_valid().to_numpy(zero_copy_only=False)
                vectors[place][good] = column.flatten().to_numpy().reshape(-1, dimension)
            for axis, side in enumerate(("width", "height")):
                sizes[place, axis] = batch[side].fill_null(0).to_numpy()
            if faces is not None:
                for column, name in enumerate(FACE_COLUMNS):
                    faces[place, column] = batch[name].cast("float32").to_numpy(zero_copy_only=False)
            paths += batch["path"].to_pylist()
            errors += batch["error"].to_pylist()
    return Embeddings(vectors, paths, errors, sizes, meta, faces)


def _read_npz(path: Path, with_vectors: bool) -> Embeddings:
    with np.load(path, allow_pickle=False) as table:
        errors = [error or None for error in table["errors"].tolist()]
        meta = json.loads(str(table["meta"]))
        vectors = table["vectors"] if with_vectors else np.empty((len(errors), 0), np.float32)
        faces = table["faces"] if "align" in meta else None
        return Embeddings(vectors, table["paths"].tolist(), errors, table["sizes"], meta, faces)


def _read_csv(path: Path, with_vectors: bool) -> Embeddings:
    if not _sidecar(path).is_file():
        raise TableError(f"{path}: {_sidecar(path).name} with its metadata is not beside it")
    meta = json.loads(_sidecar(path).read_text("utf-8"))
    with path.open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)  # the first line names the columns
    if len(rows) != (count := meta.pop("rows")):  # a file cut off at a line's end looks whole
        raise ValueError(f"{len(rows)} rows of {count}")
    first = len(_COLUMNS)
    faces = None
    if "align" in meta:
        first += len(FACE_COLUMNS)
        cells = [[float(cell or "nan") for cell in row[len(_COLUMNS) : first]] for row in rows]
        faces = np.array(cells, np.float32).reshape(-1, len(FACE_COLUMNS))
    numbers = [row[first:] if with_vectors else [] for row in rows]
    vectors = np.array(numbers, np.float32).reshape(len(rows), meta["dimension"] if with_vectors else 0)
    sizes = np.array([[int(side or 0) for side in row[3:5]] for row in rows], np.int32).reshape(-1, 2)
    return Embeddings(vectors, [row[0] for row in rows], [row[2] or None for row in rows], sizes, meta, faces)


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
