"""The sheet of a search: each query beside the faces that were found for it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from facepcl.data.file_types import Selection
from facepcl.data.sources import Entry, Item, read_items, shard_of
from facepcl.data.workers import Readers
from facepcl.embedding.contact_sheet import GAP, paste, stacked, stem
from facepcl.embedding.embeddings import IDENTITY
from facepcl.errors import ImageError, RemoteError
from facepcl.images.face import Face
from facepcl.images.geometry import TEMPLATES
from facepcl.images.sheet import font, lines_of, save_sheet
from facepcl.images.transform import Transform
from facepcl.utils.cpus import cores
from facepcl.utils.futures import futures_in_order

if TYPE_CHECKING:
    from facepcl.embedding.search import SearchResult

LIMIT = 50  # queries that are drawn
TILE, ACROSS = 128, 5
QUERY = 2 * TILE
HEAD, SIMILARITY, LINE = 60, 17, 13  # heights of the title, of a cosine and of a line of a name
LEFT = QUERY + 5 * GAP
WIDTH = LEFT + ACROSS * (TILE + GAP) + GAP
GONE = "gainsboro"


class _Picture(NamedTuple):
    """What is drawn once: the face, or the whole image, of a path."""

    path: str
    face: Face | None


def draw_results(
    results: Sequence["SearchResult"], meta: dict[str, Any], subtitle: str, path: str | Path
) -> None:
    """Write a sheet: for each query its face, and the faces that were found, with their cosines and names.

    Faces are cut out of photos by the landmarks of the table. An image that is gone is an empty tile.
    """
    shown = results[:LIMIT]
    pixels = _read({picture for result in shown for picture in _pictures(result)}, meta)
    blocks = [_draw_result(result, pixels) for result in shown]
    named = "identity" if meta["branch"] == IDENTITY else f"the {meta['branch']} code"
    left_out = f"; the first {LIMIT} of {len(results):,} queries" if len(results) > LIMIT else ""
    subtitle = f"cosine similarity in {subtitle}{left_out}"
    save_sheet(stacked(f"Nearest faces by {named}", subtitle, blocks, HEAD, WIDTH, 2 * GAP), path)


def _pictures(result: "SearchResult") -> Iterator[_Picture]:
    yield _Picture(result.query, result.face)
    yield from (_Picture(match.path, match.face) for match in result.matches)


def _read(wanted: set[_Picture], meta: dict[str, Any]) -> dict[_Picture, np.ndarray]:
    """The pixels uint8 `[S, S, 3]` of what can be read of it."""
    square = TEMPLATES[(meta.get("align") or {}).get("template", "face")]
    by_source: dict[str, dict[str, list[_Picture]]] = {}
    for picture in sorted(wanted, key=lambda picture: picture.path):
        source = shard_of(picture.path) or picture.path
        by_source.setdefault(source, {}).setdefault(picture.path, []).append(picture)
    asked: list[_Picture] = []

    def items() -> Iterator[list[Item]]:
        for source, pictures in by_source.items():
            for item in _found(source, set(pictures), meta.get("fps") or 0.0):
                for picture in pictures[item.path]:
                    with suppress(ImageError):  # landmarks that are no face's
                        item = item._replace(square=picture.face and square(picture.face.landmarks))
                        asked.append(picture)
                        yield [item]

    read: dict[_Picture, np.ndarray] = {}
    with Readers(Transform.square(QUERY), cores()) as readers:
        for number, future in enumerate(futures_in_order(readers.submit, items(), cores())):
            with suppress(RemoteError):  # of a drive that fails: an empty tile
                if (pixels := future.result()[0].pixels) is not None:
                    read[asked[number]] = pixels
    return read


def _found(source: str, paths: set[str], fps: float) -> Iterator[Item]:
    """The images of these paths: the file `source` itself, members of a tar or frames of a video, which are
    read up to the last of them."""
    with suppress(RemoteError):  # a drive or a server that is gone: so are its images
        for item in read_items([Entry(source)], selection=Selection(all_files=True, fps=fps)):
            if item.path in paths:
                paths.remove(item.path)
                yield item
            if not paths:
                return


def _draw_result(result: "SearchResult", pixels: dict[_Picture, np.ndarray]) -> Image.Image:
    captions = [_caption(match.path, match.number) for match in result.matches]
    rows = [captions[first : first + ACROSS] for first in range(0, len(captions), ACROSS)]
    heights = [TILE + SIMILARITY + LINE * max(map(len, row)) + 2 * GAP for row in rows]
    row_of = "" if result.row is None else f"row {result.row}: "
    name = lines_of(f"{row_of}{stem(result.query)}", 13, QUERY)
    if not result.matches:
        name += lines_of(result.error or "no face is similar enough", 13, QUERY)
    height = max(QUERY + 16 * len(name), sum(heights)) + 4 * GAP
    block = Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(block)
    pen.line((2 * GAP, 0, block.width - 2 * GAP, 0), fill="lightgray")
    query, *faces = _pictures(result)
    _draw_tile(block, pixels.get(query), (2 * GAP, 2 * GAP), QUERY)
    for line, text in enumerate(name):
        pen.text((2 * GAP, 2 * GAP + QUERY + 4 + 16 * line), text, "black", font(13, text))
    for place, (match, face) in enumerate(zip(result.matches, faces, strict=True)):
        row, column = divmod(place, ACROSS)
        x, y = LEFT + column * (TILE + GAP), 2 * GAP + sum(heights[:row])
        _draw_tile(block, pixels.get(face), (x, y), TILE)
        pen.text((x, y + TILE + 1), f"{match.similarity:.3f}", "black", font(13))
        for line, text in enumerate(captions[place]):
            pen.text((x, y + TILE + SIMILARITY + LINE * line), text, "dimgray", font(11, text))
    return block


def _draw_tile(block: Image.Image, pixels: np.ndarray | None, at: tuple[int, int], size: int) -> None:
    if pixels is not None:
        paste(block, pixels, at, size)
        return
    pen, (x, y) = ImageDraw.Draw(block), at
    pen.rectangle((x, y, x + size - 1, y + size - 1), outline=GONE)
    pen.text((x + size / 2, y + size / 2), "cannot be read", "gray", font(12), anchor="mm")


def _caption(path: str, number: int | None) -> list[str]:
    return lines_of(stem(path), 11, TILE) + ([f"face {number}"] if number else [])
