"""A face cut out of its image: `Square`, around landmarks, and `cut_square`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

HALF_SIDE = 1.5  # of a crop, in eyes-to-mouth distances: what the model card tells users to feed


class Square(NamedTuple):
    """A square around a face in pixels of its image, the first pixel's centre at 0.5: `x`, `y` and `half`
    its side; `angle` in degrees: how far the square, and the face in it, is turned clockwise."""

    x: float
    y: float
    half: float
    angle: float = 0.0


def square_around(landmarks: Sequence[Sequence[float]], turn: bool) -> Square:
    """The crop that our weights expect around x, y of right eye, left eye, nose, right and left mouth corner:
    upright as the face if `turn`, else as the image."""
    points = np.array(landmarks, float)
    eyes, mouth, across = points[:2].mean(0), points[3:].mean(0), points[1] - points[0]
    x, y = (eyes + mouth) / 2
    angle = float(np.degrees(np.arctan2(across[1], across[0]))) if turn else 0.0
    return Square(float(x), float(y), HALF_SIDE * float(np.linalg.norm(mouth - eyes)), angle)


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
