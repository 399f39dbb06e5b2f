"""One face drawn with another's pose: what the decoder makes of two codes, and the sheet of all of them."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from facepcl.models.decoder import CODE, CODE_SIDE, resize_maps

CHANNELS = CODE // CODE_SIDE**2
SIDE, GAP = 64, 8  # pixels of what is drawn, and between the pictures and what is drawn of them


def draw_swaps(decoder: torch.nn.Module, face: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Pictures uint8 `[N, M, 64, 64, 3]`: the face codes `[N, D]`, each under each of the pose codes `[M, D]`
    (docs/METHOD.md, section 4.1)."""
    faces, poses = map(_for_decoder, (face, pose))
    with torch.inference_mode():
        rows = torch.stack([decoder(F.normalize(code + poses)) for code in faces])
    levels = (rows.clamp(0, 1) * 255).round().to(torch.uint8)  # a decoder may overshoot
    return levels.permute(0, 1, 3, 4, 2).numpy()


def _for_decoder(codes: np.ndarray) -> torch.Tensor:
    """Codes of square inputs of any size as the decoder takes them, `[N, 2048]`."""
    side = math.isqrt(codes.shape[1] // CHANNELS)
    return resize_maps(torch.from_numpy(codes).view(-1, CHANNELS, side, side)).flatten(1)


def swap_sheet(pixels: np.ndarray, drawn: np.ndarray, side: int = SIDE) -> Image.Image:
    """N crops uint8 `[N, H, W, 3]` on the left and on top, what is drawn of them `[N, N, 64, 64, 3]` between:
    an image of `side` (N + 1) + 8 pixels a side, whose rows have one face and whose columns one pose."""
    start = side + GAP
    sheet = Image.new("RGB", (start + side * len(pixels),) * 2, "white")
    for i, (own, row) in enumerate(zip(pixels, drawn, strict=True)):
        sheet.paste(_tile(own, side), (0, start + side * i))
        sheet.paste(_tile(own, side), (start + side * i, 0))
        for j, picture in enumerate(row):
            sheet.paste(_tile(picture, side), (start + side * j, start + side * i))
    return sheet


def _tile(pixels: Any, side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
