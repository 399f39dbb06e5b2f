"""A face cut out of its image: `Square` and `cut_square`."""

from typing import NamedTuple

import numpy as np
from PIL import Image


class Square(NamedTuple):
    """A square around a face in pixels of its image, the first pixel's centre at 0.5: `x`, `y` and `half`
    its side; `angle` in degrees: how far the square, and the face in it, is turned clockwise."""

    x: float
    y: float
    half: float
    angle: float = 0.0


def cut_square(image: Image.Image, square: Square) -> Image.Image:
    """The part of an RGB image inside `square`, upright; beyond the image its edge goes on."""
    if square.angle:
        # of the surroundings only what the turned square can touch, so that a photograph costs no more
        image, square = _near(image, square, 1.5)
        image = image.rotate(square.angle, Image.Resampling.BICUBIC, center=(square.x, square.y))
    return _near(image, square, 1.0)[0]


def _near(image: Image.Image, square: Square, reach: float) -> tuple[Image.Image, Square]:
    """The image within `reach` half sides of the centre, and the square in it."""
    left, top = round(square.x - reach * square.half), round(square.y - reach * square.half)
    side = max(1, round(2 * reach * square.half))
    rows = np.arange(top, top + side).clip(0, image.height - 1)
    columns = np.arange(left, left + side).clip(0, image.width - 1)
    part = Image.fromarray(np.asarray(image)[np.ix_(rows, columns)])
    return part, square._replace(x=square.x - left, y=square.y - top)
