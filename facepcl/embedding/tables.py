"""Embedding tables: Parquet, npz or csv, a row an image, with the space they live in; folders of them."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from facepcl.data.sources import printable
from facepcl.embedding.embeddings import (
    MOST_LIKELY,
    Embeddings,
    describe_space,
    find_meta,
    joined,
    most_likely,
    named_columns,
    number_columns,
    numbers_of,
)
from facepcl.embedding.parquet_table import META_KEY, check_space, count_rows, read_parquet, write_parquet
from facepcl.errors import FacepclError, MissingPath, OptionError, TableError, require
from facepcl.utils.files import as_path, atomic, beside, check_file, check_folder, write_text
from facepcl.utils.storage import is_of_storage

SIDECAR = ".meta.json"  # a csv has no room for metadata that other readers would not stumble over


def check_table_path(path: Path) -> None:
    """Raise OptionError, MissingPath, WriteError or MissingExtra if no table can be written there."""
    if path.suffix not in _WRITERS:
        raise OptionError(
            f"{path}: the name of a table must end in {', '.join(_WRITERS)}; that of a folder of tables, in /"
        )
    check_file(path)
    if path.suffix == ".parquet":
        require("pyarrow.parquet", "parquet")


def check_replaceable(path: Path) -> None:
    """Raise OptionError if `path` is a file, but no table of facepcl: it is somebody's data."""
    if os.path.lexists(path) and not _is_table(path):
        raise OptionError(f"{path} exists and is not a table of facepcl; choose another name, or delete it")


def _is_table(path: Path) -> bool:
    with suppress(OSError, ValueError, BadZipFile):
        if path.suffix == ".npz":
            with ZipFile(path) as archive:
                return "meta.npy" in archive.namelist()
        if path.suffix == ".csv":  # `faces.csv` of align has metadata of another kind
            return "space" in json.loads(_sidecar(path).read_text("utf-8"))
        with path.open("rb") as file:
            return META_KEY.encode() in (
                require("pyarrow.parquet", "parquet").read_schema(file).metadata or {}
            )
    return False


def write_table(
    path: str | Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int | None = None
) -> None:
    """Write `blocks` to the table at `path`, which appears, whole, at the end; `count` rows together, which
    only Parquet need not know ahead.

    Only one block is in memory at a time. Raises OptionError for a name that ends in no known format,
    MissingPath, or MissingExtra for Parquet.
    """
    path = Path(path)
    check_table_path(path)
    assert count is not None or path.suffix == ".parquet", "npz and csv need the count of rows"
    with atomic(path) as temporary:
        _WRITERS[path.suffix](temporary, meta, blocks, count)
        if path.suffix == ".csv":  # the old metadata must not be read for the new vectors
            _sidecar(path).unlink(missing_ok=True)
    if path.suffix == ".csv":
        write_text(_sidecar(path), json.dumps({**meta, "rows": count}, indent=2))


def _write_npz(path: Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int | None) -> None:
    paths, errors = bytearray(), bytearray()
    sizes = [np.empty((0, 2), np.int32)]
    numbers = {kind: [np.empty((0, len(names)), np.float32)] for kind, names in number_columns(meta).items()}
    with ZipFile(path, "w") as archive:
        with archive.open("vectors.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, meta["dimension"])}
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block.vectors, "<f4").data)
                paths += _joined_texts(block.paths)
                errors += _joined_texts(block.errors)
                sizes.append(block.sizes)
                for kind, blocks_of_kind in numbers.items():
                    blocks_of_kind.append(getattr(block, kind))
        rest: dict[str, Any] = {
            "paths": np.frombuffer(paths, np.uint8),
            "errors": np.frombuffer(errors, np.uint8),
            "sizes": np.concatenate(sizes),
            "meta": np.array(json.dumps(meta)),
            **{kind: np.concatenate(blocks_of_kind) for kind, blocks_of_kind in numbers.items()},
        }
        for name, array in rest.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _joined_texts(texts: Iterable[str | None]) -> bytes:
    """Texts as UTF-8, each with a zero behind it: an array of strings has the longest one's width for all,
    four bytes a letter."""
    return b"".join((printable(text) or "").replace("\0", " ").encode() + b"\0" for text in texts)


def _split_texts(column: np.ndarray) -> list[str]:
    """The texts of a column, also in an array of strings, which an earlier version wrote."""
    if column.dtype.kind == "U":
        return [str(text) for text in column.tolist()]
    return bytes(column).decode().split("\0")[:-1]


def _write_csv(path: Path, meta: dict[str, Any], blocks: Iterable[Embeddings], count: int | None) -> None:
    # nine digits hold a float32; one pattern for a whole row is several times faster than its numbers
    numbers = ",".join(["%.9g"] * meta["dimension"])
    start = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        names = [*_COLUMNS, *chain(*number_columns(meta).values())]
        names += [MOST_LIKELY] if "attributes" in meta else []
        names += ["space"]
        codes = named_columns(meta, "e").items()
        names += [f"{name}{i}" for name, place in codes for i in range(place.stop - place.start)]
        csv.writer(file).writerow(names)
        for block in blocks:
            numbers_of_rows = [getattr(block, kind) for kind in number_columns(meta)]
            others = np.concatenate([*numbers_of_rows, np.empty((len(block), 0))], 1)
            labels = [[label] for label in most_likely(block)] if "attributes" in meta else [[]] * len(block)
            for row, values, label, vector in zip(
                block.rows(start), others.tolist(), labels, block.vectors.tolist(), strict=True
            ):
                cells = [printable(row.path), row.index, printable(row.error), row.width, row.height]
                cells += [None if math.isnan(value) else f"{value:.9g}" for value in values]
                file.write(f"{_csv_line([*cells, *label, meta.get('space')])},{numbers % tuple(vector)}\r\n")
            start += len(block)


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)  # with its own line end: without one a newline in a name is not quoted
    return line.getvalue().removesuffix("\r\n")


_COLUMNS = ("path", "index", "error", "width", "height")
_WRITERS: dict[str, Callable[[Path, dict[str, Any], Iterable[Embeddings], int | None], None]] = {
    ".parquet": write_parquet,
    ".npz": _write_npz,
    ".csv": _write_csv,
}


def _sidecar(path: Path) -> Path:
    return beside(path, SIDECAR)


def tables_in(folder: Path) -> list[Path]:
    """The tables of a folder, in order, without hidden files, which macOS puts beside others (`._NAME`)."""
    return sorted(folder.glob("[!.]*.parquet"))


def read_embeddings(
    path: str | Path, vectors: bool = True, *, meta: Mapping[str, Any] | None = None
) -> Embeddings:
    """Read a table that `facepcl.embed` wrote, or a folder of them as one.

    Args:
        path: The table or folder.
        vectors: False leaves the vectors on the disk; `.vectors` then has shape [N, 0].
        meta: Metadata for a table that another program has rewritten without its own: `.meta` of the table it
            was made from, or of the `FaceEmbedder`.

    Returns:
        An `Embeddings` with `.vectors`, `.paths`, `.errors` and `.meta`.

    Raises:
        MissingPath: There is no such table.
        TableError: The file is not a table, is incomplete, or has lost its metadata.
        MissingExtra: A Parquet table needs `facepcl[parquet]`.
    """
    if not isinstance(path, (str, Path)):
        raise OptionError(
            f"read_embeddings takes the path of a table or of a folder of them, not {type(path).__name__}"
        )
    path = Path(path)
    if os.path.isdir(path):
        return _read_folder(path, vectors, meta)
    if not path.suffix and not os.path.exists(path):
        raise MissingPath(f"{path}: there is no such folder of tables")
    return read_table(path, vectors, meta)


def is_folder(out: Any) -> bool:
    """Whether `out` means a folder of tables: it is a folder, or its name has no suffix as a table's has.
    Raises OptionError for what is no path."""
    as_path(out, "out")
    return str(out).endswith(("/", os.sep)) or os.path.isdir(out) or not Path(out).suffix


def check_table_folder(out: Path) -> None:
    """Raise OptionError, MissingPath, WriteError or MissingExtra if no tables can be written there."""
    if os.path.isfile(out):
        raise OptionError(f"{out} is a file; name a folder, or a table that ends in .parquet")
    (check_folder if os.path.isdir(out) else check_file)(out)
    require("pyarrow.parquet", "parquet")
    # Spark and its kin leave _SUCCESS and _metadata, which readers pass over
    others = [path.name for path in out.glob("[!._]*") if path.suffix != ".parquet"]
    if others:
        raise OptionError(
            f"{out} holds {min(others)}, which is not a table of embeddings; choose a new folder"
        )


def _read_folder(folder: Path, with_vectors: bool, given: Mapping[str, Any] | None) -> Embeddings:
    paths = tables_in(folder)
    if not paths:
        raise MissingPath(f"{folder}: there are no tables in this folder")
    first = read_table(paths[0], False, given)
    check_whole(folder, first.meta, paths)
    # filled table by table: joined at the end they would be in memory twice
    row_count = sum(map(_row_count, paths))
    vectors = np.empty((row_count, first.meta["dimension"] if with_vectors else 0), np.float32)
    blocks: list[Embeddings] = []
    start = 0
    for path in paths:
        rows = read_table(path, with_vectors, given)
        if rows.meta["space"] != first.meta["space"] or numbers_of(rows).keys() != numbers_of(first).keys():
            raise TableError(
                f"{folder} holds tables of different spaces: {paths[0].name} of {_space_of(first)}, "
                f"{path.name} of {_space_of(rows)}; read them one by one"
            )
        vectors[start : start + len(rows)] = rows.vectors
        start += len(rows)
        blocks.append(replace(rows, vectors=vectors[:0]))
    return replace(joined(blocks), vectors=vectors, meta=first.meta)


def check_whole(folder: Path, meta: dict[str, Any], paths: Sequence[Path]) -> None:
    """Take the number of shards out of `meta`. Raises TableError if the tables at `paths` are not all; those
    that another program has rewritten have other names, and as many rows as it likes."""
    count = len(paths)
    listing = folder / ".facepcl/job.jsonl"  # in folders of an earlier version: one line more than shards
    listed = len(listing.read_bytes().splitlines()) - 1 if listing.is_file() else count
    shards = meta.pop("shards", listed)
    if shards > count and all(re.match(r"\d{8}-", path.name) for path in paths):
        raise TableError(
            f"{folder} lacks {shards - count} of its {shards} shards; embed them with --resume, or read "
            "its tables one by one"
        )


def _space_of(table: Embeddings) -> str:
    return describe_space(table.meta) + ("" if table.faces is None else ", one row per face")


def read_table(path: Path, vectors: bool = True, meta: Mapping[str, Any] | None = None) -> Embeddings:
    """Read one table as `read_embeddings` does."""
    if path.suffix not in _READERS:
        raise OptionError(
            f"{path}: the name of a table ends in {', '.join(_READERS)}; facepcl.embed writes one of images"
        )
    if not os.path.isfile(path):
        raise MissingPath(f"{path}: there is no such table")
    with explained(path):
        table = _READERS[path.suffix](path, vectors, meta)
        _check_shapes(table)
        return table


def _row_count(path: Path) -> int:
    with explained(path):
        return count_rows(path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what readers raise on damaged files into a TableError that names `path`."""
    try:
        yield
    except FacepclError:
        raise
    except Exception as error:  # numpy, zipfile, csv and pyarrow raise almost anything on damaged files
        if isinstance(error, OSError) and (is_of_storage(error) or isinstance(error, PermissionError)):
            raise
        raise TableError(
            f"{path} is not a table of embeddings ({str(error) or type(error).__name__})"
        ) from error


def _check_shapes(table: Embeddings) -> None:
    """Raise ValueError unless all columns have a value for each row."""
    columns = [table.vectors, table.sizes, *numbers_of(table).values()]
    numbers = all(column.ndim == 2 and column.dtype.kind in "fi" for column in columns)
    lengths = {len(table.paths), len(table.errors), *map(len, columns)}
    if not numbers or len(lengths) > 1 or table.sizes.shape[1] != 2 or not isinstance(table.meta, dict):
        raise ValueError("its columns do not belong together")


def _read_npz(path: Path, with_vectors: bool, given: Mapping[str, Any] | None) -> Embeddings:
    with np.load(path, allow_pickle=False) as table:
        errors = [error or None for error in _split_texts(table["errors"])]
        meta = find_meta(path, json.loads(str(table["meta"])) if "meta" in table else None, given)
        vectors = table["vectors"] if with_vectors else np.empty((len(errors), 0), np.float32)
        numbers = {kind: table[kind] for kind in number_columns(meta)}
        return Embeddings(vectors, _split_texts(table["paths"]), errors, table["sizes"], meta, **numbers)


def _read_csv(path: Path, with_vectors: bool, given: Mapping[str, Any] | None) -> Embeddings:
    own = json.loads(_sidecar(path).read_text("utf-8")) if _sidecar(path).is_file() else None
    if own is None and given is None:
        raise TableError(
            f"{path} is not a table of facepcl, or {_sidecar(path).name} is missing; keep the two files "
            "together, or pass meta="
        )
    meta = find_meta(path, own, given)
    count = meta.pop("rows", None)
    try:
        return _parse_csv(path, with_vectors, meta, count if given is None else None)
    except TableError:
        raise
    except (KeyError, ValueError) as error:  # Excel writes ; and decimal commas, in some language's encoding
        raise TableError(
            f"{path} was cut off or rewritten ({error}); save it as comma-separated UTF-8 with all columns "
            "and decimal points, and if rows were left out pass meta=read_embeddings('ORIGINAL').meta"
        ) from error


def _parse_csv(path: Path, with_vectors: bool, meta: dict[str, Any], count: int | None) -> Embeddings:
    codes = [f"{name}{i}" for name, at in named_columns(meta, "e").items() for i in range(at.stop - at.start)]
    with path.open(newline="", encoding="utf-8-sig") as file:  # programs put a mark before UTF-8
        lines = csv.reader(file)
        header = next(lines, [])
        if missing := [name for name in ("path", *codes) if name not in header]:
            raise ValueError(f"no column {missing[0]} in the first line, {','.join(header)[:60]!r}")
        place = {name: i for i, name in enumerate(header)}
        first = place[codes[0]]
        is_in_order = header[first : first + len(codes)] == codes
        columns: dict[str, list[str]] = {name: [] for name in sorted({*header} - {*codes})}
        vectors = []
        for row in lines:  # never all as texts, which take twenty times the memory of the numbers
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells instead of {len(header)} in line {lines.line_num}")
            for name, cells in columns.items():
                cells.append(row[place[name]])
            if with_vectors:
                code = (
                    row[first : first + len(codes)] if is_in_order else [row[place[name]] for name in codes]
                )
                vectors.append(np.array([cell or "nan" for cell in code] if "" in code else code, np.float32))
    paths = columns["path"]
    if count not in (None, len(paths)):  # a file cut off at a line's end looks whole
        raise ValueError(f"{len(paths)} rows of {count}")
    empty = [""] * len(paths)
    sizes = np.array(
        [[float(side or 0) for side in columns.get(name, empty)] for name in ("width", "height")]
    )
    numbers = {
        kind: np.array(
            [[float(c or "nan") for c in columns.get(name, empty)] for name in names], np.float32
        ).T
        for kind, names in number_columns(meta, header).items()
    }
    reasons = [reason or None for reason in columns.get("error", empty)]
    table = np.array(vectors, np.float32).reshape(len(paths), len(codes) if with_vectors else 0)
    check_space(path, set(columns.get("space", ())), meta.get("space"))
    return Embeddings(table, paths, reasons, sizes.T.astype(np.int32), meta, **numbers)


_READERS = {".parquet": read_parquet, ".npz": _read_npz, ".csv": _read_csv}
