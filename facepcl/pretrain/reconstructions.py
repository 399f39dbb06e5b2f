"""Pictures of what the decoder draws, to look at while a run goes on."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from facepcl.utils.files import atomic

ROWS = (
    "image",
    "mirror",
    "face + pose'",
    "face' + pose",
    "face + pose",
    "face' + pose'",
)  # ' = code of the mirror
MARGIN = 92


def draw_reconstructions(
    path: Path, image: torch.Tensor, decoded: Sequence[torch.Tensor], columns: int = 8
) -> None:
    """Write a PNG grid: images `[B, 3, S, S]` in [0, 1], their mirrors, and the four decoded versions of
    both."""
    rows = [t.detach()[:columns].float().cpu() for t in (image, image.flip(3), *decoded)]
    size = image.shape[-1]
    sheet = Image.new("RGB", (MARGIN + size * len(rows[0]), size * len(rows)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for y, (caption, row) in enumerate(zip(ROWS, rows, strict=True)):
        pen.text((4, y * size + size // 2 - 6), caption, fill="black", font=font)
        for x, tile in enumerate(row):
            levels = (tile.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(levels), (MARGIN + x * size, y * size))
    with atomic(path) as temporary:
        sheet.save(temporary, "PNG")
