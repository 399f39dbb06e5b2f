"""A photo to the crops of its faces: `FaceCutter`, which runs in the reader processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facepcl.errors import OptionError, check_known
from facepcl.images.decode import Picture, decode_reduced
from facepcl.images.detector import LONGER_SIDE, SCORE, Detector
from facepcl.images.face import Face, most_prominent_first
from facepcl.images.geometry import TEMPLATES, Square, cut_to_size
from facepcl.images.transform import MARGIN, Transform
from facepcl.utils.files import sha256_file

# Both sides of a JPEG that is decoded smaller: with the usual 4 : 3, enough for the detector's larger copy.
NEEDED = LONGER_SIDE * 3 // 4


@dataclass(frozen=True)
class Alignment:
    """How faces are found and cut: `detector`, the path of YuNet's file (None: their landmarks are given);
    the least `score`; the `template` of facepcl/images/geometry.py; only `one` face, the most prominent.

    Raises OptionError for a template or a score that cannot be.
    """

    detector: str | None = None
    score: float = SCORE
    template: str = "face"
    one: bool = False

    def __post_init__(self) -> None:
        check_known("template", self.template, TEMPLATES)
        if not 0 < self.score < 1:
            raise OptionError(f"score must be between 0 and 1, not {self.score:g}")

    def describe(self) -> dict[str, Any]:
        """What tells how crops were made."""
        file = Path(self.detector) if self.detector else None
        return {
            "template": self.template,
            "one": self.one,
            "detector": file and file.name,
            "detector_sha256": file and sha256_file(file),
            "score": self.score if file else None,
        }


class FaceCutter:
    """The faces of photos, cut by `alignment` and brought to a network's input by `transform`."""

    def __init__(self, alignment: Alignment, transform: Transform):
        self._alignment, self._transform = alignment, transform
        self._side = max(transform.resize_height, transform.resize_width)
        self._square = TEMPLATES[alignment.template]
        self._detector = Detector(alignment.detector, alignment.score) if alignment.detector else None

    def of_file(
        self, data: bytes, known: Sequence[Face] | None = None
    ) -> tuple[tuple[int, int], list[Face], np.ndarray]:
        """The size of an encoded photo, its faces, the most prominent first, and their crops uint8 `[K,
        H, W, 3]`; `known`: its faces, if they need not be found. Raises ImageError."""
        picture = decode_reduced(data, NEEDED)
        faces, crops = self._cut(picture, lambda: decode_reduced(data, max(picture.size)), known)
        return picture.size, faces, crops

    def of_image(self, image: Image.Image) -> tuple[list[Face], np.ndarray]:
        """As `of_file`, of an upright RGB image."""
        picture = Picture(image, image.size, (0, 0, *image.size))
        return self._cut(picture, lambda: picture)

    def _cut(
        self, picture: Picture, whole: Callable[[], Picture], known: Sequence[Face] | None = None
    ) -> tuple[list[Face], np.ndarray]:
        image, size, _ = picture
        across, down, left, top = _scale(picture)
        if known is None:
            known = [] if self._detector is None else self._detector(image)
            known = [face.moved(-left, -top, across, down) for face in known]
        faces = most_prominent_first(known, *size)[: 1 if self._alignment.one else None]
        squares = [self._square(face.landmarks) for face in faces]
        if squares and 2 * min(square.half for square in squares) < MARGIN * self._side * max(across, down):
            picture = whole()  # the reduced copy shows a face in fewer pixels than its crop has
            image, (across, down, left, top) = picture.image, _scale(picture)
        squares = [
            Square(s.x / across + left, s.y / down + top, s.half / np.sqrt(across * down), s.angle)
            for s in squares
        ]
        crops = [self._transform(cut_to_size(image, square, self._side)) for square in squares]
        return faces, np.stack(crops) if crops else np.empty((0, *self._transform.shape), np.uint8)


def _scale(picture: Picture) -> tuple[float, float, float, float]:
    """How many pixels of the photo one of a reduced copy is, across and down, and where its box begins."""
    left, top, right, bottom = picture.box
    return picture.size[0] / (right - left), picture.size[1] / (bottom - top), left, top
