"""Contact sheets: the nearest neighbours of some faces by identity, and by the pose code."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facepcl.data.sources import items_named, printable, shard_of
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.embeddings import Embeddings, unit
from facepcl.embedding.encoder import IDENTITY
from facepcl.images.face import Face
from facepcl.images.sheet import save_sheet

LIMIT = 2000  # images that are compared: a fair sample of the table
TARS = 4  # that they come from at most: a tar is read from its beginning
QUERIES, NEIGHBOURS = 8, 8
CENTRE_FROM = 16  # centred codes of n images have a mean cosine of -1 / (n - 1): two would always show -1
TILE, GAP, CAPTION = 96, 6, 16
LEFT = 2 * TILE + 96  # the query, twice the size, and what the rows are
ROWS = {
    IDENTITY: "identity:\nlike this face",
    "face": "face code:\nlike this face",
    "pose": "pose code:\nturned like it",
}


class Sample(NamedTuple):
    """One image: its path, pixels uint8 `[S, S, 3]`, and its vectors `[D]` by branch."""

    path: str
    pixels: np.ndarray
    vectors: dict[str, np.ndarray]


def draw_sheet(
    table: Embeddings,
    embedder: FaceEmbedder,
    sources: Sequence[str],
    path: str | Path,
    workers: int | None = None,
) -> None:
    """Write a sheet of a table as a PNG: for each of a few faces, spread over the table, its nearest
    neighbours by identity, or by the face code of weights without a head for it, and by the pose code.

    The images of the sample are read and embedded again; one that is gone is left out.
    """
    rows = _sample(table)
    samples = sorted(_embed(table, rows, embedder, sources, workers), key=lambda sample: sample.path)
    queries = np.unique(np.linspace(0, len(samples) - 1, min(QUERIES, len(samples))).round().astype(int))
    width = LEFT + NEIGHBOURS * (TILE + GAP) + GAP
    block = 2 * (TILE + CAPTION + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, 58 + max(1, len(queries)) * block), "white")
    pen = ImageDraw.Draw(sheet)
    branches = (embedder.likeness, "pose")
    title = " and by ".join(ROWS[branch].partition(":")[0] for branch in branches)
    pen.text((GAP, 8), f"Nearest neighbours by {title}", "black", font(18))
    centred = "; codes are centred first" if len(samples) >= CENTRE_FROM else ""
    count = sum(error is None for error in table.errors)
    subtitle = f"cosine, among {len(samples):,} of {count:,} images{centred}"
    pen.text((GAP, 34), subtitle, "dimgray", font(12))
    # codes share a large common part, without which every pair looks alike; identity vectors do not
    similar = {
        name: _cosine(np.stack([sample.vectors[name] for sample in samples]), centre=name != IDENTITY)
        for name in branches
        if samples
    }
    for number, query in enumerate(queries):
        _draw_query(sheet, 58 + number * block, samples, int(query), similar)
    save_sheet(sheet, path)


def _sample(table: Embeddings) -> list[int]:
    """Numbers of `LIMIT` rows or fewer without an error, at random but always the same, in order."""
    good = np.flatnonzero([error is None for error in table.errors])
    tars = [shard_of(table.paths[row]) for row in good]
    listed = sorted({tar for tar in tars if tar})
    chosen = {None, *(listed[i] for i in np.linspace(0, len(listed) - 1, min(TARS, len(listed))).astype(int))}
    good = good[[tar in chosen for tar in tars]] if len(good) else good
    picked = np.random.default_rng(0).choice(good, min(LIMIT, len(good)), replace=False)
    return sorted(picked.tolist())


def _embed(
    table: Embeddings, rows: list[int], embedder: FaceEmbedder, sources: Sequence[str], workers: int | None
) -> Iterator[Sample]:
    wanted: dict[str, list[int]] = {}
    for row in rows:
        wanted.setdefault(table.paths[row], []).append(row)
    items = (
        item._replace(faces=_faces(table, wanted[str(printable(item.path))]))
        for item in items_named(sources, wanted)
    )
    for batch in embedder.batches(items, workers, all_branches=True):
        vectors = {b: embedder.vectors(batch.maps, b) for b in (embedder.likeness, "pose") if batch.good}
        for place, row in enumerate(batch.good):
            yield Sample(
                batch.rows.paths[row], batch.pixels[place], {b: v[place] for b, v in vectors.items()}
            )


def _faces(table: Embeddings, rows: list[int]) -> tuple[Face, ...] | None:
    if table.faces is None:
        return None
    return tuple(Face.from_columns(table.faces[row].tolist()) for row in rows)


def _draw_query(
    sheet: Image.Image, top: int, samples: Sequence[Sample], query: int, similar: dict[str, np.ndarray]
) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.line((GAP, top - GAP, sheet.width - GAP, top - GAP), fill="lightgray")
    paste(sheet, samples[query].pixels, (GAP, top), 2 * TILE)
    pen.text((GAP, top + 2 * TILE + 2), _short(samples[query].path, 30), "black", font(11))
    for row, (name, cosines) in enumerate(similar.items()):
        y = top + row * (TILE + CAPTION + GAP)
        pen.multiline_text((2 * TILE + 3 * GAP, y + TILE // 3), ROWS[name], "black", font(12))
        cosine = cosines[query].copy()
        cosine[query] = -np.inf
        others = np.argsort(-cosine, kind="stable")[: min(NEIGHBOURS, len(samples) - 1)]
        for place, other in enumerate(others):
            x = LEFT + place * (TILE + GAP)
            paste(sheet, samples[other].pixels, (x, y), TILE)
            pen.text(
                (x, y + TILE + 1),
                f"{cosine[other]:.2f} {_short(samples[other].path, 11)}",
                "dimgray",
                font(11),
            )


def _cosine(codes: np.ndarray, centre: bool = True) -> np.ndarray:
    centred = codes - codes.mean(0) if centre and len(codes) >= CENTRE_FROM else codes
    directions = unit(centred)
    return directions @ directions.T


def paste(sheet: Image.Image, pixels: np.ndarray, at: tuple[int, int], size: int) -> None:
    """Draw pixels uint8 `[S, S, 3]` as a square of `size`."""
    sheet.paste(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC), at)


def stem(path: str) -> str:
    """The name of a file without its ending."""
    return Path(path).name.rpartition(".")[0] or Path(path).name


def _short(path: str, letters: int) -> str:
    name = stem(path)
    return name if len(name) <= letters else "…" + name[1 - letters :]  # such names differ at the end


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of sheets."""
    return ImageFont.load_default(size=size)
