"""Contact sheets: the nearest neighbours of some faces by identity, and by the pose code."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from facepcl.data.sources import items_named, printable, shard_of
from facepcl.data.video import clock, time_of, video_of
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.embeddings import Embeddings, similarity, unit
from facepcl.embedding.encoder import IDENTITY
from facepcl.errors import OptionError, shortened
from facepcl.images.face import Face
from facepcl.images.sheet import font, lines_of, save_sheet

LIMIT = 2000  # images that are compared: a fair sample of the table
TARS = 4  # that they come from at most: a tar is read from its beginning
QUERIES, NEIGHBOURS = 8, 8
MOST_QUERIES = 100
CENTRE_FROM = 16  # centred codes of n images have a mean cosine of -1 / (n - 1): two would always show -1
# Crops as squares of so many grey pixels, and the cosine, about their means, from which two are the same
# picture. All of 400 re-encoded, resized or cropped copies of LFW's crops reach it, of different photos there
# 20 pairs in 7,157 of one person and 28 in 2 million of two; of frames of YouTube Faces that follow each
# other, seconds apart, 485 in 1,688.
SAME_SIDE, SAME = 8, 0.95
TILE, GAP, HEAD = 104, 8, 62
NUMBER, LINE = 16, 12  # heights of a cosine, and of a line of a name
LEFT = 2 * TILE + 96  # the query, twice the size, and what the rows are
WIDTH = LEFT + NEIGHBOURS * (TILE + GAP) + GAP
ROWS = {
    IDENTITY: "identity:\nsimilar faces",
    "face": "face code:\nsimilar faces",
    "pose": "pose code:\nsimilar pose",
}


class Sample(NamedTuple):
    """One image: its path, pixels uint8 `[S, S, 3]`, and its vectors `[D]` by branch."""

    path: str
    pixels: np.ndarray
    vectors: dict[str, np.ndarray]


class Neighbour(NamedTuple):
    """An image near a query, and its cosine to it."""

    sample: Sample
    cosine: float


def check_queries(queries: int | Sequence[str]) -> None:
    """Raise OptionError for what cannot be drawn: before the work."""
    if isinstance(queries, int):
        is_valid = 1 <= queries <= MOST_QUERIES
    else:
        is_list = isinstance(queries, Sequence) and not isinstance(queries, str)
        is_valid = is_list and len(queries) > 0 and all(isinstance(name, str) for name in queries)
    if not is_valid:
        raise OptionError(
            f"queries must be an int between 1 and {MOST_QUERIES}, or a list of names, as in "
            f"['a.jpg', 'b.jpg'], not {queries!r:.80}"
        )


def draw_sheet(
    table: Embeddings,
    embedder: FaceEmbedder,
    sources: Sequence[str],
    path: str | Path,
    workers: int | None = None,
    queries: int | Sequence[str] = QUERIES,
) -> None:
    """Write a sheet of a table: for each of a few faces its nearest neighbours by identity, or by the face
    code of weights without a head for it, and by the pose code.

    `queries`: so many faces, spread over the table, or those of the images with these paths or names. Images
    of the same picture as the query, or as a nearer neighbour, are left out. The images of the sample are
    read and embedded again; one that is gone is left out.

    Raises OptionError for a name that is none of the table's.
    """
    rows = _sample(table)
    named = None if isinstance(queries, int) else _rows_named(table, queries)
    wanted = sorted({*rows, *(named or [])})
    samples = list(_embed(table, wanted, embedder, sources, workers))
    if isinstance(queries, int):
        samples.sort(key=lambda sample: sample.path)
        places = np.linspace(0, len(samples) - 1, min(queries, len(samples))).round().astype(int)
        asked = np.unique(places).tolist()
    else:
        order = {table.paths[row]: place for place, row in enumerate(named or [])}
        asked = [place for place, sample in enumerate(samples) if sample.path in order]
        asked.sort(key=lambda place: order[samples[place].path])
    branches = (embedder.likeness, "pose")
    found = {branch: nearest(samples, asked, branch) for branch in branches}
    blocks = [
        _draw_query(samples[place], {branch: found[branch][number] for branch in branches})
        for number, place in enumerate(asked[:MOST_QUERIES])
    ]
    title = " and by ".join(ROWS[branch].partition(":")[0] for branch in branches)
    codes = [branch for branch in branches if branch != IDENTITY]
    centred = f"; {' and '.join(codes)} codes are centred first" if len(samples) >= CENTRE_FROM else ""
    kind = "images" if table.faces is None else "faces"
    compared = f"{len(samples):,} of {sum(error is None for error in table.errors):,} {kind}"
    subtitle = f"cosine, among {compared}{centred}; the same picture is shown once"
    save_sheet(stacked(f"Nearest neighbours by {title}", subtitle, blocks, HEAD, WIDTH, GAP), path)


def stacked(
    title: str, subtitle: str, blocks: Sequence[Image.Image], head: int, width: int, left: int
) -> Image.Image:
    """A sheet of a title of so many pixels, `head`, and blocks below each other."""
    sheet = Image.new("RGB", (width, head + sum(block.height for block in blocks)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((left, 8), title, "black", font(18))
    pen.text((left, 34), subtitle, "dimgray", font(12))
    for block in blocks:
        sheet.paste(block, (0, head))
        head += block.height
    return sheet


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
        if batch.good:
            paths = [batch.rows.paths[row] for row in batch.good]
            yield from samples_of(embedder, paths, batch.pixels, batch.maps)


def samples_of(embedder: FaceEmbedder, paths: Sequence[str], pixels: np.ndarray, maps: Any) -> list[Sample]:
    """Crops with their codes by likeness and by pose."""
    branches = (embedder.likeness, "pose")
    codes = zip(*(embedder.vectors(maps, branch) for branch in branches), strict=True)
    return [
        Sample(path, crop, dict(zip(branches, vectors, strict=True)))
        for path, crop, vectors in zip(paths, pixels, codes, strict=True)
    ]


def _faces(table: Embeddings, rows: list[int]) -> tuple[Face, ...] | None:
    if table.faces is None:
        return None
    return tuple(Face.from_columns(table.faces[row].tolist()) for row in rows)


def _rows_named(table: Embeddings, names: Sequence[str]) -> list[int]:
    """The rows without an error of the images with these paths or names, in the order of `names`."""
    rows: dict[str, list[int]] = {}
    for row, (path, error) in enumerate(zip(table.paths, table.errors, strict=True)):
        for name in {path, Path(path).name, stem(path)} if error is None else ():
            rows.setdefault(name, []).append(row)
    if missing := [name for name in names if name not in rows]:
        raise OptionError(
            f"no embedded image is called {shortened(missing[0])}; queries are paths of the table or file "
            "names, and with --resume the same command draws the sheet of the finished table"
        )
    return [row for name in names for row in rows[name]]


def nearest(samples: Sequence[Sample], asked: Sequence[int], branch: str) -> list[list[Neighbour]]:
    """The nearest neighbours under a branch of the samples in the places `asked`, each picture once."""
    if not asked:
        return []
    # codes share a large component, without which every pair looks alike; identity vectors do not
    cosines = _cosine(np.stack([sample.vectors[branch] for sample in samples]), centre=branch != IDENTITY)
    pictures = unit(np.stack([_grey(sample.pixels) for sample in samples]))
    return [_nearest_to(place, samples, cosines[place], pictures) for place in asked]


def _nearest_to(
    place: int, samples: Sequence[Sample], cosines: np.ndarray, pictures: np.ndarray
) -> list[Neighbour]:
    shown = [place]
    for other in map(int, np.argsort(-cosines, kind="stable")):
        if len(shown) > NEIGHBOURS:
            break
        if other != place and (pictures[shown] @ pictures[other]).max() < SAME:
            shown.append(other)
    return [Neighbour(samples[other], float(cosines[other])) for other in shown[1:]]


def _grey(pixels: np.ndarray) -> np.ndarray:
    """A crop as a few grey values about their mean, `[SAME_SIDE ** 2]`."""
    small = Image.fromarray(pixels).convert("L").resize((SAME_SIDE, SAME_SIDE), Image.Resampling.BOX)
    values = np.asarray(small, np.float32).ravel()
    return values - values.mean()


def _draw_query(query: Sample, found: dict[str, list[Neighbour]]) -> Image.Image:
    """One query beside a row of neighbours for each branch."""
    names = {branch: [_name(near.sample, TILE) for near in row] for branch, row in found.items()}
    heights = {b: TILE + NUMBER + LINE * max(map(len, n), default=0) + GAP for b, n in names.items()}
    name = _name(query, 2 * TILE)
    height = 2 * GAP + max(2 * TILE + 4 + LINE * len(name) + GAP, sum(heights.values()))
    block = Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(block)
    pen.line((GAP, 0, block.width - GAP, 0), fill="lightgray")
    paste(block, query.pixels, (GAP, 2 * GAP), 2 * TILE)
    _write(pen, name, GAP, 2 * GAP + 2 * TILE + 4)
    y = 2 * GAP
    for branch, row in found.items():
        pen.multiline_text((2 * TILE + 2 * GAP, y + TILE // 3), ROWS[branch], "black", font(12))
        for place, (near, lines) in enumerate(zip(row, names[branch], strict=True)):
            x = LEFT + place * (TILE + GAP)
            paste(block, near.sample.pixels, (x, y), TILE)
            pen.text((x, y + TILE + 1), f"{near.cosine:.2f}", "black", font(12))
            _write(pen, lines, x, y + TILE + NUMBER)
        y += heights[branch]
    return block


def _name(sample: Sample, width: int) -> list[str]:
    return lines_of(stem(sample.path), 10, width)


def _write(pen: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int) -> None:
    for number, line in enumerate(lines):
        pen.text((x, y + LINE * number), line, "dimgray", font(10, line))


def _cosine(codes: np.ndarray, centre: bool = True) -> np.ndarray:
    centred = codes - codes.mean(0) if centre and len(codes) >= CENTRE_FROM else codes
    return similarity(centred, centred)


def paste(sheet: Image.Image, pixels: np.ndarray, at: tuple[int, int], size: int) -> None:
    """Draw pixels uint8 `[S, S, 3]` as a square of `size`."""
    sheet.paste(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC), at)


def stem(path: str) -> str:
    """The name of a file without its ending, or of a video with the time of a frame."""
    if video := video_of(path):
        return f"{Path(video).name}, {clock(time_of(path) or 0.0)}"
    return Path(path).name.rpartition(".")[0] or Path(path).name
