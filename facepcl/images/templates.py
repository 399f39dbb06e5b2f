"""Which part of a photograph becomes the crop of a face: the template decides, from five landmarks.

`face` (the default) is the crop that the weights of facepcl expect: centred between the middle of the eyes
and the middle of the mouth, half side 1.5 times their distance, eyes level. It is not fitted to five points:
where a head turns its eyes come together, and a fit would enlarge it; the distance from eyes to mouth stays.

`arcface` is what most face recognisers expect: the similarity (turn, scale, shift) that brings the landmarks,
in the least squares, nearest to five published points of a 112 px crop.

Both are the same part of the photograph at any size: for 64 or 224 pixels the points are scaled.

On a frontal face with the proportions of those five points, `face` is 1.09 times as wide as `arcface` and its
centre lies 0.14 sides lower: less forehead, more chin.
"""

from collections.abc import Callable, Sequence

import numpy as np

from facepcl.errors import ImageError
from facepcl.images.geometry import Square, square_around

# `arcface_dst` of insightface (python-package/insightface/utils/face_align.py), for a crop of 112 x 112:
# right eye, left eye, nose, right and left mouth corner
ARCFACE_SIDE = 112
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def similarity(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The matrix `[2, 3]` of the turn, scale and shift that brings `points` `[N, 2]` nearest to `onto`
    `[N, 2]` in the least squares, without mirroring (Umeyama 1991, in two dimensions).

    Raises ImageError if all points are one.
    """
    points, onto = np.asarray(points, float), np.asarray(onto, float)
    a, b = points - points.mean(0), onto - onto.mean(0)
    if not (spread := (a**2).sum()) > 0:
        raise ImageError("its landmarks are all at one place")
    # in the plane the best rotation is that of one complex number, and needs no singular values
    cosine, sine = (a * b).sum() / spread, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, onto.mean(0) - turn @ points.mean(0)])


def arcface_square(landmarks: Sequence[Sequence[float]]) -> Square:
    """The square that the template `arcface` maps to its crop."""
    matrix = similarity(np.array(landmarks, float), ARCFACE_POINTS)
    turn, scale = matrix[:, :2], float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if not scale > 0:
        raise ImageError("its landmarks are no face's")
    x, y = np.linalg.solve(turn, np.full(2, ARCFACE_SIDE / 2) - matrix[:, 2])
    angle = -float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
    return Square(float(x), float(y), ARCFACE_SIDE / 2 / scale, angle)


def face_square(landmarks: Sequence[Sequence[float]]) -> Square:
    """The square that the template `face` maps to its crop."""
    square = square_around(landmarks, turn=True)
    if not square.half > 0:
        raise ImageError("its landmarks are all at one place")
    return square


TEMPLATES: dict[str, Callable[[Sequence[Sequence[float]]], Square]] = {
    "face": face_square,
    "arcface": arcface_square,
}
