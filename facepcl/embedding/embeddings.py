"""Rows of embeddings in memory, the space they live in, and how two of one space compare."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepcl.errors import OptionError, TableError
from facepcl.images.face import FACE_COLUMNS, Face
from facepcl.jobs.state import if_replaced

MOST_LIKELY, EXPRESSION = "expression", "expression_"  # a column; what those of probabilities begin with
ROWS_PER_GROUP = 1024  # of Parquet, and rows of an unfinished job that are written together
NO_VECTORS = "this table was read without its vectors: leave out vectors=False"
IDENTITY = "identity"  # the branch of weights with a head of this name, by which faces are compared


@dataclass(frozen=True, eq=False)  # arrays are neither compared nor hashed
class Row:
    """One image: `vector` float32 `[D]`, or None and the reason in `error`; `width` and `height` in
    pixels. Where faces were looked for: one face, its place in the photo and its `number` there. Of a
    table of `facepcl.analyze` the `attributes` of the face by name, NaN where they are unknown."""

    path: str
    index: int
    error: str | None = None
    width: int | None = None
    height: int | None = None
    vector: np.ndarray | None = None
    face: Face | None = None
    number: int | None = None
    attributes: dict[str, float] | None = None


class Match(NamedTuple):
    """A row that a search found: its number in the table, the cosine with the query, and where its image is;
    where faces were looked for, its place in the photo and its `number` there."""

    row: int
    similarity: float
    path: str
    face: Face | None = None
    number: int | None = None


@dataclass
class Embeddings:
    """A table of embeddings, or some of its rows.

    Attributes:
        vectors: Float32 array of shape [N, D]; NaN for rows with an error.
        paths: Where each image came from.
        errors: The reason for each row that failed; None for the others.
        sizes: Int32 array of shape [N, 2]: width and height of the images in pixels, 0 if unknown.
        meta: Model, branch, preprocessing and whatever else identifies the embedding space.
        faces: Float32 array of shape [N, 16] with `FACE_COLUMNS` where faces were detected; NaN for none.
        attributes: Float32 array of shape [N, A] with the columns `meta["attributes"]` where faces were
            analyzed; NaN where there is no face.
    """

    vectors: np.ndarray
    paths: list[str]
    errors: list[str | None]
    sizes: np.ndarray
    meta: dict[str, Any]
    faces: np.ndarray | None = None
    attributes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        failed = sum(error is not None for error in self.errors)
        codes = (f"{name} ({at.stop - at.start} numbers)" for name, at in columns_of(self.meta).items())
        lines = {
            "rows": f"{len(self):,}, of which {failed:,} without an embedding",
            "model": model_name(self.meta),
            "branch": ", ".join(codes),
            "space": self.meta.get("space"),
            "first": self.paths[0] if self.paths else None,
        }
        return "Embeddings\n" + "\n".join(f"  {name:<6}  {value}" for name, value in lines.items())

    @property
    def images(self) -> int:
        """Number of images; a photo has a row for each face, or one if it shows none."""
        return len(self) if self.faces is None else int((~(self.faces[:, 0] > 0)).sum())

    def branch(self, name: str) -> "Embeddings":
        """The rows with the code of one of several branches alone; OptionError if it is not in the table."""
        if name not in (columns := columns_of(self.meta)):
            raise OptionError(f"this table has {', '.join(columns)}, not {name!r}")
        return replace(self, vectors=self.vectors[:, columns[name]], meta=meta_of_branch(self.meta, name))

    def nearest(self, query: int | np.ndarray, k: int = 10) -> list[Match]:
        """Find the rows with the highest cosine similarity; `facepcl.search` does it for tables on the disk.

        Args:
            query: A vector of shape [D], or the number of a row, which is not among its own matches.
            k: How many rows to return at most.

        Returns:
            The matches, nearest first. For a table with several codes, the identity code is compared.

        Raises:
            OptionError: The query is of another width, there is no such row or it has no embedding, or the
                table has several codes and none for identity: take one by `branch`.

        Example:
            >>> table.nearest(0, k=3)[0].path
        """
        from facepcl.embedding.nearest import nearest_in

        return nearest_in(self, query, k)

    def to_pandas(self) -> Any:
        """Convert the table to a pandas DataFrame with the columns of a Parquet table.

        Returns:
            The same rows; each code is a column of float32 arrays, `embedding`, or `embedding_BRANCH` of
            several, and missing where a row has an error.

        Raises:
            MissingExtra: pandas or pyarrow is not installed.
        """
        from facepcl.embedding.parquet_table import to_pandas

        return to_pandas(self)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Iterate over the rows, numbered from `start`."""
        for i, (path, error) in enumerate(zip(self.paths, self.errors, strict=True)):
            if error:
                yield Row(path, start + i, error)
                continue
            width, height = map(int, self.sizes[i])
            values = None
            if self.attributes is not None:
                values = dict(zip(self.meta["attributes"], self.attributes[i].tolist(), strict=True))
            yield Row(path, start + i, None, width, height, self.vectors[i], *self.face_of(i), values)

    def face_of(self, row: int) -> tuple[Face | None, int | None]:
        """The face in a row and its number in its photo; None where there is none."""
        if self.faces is None or np.isnan(self.faces[row, 0]):
            return None, None
        return Face.from_columns(self.faces[row].tolist()), int(self.faces[row, 0])


def joined(blocks: list[Embeddings]) -> Embeddings:
    """Blocks as one."""
    numbers = {
        kind: np.concatenate([getattr(block, kind) for block in blocks]) for kind in numbers_of(blocks[0])
    }
    return Embeddings(
        np.concatenate([block.vectors for block in blocks]),
        [path for block in blocks for path in block.paths],
        [error for block in blocks for error in block.errors],
        np.concatenate([block.sizes for block in blocks]),
        blocks[0].meta,
        **numbers,
    )


def find_meta(path: Path, own: dict[str, Any] | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metadata of the table at `path`: its `own`, or what was `given` for one that has lost it."""
    if given is not None and not (isinstance(given, Mapping) and "dimension" in given):
        raise OptionError("meta is the metadata of a table, as in meta=read_embeddings('ORIGINAL').meta")
    if own is None and given is None:
        raise TableError(
            f"{path} has no metadata, which pandas, polars, DuckDB and datasets do not keep; pass that of "
            f"the original table: read_embeddings({path.name!r}, meta=read_embeddings('ORIGINAL').meta)"
        )
    if own and given and own.get("space") != given.get("space"):
        raise TableError(f"{path} has the space {describe_space(own)}, not {describe_space(dict(given))}")
    return dict(own or given or {})


def number_columns(
    meta: Mapping[str, Any], there: Container[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """The columns of `Embeddings.faces` and `Embeddings.attributes`, as far as a table with this metadata has
    them; `there`: the columns that are left of a table that another program has rewritten."""
    columns = {"faces": FACE_COLUMNS} if "align" in meta else {}
    columns |= {"attributes": tuple(meta["attributes"])} if "attributes" in meta else {}
    return {kind: names for kind, names in columns.items() if there is None or all(n in there for n in names)}


def most_likely(table: "Embeddings") -> list[str | None]:
    """The most likely expression of each face in a table with attributes; None where there is no face."""
    assert table.attributes is not None
    places = {name: i for i, name in enumerate(table.meta["attributes"]) if name.startswith(EXPRESSION)}
    names = [name.removeprefix(EXPRESSION) for name in places]
    values = table.attributes[:, list(places.values())]
    known = ~np.isnan(values).any(1) if names else np.zeros(len(values), bool)
    return [names[int(row.argmax())] if good else None for row, good in zip(values, known, strict=True)]


def numbers_of(table: "Embeddings") -> dict[str, np.ndarray]:
    """`faces` and `attributes`, as far as a table has them."""
    both = {"faces": table.faces, "attributes": table.attributes}
    return {kind: values for kind, values in both.items() if values is not None}


def columns_of(meta: dict[str, Any]) -> dict[str, slice]:
    """The codes that a table has a column of its own for, each with its place in the rows of `vectors`."""
    several = meta.get("columns") or {meta.get("branch", ""): {"dimension": meta["dimension"]}}
    ends = accumulate(column["dimension"] for column in several.values())
    return {n: slice(e - c["dimension"], e) for (n, c), e in zip(several.items(), ends, strict=True)}


def meta_of_branch(meta: dict[str, Any], name: str) -> dict[str, Any]:
    """The metadata of a table with the code of one branch alone."""
    column = meta.get("columns", {}).get(name, {})
    return {key: value for key, value in meta.items() if key != "columns"} | {"branch": name, **column}


def compared_branch(meta: dict[str, Any], where: str, branch: str | None = None) -> str:
    """The code by which rows are compared: `branch`, or the one for identity, or the only one. Raises
    OptionError if `where` has several others, or none of that name."""
    columns = columns_of(meta)
    if branch is None and IDENTITY not in columns and len(columns) > 1:
        raise OptionError(
            f"{where} has the codes {', '.join(columns)} but none for identity; choose one with --branch "
            f"{next(iter(columns))} (branch={next(iter(columns))!r})"
        )
    chosen = branch or (IDENTITY if IDENTITY in columns else next(iter(columns)))
    if chosen not in columns:
        raise OptionError(f"{where} has {', '.join(columns)}, not {chosen!r}")
    return chosen


def model_name(meta: dict[str, Any]) -> str:
    """Model and weights as `create_model` and timm take them; of weights without a name the model alone."""
    return ".".join(filter(None, (meta.get("model"), meta.get("tag"))))


def named_columns(meta: dict[str, Any], alone: str, prefix: str = "") -> dict[str, slice]:
    """`columns_of` by their names in a file: `alone`, or the branches behind a `prefix`."""
    columns = columns_of(meta)
    several = len(columns) > 1
    return {f"{prefix}{name}" if several else alone: place for name, place in columns.items()}


def similarity(a: Embeddings | np.ndarray, b: Embeddings | np.ndarray) -> np.ndarray:
    """Compute cosine similarities between two sets of embeddings.

    What a value means depends on weights and branch. For `identity`, MODEL_CARD.md ("Similarity of
    identities") has the distribution for the same and for different people, with thresholds; so has
    `facepcl/weights/index.json`. The other codes share a large component: subtract the mean of a table from
    both before you compare faces by them.

    Args:
        a: Embeddings of shape [N, D], or a table from `read_embeddings`.
        b: Embeddings of shape [M, D], or a table.

    Returns:
        Float32 array of shape [N, M] with values in [-1, 1]; NaN for rows with an error.

    Raises:
        TableError: The two tables were computed with different weights or preprocessing.
        OptionError: The arrays have different widths, or an argument is not an array; a table has several
            codes and none for identity, or was read without its vectors.

    Example:
        >>> table = facepcl.read_embeddings("embeddings.parquet")
        >>> facepcl.similarity(table.vectors[:1], table.vectors)
    """
    a, b = (t.branch(compared_branch(t.meta, "a table")) if isinstance(t, Embeddings) else t for t in (a, b))
    if isinstance(a, Embeddings) and isinstance(b, Embeddings) and a.meta.get("space") != b.meta.get("space"):
        one, other = describe_space(a.meta), describe_space(b.meta)
        raise TableError(
            f"the tables are in different spaces: {one} and {other}{if_replaced(one, other)}; "
            "embed both with the same weights, branch and pool"
        )
    x, y = _vectors(a), _vectors(b)
    if x.shape[1] != y.shape[1]:
        raise OptionError(f"vectors of {x.shape[1]} and {y.shape[1]} numbers cannot be compared")
    return unit(x) @ unit(y).T


def _vectors(given: Any) -> np.ndarray:
    """Embeddings as float32 `[N, D]`."""
    found: Any = given.vectors if isinstance(given, Embeddings) else given
    if isinstance(given, Embeddings) and not found.shape[1]:
        raise OptionError(NO_VECTORS)
    if hasattr(found, "detach"):  # a tensor, of any device
        found = found.detach().cpu().float()
    try:
        found = np.asarray(found, np.float32)
    except (TypeError, ValueError):  # such as paths and images
        found = np.empty(())
    if found.ndim not in (1, 2):
        raise OptionError(
            f"similarity takes embeddings, arrays [N, D] or tables of read_embeddings, not {_kind(given)}; "
            "embed images first, as in FaceEmbedder()(['a.jpg', 'b.jpg'])"
        )
    return np.atleast_2d(found)


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" {list(shape)}" if shape is not None else "")


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors `[N, D]` at length 1; those without a length stay 0."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def describe_space(meta: dict[str, Any]) -> str:
    """A space in words: model, branch, pool and its hash."""
    flip = "/flip" if meta.get("flip") else ""
    return f"{meta.get('model')} {meta.get('branch')}/{meta.get('pool')}{flip} ({meta.get('space')})"
