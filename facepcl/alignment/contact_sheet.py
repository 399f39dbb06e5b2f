"""A sheet of aligned faces, to look at: whether they are faces, upright, and cut alike."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from facepcl.errors import ImageError, MissingPath
from facepcl.images.decode import open_image
from facepcl.images.sheet import end_of, font, save_sheet

LIMIT, ACROSS = 240, 16  # faces on the sheet, spread evenly over all, and in a row
TILE, GAP, CAPTION, HEAD = 96, 4, 25, 34


def draw_faces(folder: Path, rows: Iterable[dict[str, str]], count: int, path: str | Path) -> None:
    """Write a sheet of crops below `folder`, each above its name and score: of the `count` rows of
    `faces.csv` that have one."""
    wanted = set(np.linspace(0, count - 1, min(LIMIT, count)).round().astype(int).tolist())
    chosen = [row for number, row in enumerate(rows) if number in wanted]
    lines = max(1, -(-len(chosen) // ACROSS))
    width, height = ACROSS * (TILE + GAP) + GAP, HEAD + lines * (TILE + CAPTION + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 8), f"{len(chosen):,} of {count:,} aligned faces", "black", font(16))
    for place, row in enumerate(chosen):
        x, y = GAP + place % ACROSS * (TILE + GAP), HEAD + place // ACROSS * (TILE + CAPTION + GAP)
        with suppress(ImageError, MissingPath):  # deleted since
            face = open_image(folder / row["path"])
            sheet.paste(face.resize((TILE, TILE), Image.Resampling.BICUBIC), (x, y))
        name = end_of(Path(row["path"]).stem, 10, TILE)
        pen.text((x, y + TILE), name, "dimgray", font(10, name))
        pen.text((x, y + TILE + 12), row["score"][:4], "dimgray", font(10))
    save_sheet(sheet, path)
