"""A sheet of aligned faces, to look at: whether they are faces, upright, and cut alike."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facepcl._files import atomic
from facepcl.images import open_image

LIMIT, ACROSS = 240, 16  # faces on the sheet, spread evenly over all, and in a row
TILE, GAP, CAPTION, HEAD = 96, 4, 13, 34


def draw_faces(folder: Path, rows: Sequence[dict[str, str]], path: str | Path) -> None:
    """Write a PNG of crops below `folder`, each under its score: `rows` of `faces.csv` that have one."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(LIMIT, len(rows))).round().astype(int)).tolist()
    lines = max(1, -(-len(chosen) // ACROSS))
    width, height = ACROSS * (TILE + GAP) + GAP, HEAD + lines * (TILE + CAPTION + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 8), f"{len(chosen):,} of {len(rows):,} aligned faces", "black", ImageFont.load_default(16))
    small = ImageFont.load_default(10)
    for place, number in enumerate(chosen):
        row = rows[number]
        x, y = GAP + place % ACROSS * (TILE + GAP), HEAD + place // ACROSS * (TILE + CAPTION + GAP)
        sheet.paste(open_image(folder / row["path"]).resize((TILE, TILE), Image.Resampling.BICUBIC), (x, y))
        name = Path(row["path"]).stem
        caption = f"{row['score'][:4]} {name if len(name) < 14 else '…' + name[-12:]}".strip()
        pen.text((x, y + TILE), caption, "dimgray", small)
    with atomic(path) as temporary:
        sheet.save(temporary, "PNG")
