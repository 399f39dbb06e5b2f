"""Which faces of a table look like these: `search`."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facepcl.data.file_types import ADVICE, Selection, check_no_source
from facepcl.data.sources import Entry, as_sources, list_entries, read_items
from facepcl.embedding.embeddings import (
    Embeddings,
    Match,
    compared_branch,
    describe_space,
    meta_of_branch,
    model_name,
)
from facepcl.embedding.nearest import Nearest, check_row, check_top, match_of
from facepcl.embedding.scan import Files, Memory, open_table
from facepcl.errors import OptionError, TableError, WeightsError
from facepcl.images.face import Face
from facepcl.images.geometry import looks_like_crop
from facepcl.images.sheet import check_sheet
from facepcl.jobs.state import if_replaced
from facepcl.utils.progress import Progress
from facepcl.utils.torch_state import default_torch_state

# What needs timm and torchvision is imported where images are: a search for rows starts without them.
if TYPE_CHECKING:
    from facepcl.embedding.embedder import FaceEmbedder

_logger = logging.getLogger("facepcl")

LONG = 100_000  # rows of a table from which on a search takes long enough for a progress bar


@dataclass(frozen=True)
class SearchResult:
    """What a search found for one query.

    Attributes:
        query: The path of the photo or crop, also of a row; `vector N` for a vector.
        matches: The nearest rows, nearest first.
        error: Why the query could not be compared; None otherwise.
        row: The number of the row that was the query.
        face: Where faces were looked for: the one that was compared.
    """

    query: str
    matches: tuple[Match, ...] = ()
    error: str | None = None
    row: int | None = None
    face: Face | None = None


def search(
    queries: str | Path | Sequence[str | Path] | np.ndarray,
    table: str | Path | Embeddings,
    top: int = 10,
    *,
    rows: int | Sequence[int] = (),
    min_similarity: float | None = None,
    branch: str | None = None,
    model: str | None = None,
    crops: bool | None = None,
    detector: str | Path | None = None,
    device: str = "auto",
    sheet: str | Path | None = None,
    progress: bool = False,
) -> list[SearchResult]:
    """Find the rows of a table of embeddings that are most similar to photos, face crops or other rows.

    The search is exact. Parquet tables are read in blocks, so that memory does not grow with their size; npz
    and csv are read whole.

    Args:
        queries: Photos or face crops, as files, folders, globs or shards; or vectors, a float array of shape
            [N, D]. May be empty if there are `rows`.
        table: A table of `facepcl.embed`, a folder of Parquet tables, or `read_embeddings` of one.
        top: How many matches each query gets at most.
        rows: Numbers of rows of the table that are queries, too. A row is not among its own matches.
        min_similarity: Leave out matches with a lower cosine similarity.
        branch: The code to compare. The default is `identity` if the table has it, else its only one.
        model: The weights that made the table, for tables of weights without a name (`hf-hub:ORG/NAME`,
            `local-dir:FOLDER`). Otherwise the table names them.
        crops: True takes queries as face crops; False finds the most prominent face of each (needs
            `facepcl[align]`). None does what was done with the images of the table.
        detector: YuNet's ONNX file; None downloads it once from the Hub.
        device: Where queries are embedded, as for `FaceEmbedder`.
        sheet: A .png or .jpg on which to draw the queries and the faces that were found.
        progress: Show a progress bar.

    Returns:
        A result for each query, photos first, then rows. A query that could not be read has an `error`.

    Raises:
        OptionError: An argument is wrong, there is no such row, or the table has several codes and none for
            identity.
        TableError: The table cannot be read, or the weights give another space than the table has.
        MissingPath: A query or the table does not exist.
        WeightsError: There are no weights or no detector.

    Example:
        >>> [result] = facepcl.search("me.jpg", "faces.parquet", top=3)
        >>> [(match.path, match.similarity) for match in result.matches]
    """
    vectors = queries if isinstance(queries, np.ndarray) and queries.dtype.kind not in "OUS" else None
    sources = [] if vectors is not None else as_sources(queries)
    rows = list(rows) if isinstance(rows, Iterable) else [rows]
    _check_options(sources, vectors, rows, top, min_similarity, sheet)
    selection = Selection()
    entries = list_entries(sources, selection) if sources else None  # raises for what is not there
    opened = open_table(table)
    branch = compared_branch(opened.meta, opened.name, branch)
    meta = meta_of_branch(opened.meta, branch)
    asked = _of_rows(opened, branch, [check_row(row, len(opened), opened.name) for row in rows])
    if vectors is not None:
        asked = [*_of_vectors(vectors, meta["dimension"]), *asked]
    if entries:
        embedder = _load_embedder(opened.name, meta, model, crops, detector, device)
        asked = [*_of_images(embedder, entries, selection, opened.name), *asked]
    _logger.info("comparing %s (%s numbers) of %s", branch, meta["dimension"], model_name(meta))
    results = _compare(opened, branch, asked, top, min_similarity, progress)
    if sheet is not None:
        from facepcl.embedding.search_sheet import draw_results

        draw_results(results, meta, f"{opened.name}, {len(opened):,} rows", sheet)
    return results


@dataclass
class _Query:
    result: SearchResult  # without matches yet
    vector: np.ndarray | None = None


def _check_options(
    sources: list[str],
    vectors: np.ndarray | None,
    rows: Sequence[int],
    top: int,
    min_similarity: float | None,
    sheet: str | Path | None,
) -> None:
    """Raise for what cannot work, before anything is loaded."""
    if not sources and vectors is None and not rows:
        raise OptionError("there is nothing to search for: name a photo, or a row with --row N (rows=[N])")
    check_top(top, "top")
    if min_similarity is not None and not -1 <= min_similarity <= 1:
        raise OptionError(f"min_similarity {min_similarity}: a cosine similarity is between -1 and 1")
    if sheet is not None:
        check_no_source(sheet, sources)
        check_sheet(sheet)


def _of_vectors(vectors: np.ndarray, width: int) -> list[_Query]:
    if vectors.ndim != 2 or vectors.shape[1] != width or vectors.dtype.kind != "f":
        raise OptionError(
            f"queries are an array of {list(vectors.shape)} {vectors.dtype}, and vectors of this table are "
            f"float [N, {width}]; images are given by their paths"
        )
    return [
        _Query(SearchResult(f"vector {i}"), vector)
        if np.isfinite(vector).all()
        else _Query(SearchResult(f"vector {i}", (), "the vector is not finite"))
        for i, vector in enumerate(vectors)
    ]


def _of_rows(table: Memory | Files, branch: str, rows: list[int]) -> list[_Query]:
    found = {}
    for row, part, place in table.places(rows, vectors=True):
        match, error = match_of(part, place, row, 1.0), part.errors[place]
        result = SearchResult(match.path, (), error, row, None if error else match.face)
        found[row] = _Query(result, None if error else part.branch(branch).vectors[place])
    return [found[row] for row in rows]


def _of_images(
    embedder: "FaceEmbedder", entries: Iterator[Entry], selection: Selection, name: str
) -> list[_Query]:
    if embedder.alignment:
        _logger.info("queries are photos: the most prominent face of each is compared")
    else:
        _logger.info(
            "queries are treated as face crops, as the table's images are; for photos, add --no-crops "
            "(crops=False)"
        )
    asked, photos = [], 0
    batches = embedder.batches(read_items(entries, selection=selection))
    for row in chain.from_iterable(batch.rows.rows() for batch in batches):
        asked.append(_Query(SearchResult(row.path, (), row.error, None, row.face), row.vector))
        photos += bool(row.width and row.height and not looks_like_crop(row.width, row.height))
    selection.tell(ADVICE)
    if photos and not embedder.alignment:
        _logger.warning(
            "%d of these queries look like photos, not like the face crops that %s was made of: add "
            "--no-crops (crops=False)",
            photos,
            name,
        )
    return asked


def _load_embedder(
    name: str,
    meta: dict[str, Any],
    model: str | None,
    crops: bool | None,
    detector: str | Path | None,
    device: str,
) -> "FaceEmbedder":
    """What embeds queries into the space of `meta`. Raises TableError if these weights do not."""
    from facepcl.embedding.embedder import FaceEmbedder
    from facepcl.embedding.encoder import FLIP, POOL, POSE
    from facepcl.embedding.int8 import INT8

    align = "align" in meta if crops is None else not crops
    if model is None and not meta.get("tag"):
        raise OptionError(
            f"{name} does not name the weights that made it (a {meta.get('model')}); name them with "
            "--model hf-hub:ORG/NAME or --model local-dir:FOLDER (model=)"
        )
    if detector is not None and not align:
        raise OptionError(
            f"{name} was made of face crops, and so are queries: add --no-crops (crops=False) to find the "
            "face in a photo, or leave out --detector"
        )
    sides = ((meta.get("preprocessing") or {}).get("input_size") or (3, 0, 0))[1:]
    try:
        embedder = FaceEmbedder(
            model or model_name(meta),
            meta["branch"],
            pool=meta.get("pool", POOL),
            flip=meta.get(FLIP, False) and meta["branch"] != POSE,
            size=sides[0] if sides[0] == sides[1] else 0,
            device=device,
            dtype=INT8 if meta.get("dtype") == INT8 else "float32",
            align=align,
            one=align,
            detector=detector,
        )
    except WeightsError as error:
        if model is None and "detector" not in str(error):
            raise WeightsError(f"{error}; {name} was made with them, but --model names others") from error
        raise
    own, other = describe_space(meta), describe_space(embedder.meta)
    if meta.get("space") != embedder.meta["space"]:
        raise TableError(
            f"{name} has the space {own}, but {model or model_name(meta)} gives {other}"
            f"{if_replaced(own, other)}; name the weights that made it with --model, or make the table again"
        )
    return embedder


def _compare(
    table: Memory | Files,
    branch: str,
    asked: list[_Query],
    top: int,
    least: float | None,
    progress: bool,
) -> list[SearchResult]:
    vectors = [query.vector for query in asked if query.vector is not None]
    found: list[list[tuple[int, float]]] = []
    if vectors and len(table):
        rows = (query.result.row for query in asked if query.vector is not None)
        own = {number: row for number, row in enumerate(rows) if row is not None}
        nearest = Nearest(np.stack(vectors), min(top, len(table)), least, own)
        bar = Progress(len(table), "rows", progress and len(table) >= LONG, "searching")
        with bar, default_torch_state():
            for count in table.visit(branch, nearest.add):
                bar.update(count)
        found = [nearest.found(number) for number in range(len(vectors))]
    places = {p.row: p for p in table.places(row for matches in found for row, _ in matches)}
    matches = (
        tuple(match_of(places[row].table, places[row].place, row, cosine) for row, cosine in some)
        for some in found
    )
    return [
        query.result if query.vector is None else replace(query.result, matches=next(matches, ()))
        for query in asked
    ]
