"""Which part of a photo becomes the crop of a face, and how it is cut.

`face` (the default) is the template that the weights of facepcl expect: centred between the middle of the
eyes and the middle of the mouth, half side 1.5 times their distance, eyes level. It is not fitted to five
points: where a head turns its eyes come together, and a fit would enlarge it; the distance from eyes to mouth
stays.

`arcface` is what most face recognisers expect: the similarity (turn, scale, shift) that brings the landmarks,
in the least squares, nearest to five published points of a 112 px crop.

Both are the same part of the photo at any size: for 64 or 224 pixels the points are scaled.

On a frontal face with the proportions of those five points, `face` is 1.09 times as wide as `arcface` and its
centre lies 0.14 sides lower: less forehead, more chin.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from facepcl.errors import ImageError

# `arcface_dst` of insightface (python-package/insightface/utils/face_align.py), for a crop of 112 x 112:
# right eye, left eye, nose, right and left mouth corner
ARCFACE_SIDE = 112
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
HALF_SIDE = 1.5  # of a crop, in eyes-to-mouth distances: what the model card tells users to feed
CROP_ASPECT, CROP_PIXELS = 4 / 3, 640 * 640  # beyond either an image is a photo, not a face crop


def looks_like_crop(width: int, height: int) -> bool:
    """Whether an image of this size may be a face crop: near square, and not of a camera's size."""
    return max(width, height) <= CROP_ASPECT * min(width, height) and width * height <= CROP_PIXELS


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
        # of the surroundings only what the turned square can touch, so that a photo costs no more
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


def cut_to_size(image: Image.Image, square: Square, size: int) -> Image.Image:
    """The part of an RGB image inside `square` as `size` x `size` pixels, upright, to a fraction of a pixel;
    beyond the image its edge goes on.

    A warp looks at a few pixels of its source only, so where a face shrinks by much it would skip the others
    (aliasing). Hence three steps: the surroundings are averaged down to twice the size, that is turned, and
    the result is averaged to the size.
    """
    turn = np.radians(square.angle)
    cosine, sine = np.cos(turn), np.sin(turn)
    side = 2 * square.half
    shrink = max(1.0, side / (2 * size))
    reach = square.half * (abs(cosine) + abs(sine)) + 3 * shrink  # 3: what a bicubic warp sees beyond
    # a square wholly outside shows the nearest edge, however far it is
    x, y = (
        float(np.clip(centre, -reach, length + reach))
        for centre, length in zip(square[:2], image.size, strict=True)
    )
    part, (left, top), (wide, tall) = _shrunk(image, (x - reach, y - reach, x + reach, y + reach), shrink)
    work = min(2 * size, max(size, int(np.ceil(side))))
    step = side / work
    a, b, c = cosine * step / wide, -sine * step / wide, (x - left) / wide
    d, e, f = sine * step / tall, cosine * step / tall, (y - top) / tall
    middle = work / 2
    matrix = (a, b, c - (a + b) * middle, d, e, f - (d + e) * middle)
    turned = part.transform((work, work), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return turned if work == size else turned.resize((size, size), Image.Resampling.BICUBIC)


def _shrunk(
    image: Image.Image, box: tuple[float, float, float, float], shrink: float
) -> tuple[Image.Image, tuple[float, float], tuple[float, float]]:
    """The image within `box`, `shrink` times smaller, its edge going on beyond it; where its first pixel
    begins in the image, and how many of the image's pixels each of its own is, across and down."""
    spans, befores, afters, steps = [], [], [], []
    for low, high, length in zip(box[:2], box[2:], image.size, strict=True):
        start = int(np.clip(np.floor(low), 0, length - 1))
        end = int(np.clip(np.ceil(high), start + 1, length))
        pixels = max(1, round((end - start) / shrink))
        step = (end - start) / pixels
        spans.append((start, end, pixels))
        steps.append(step)
        befores.append(max(0, int(np.ceil((start - low) / step))))
        afters.append(max(0, int(np.ceil((high - end) / step))))
    (left, right, width), (top, bottom, height) = spans
    inner = (left, top, right, bottom)
    if shrink > 1:
        part = image.resize((width, height), Image.Resampling.BICUBIC, inner, reducing_gap=2.0)
    else:
        part = image.crop(inner)
    if any(befores + afters):
        around = ((befores[1], afters[1]), (befores[0], afters[0]), (0, 0))
        part = Image.fromarray(np.pad(np.asarray(part), around, mode="edge"))
    return part, (left - befores[0] * steps[0], top - befores[1] * steps[1]), (steps[0], steps[1])


def arcface_square(landmarks: Sequence[Sequence[float]]) -> Square:
    """The square that the template `arcface` maps to its crop: by the turn, scale and shift that bring the
    landmarks nearest to `ARCFACE_POINTS` in the least squares, without mirroring (Umeyama 1991)."""
    points, onto = (np.array(places, float) @ (1, 1j) for places in (landmarks, ARCFACE_POINTS))
    offsets = points - points.mean()
    if not (spread := (abs(offsets) ** 2).sum()) > 0:
        raise ImageError("its landmarks are all in one place")
    turn = complex(np.vdot(offsets, onto) / spread)  # in the plane, turn and scale are one complex number
    if not abs(turn) > 0:
        raise ImageError("its landmarks are not those of a face")
    centre = complex(points.mean() + (ARCFACE_SIDE / 2 * (1 + 1j) - onto.mean()) / turn)
    angle = -float(np.degrees(np.angle(turn)))
    return Square(centre.real, centre.imag, ARCFACE_SIDE / 2 / abs(turn), angle)


def face_square(landmarks: Sequence[Sequence[float]]) -> Square:
    """The square that the template `face` maps to its crop."""
    square = square_around(landmarks, turn=True)
    if not square.half > 0:
        raise ImageError("its landmarks are all in one place")
    return square


TEMPLATES: dict[str, Callable[[Sequence[Sequence[float]]], Square]] = {
    "face": face_square,
    "arcface": arcface_square,
}
