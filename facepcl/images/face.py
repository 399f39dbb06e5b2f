"""One face in a photo: its five landmarks, its columns in tables, and which of several is meant."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from facepcl.images.geometry import square_around

# "right" is the person's right, which is on the left of the image
LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
ANGLES = ("yaw", "pitch", "roll")
LANDMARK_COLUMNS = tuple(f"{name}_{axis}" for name in LANDMARKS for axis in "xy")
FACE_COLUMNS = ("face", "score", "left", "top", "right", "bottom", *LANDMARK_COLUMNS)
NO_FACE = "no face found"  # what the row of a photo says in which none is


class Face(NamedTuple):
    """One face, in pixels of its upright photo, whose left top corner is 0, 0: `box` is left, top,
    right, bottom; `landmarks` x, y of `LANDMARKS`; `score` of the detector. NaN is unknown."""

    box: tuple[float, ...]
    landmarks: tuple[tuple[float, float], ...]
    score: float = float("nan")

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> "Face":
        """Of what `numbers` gives."""
        points = tuple(zip(numbers[4:14:2], numbers[5:14:2], strict=True))
        return cls(tuple(numbers[:4]), points, numbers[14])

    @classmethod
    def from_columns(cls, values: Sequence[float]) -> "Face":
        """Of the values of `FACE_COLUMNS`."""
        _, score, *places = map(float, values)
        return cls.from_numbers([*places, score])

    def numbers(self) -> list[float]:
        """Box, landmarks and score as 15 numbers."""
        return [*self.box, *(value for point in self.landmarks for value in point), self.score]

    def moved(self, across: float, down: float, wide: float = 1.0, tall: float = 1.0) -> "Face":
        """The face so many pixels further right and down, in an image so many times as wide and tall."""
        *places, score = self.numbers()
        moved = np.multiply(np.add(np.reshape(places, (-1, 2)), (across, down)), (wide, tall))
        return Face.from_numbers([*moved.ravel().tolist(), score])

    def columns(self, number: int) -> list[float]:
        """The values of `FACE_COLUMNS` of the face with this number in its photo."""
        *rest, score = self.numbers()
        return [number, score, *rest]


def most_prominent_first(faces: Sequence[Face], width: int, height: int) -> list[Face]:
    """The faces of a photo of `width` x `height` pixels by size minus twice the squared distance from
    its centre: the first is the one that is meant.

    The rule, with the two, is that of FaceNet's alignment: the largest face alone is often a passer-by's.
    """

    def prominence(face: Face) -> float:
        square = square_around(face.landmarks, turn=False)
        off = (square.x - width / 2) ** 2 + (square.y - height / 2) ** 2
        return float((2 * square.half) ** 2 - 2 * off)

    return sorted(faces, key=prominence, reverse=True)


def face_columns(faces: Sequence[Face | None], numbers: Sequence[int]) -> np.ndarray:
    """`FACE_COLUMNS` of faces as float32 `[N, 16]`; NaN where there is none."""
    rows = np.full((len(faces), len(FACE_COLUMNS)), np.nan, np.float32)
    for row, face, number in zip(rows, faces, numbers, strict=True):
        if face is not None:
            row[:] = face.columns(number)
    return rows
