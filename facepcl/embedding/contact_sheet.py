"""Contact sheets: the nearest neighbours of some faces under the face code, and under the pose code."""

import hashlib
import heapq
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facepcl.embedding.embedder import Batch
from facepcl.embedding.embeddings import unit
from facepcl.embedding.encoder import Encoder
from facepcl.errors import OptionError
from facepcl.utils.files import atomic

LIMIT = 2000  # images kept for the sheet: a fair sample of the source, 12 kB and two codes each
QUERIES, NEIGHBOURS = 8, 8
CENTRE_FROM = 16  # centred codes of n images have a mean cosine of -1 / (n - 1): two would always show -1
TILE, GAP, CAPTION = 96, 6, 16
LEFT = 2 * TILE + 96  # the query, twice the size, and what the rows are
ROWS = (("face", "face code:\nlike this face"), ("pose", "pose code:\nturned like it"))


class Kept(NamedTuple):
    """One image of the sample: its path, pixels uint8 `[S, S, 3]`, and its face and pose codes `[D]`; the
    images with the smallest keys make the sample."""

    key: int
    path: str
    pixels: np.ndarray
    face: np.ndarray
    pose: np.ndarray


class Sheet:
    """Collects a sample of what goes by, then draws it.

    Which rows of a table are in it depends on their numbers only, so a job that was interrupted draws the
    same sheet. Raises OptionError for an encoder without branches.
    """

    def __init__(self, encoder: Encoder) -> None:
        if not encoder.has_branches:
            raise OptionError(f"a sheet compares face and pose branch, and {encoder.name} has none")
        self._kept: list[Kept] = []
        self._new: list[Kept] = []
        self._limit = float("inf")

    def add(self, batch: Batch, start: int) -> None:
        """Take up the images of `batch`, whose rows begin with number `start`, or some of them."""
        for place, row in enumerate(batch.good):
            key = _key(start + row)
            if key < self._limit:
                codes = (batch.maps[b][place].flatten().float().cpu().numpy() for b in ("face", "pose"))
                self._new.append(Kept(key, batch.rows.paths[row], batch.pixels[place].copy(), *codes))

    def taken(self) -> dict[str, np.ndarray] | None:
        """What was taken up since the last call, as arrays for `restore`; None = nothing."""
        new, self._new = self._new, []
        self._keep(new)
        if not new:
            return None
        keys = np.array([kept.key for kept in new], np.uint64)
        paths = np.array([json.dumps(kept.path) for kept in new], np.str_)  # names need not be UTF-8
        pixels, face, pose = (np.stack(column) for column in list(zip(*new, strict=True))[2:])
        return {"keys": keys, "paths": paths, "pixels": pixels, "face": face, "pose": pose}

    def restore(self, samples: Iterable[dict[str, np.ndarray]]) -> None:
        """Take up again what `taken` gave."""
        for sample in samples:
            columns = sample["keys"].tolist(), map(json.loads, sample["paths"].tolist())
            rest = sample["pixels"], sample["face"], sample["pose"]
            self._keep([Kept(*values) for values in zip(*columns, *rest, strict=True)])

    def _keep(self, new: list[Kept]) -> None:
        self._kept = heapq.nsmallest(LIMIT, [*self._kept, *new], key=lambda kept: kept.key)
        if len(self._kept) == LIMIT:
            self._limit = self._kept[-1].key

    def draw(self, path: str | Path, count: int) -> None:
        """Write the sheet of `count` images as a PNG: two rows of neighbours for each of a few faces, spread
        over the source."""
        kept = sorted(self._kept, key=lambda k: k.path)
        queries = np.unique(np.linspace(0, len(kept) - 1, min(QUERIES, len(kept))).round().astype(int))
        neighbours = min(NEIGHBOURS, max(len(kept) - 1, 0))
        width = LEFT + NEIGHBOURS * (TILE + GAP) + GAP
        block = 2 * (TILE + CAPTION + GAP) + 2 * GAP
        sheet = Image.new("RGB", (width, 58 + max(1, len(queries)) * block), "white")
        pen = ImageDraw.Draw(sheet)
        pen.text(
            (GAP, 8), "Nearest neighbours under the face code and under the pose code", "black", _font(18)
        )
        centred = "centred " if len(kept) >= CENTRE_FROM else ""
        subtitle = f"cosine of the {centred}codes, among {len(kept):,} of {count:,} images"
        pen.text((GAP, 34), subtitle, "dimgray", _font(12))
        similar = {name: _cosine(np.stack([getattr(k, name) for k in kept])) for name, _ in ROWS if kept}
        for number, query in enumerate(queries):
            _draw_query(sheet, 58 + number * block, kept, int(query), similar, neighbours)
        with atomic(path) as temporary:
            sheet.save(temporary, "PNG")


def _draw_query(
    sheet: Image.Image, top: int, kept: Sequence[Kept], query: int, similar: dict[str, np.ndarray], count: int
) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.line((GAP, top - GAP, sheet.width - GAP, top - GAP), fill="lightgray")
    _paste(sheet, kept[query], (GAP, top), 2 * TILE)
    pen.text((GAP, top + 2 * TILE + 2), _short(kept[query].path, 30), "black", _font(11))
    for row, (name, caption) in enumerate(ROWS):
        y = top + row * (TILE + CAPTION + GAP)
        pen.multiline_text((2 * TILE + 3 * GAP, y + TILE // 3), caption, "black", _font(12))
        cosine = similar[name][query].copy()
        cosine[query] = -np.inf
        for place, other in enumerate(np.argsort(-cosine, kind="stable")[:count]):
            x = LEFT + place * (TILE + GAP)
            _paste(sheet, kept[other], (x, y), TILE)
            pen.text(
                (x, y + TILE + 1), f"{cosine[other]:.2f} {_short(kept[other].path, 11)}", "dimgray", _font(11)
            )


def _key(number: int) -> int:
    """A fixed random number of 64 bits for each row."""
    return int.from_bytes(hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8).digest(), "little")


def _cosine(codes: np.ndarray) -> np.ndarray:
    # Codes share a large common part; without it every pair looks alike.
    centred = codes - codes.mean(0) if len(codes) >= CENTRE_FROM else codes
    directions = unit(centred)
    return directions @ directions.T


def _paste(sheet: Image.Image, kept: Kept, at: tuple[int, int], size: int) -> None:
    sheet.paste(Image.fromarray(kept.pixels).resize((size, size), Image.Resampling.BICUBIC), at)


def _short(path: str, letters: int) -> str:
    name = Path(path).name.rpartition(".")[0] or Path(path).name
    return name if len(name) <= letters else "…" + name[1 - letters :]  # such names differ at the end


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
