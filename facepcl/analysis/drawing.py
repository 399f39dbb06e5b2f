"""Photos with boxes and head poses drawn into them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from facepcl.analysis.tracks import TRACK
from facepcl.data.workers import Prepared
from facepcl.images.face import ANGLES, Face
from facepcl.images.rotations import rotation
from facepcl.images.sheet import font
from facepcl.images.transform import Transform

# The axes of the head: to the person's left, up, and along the nose; the nose last, over the others.
AXES = ("#e5484d", "#30a46c", "#3b82f6")
AXIS_NAMES = ("to the person's left", "up", "where the nose points")
BOX, TAG = "#0d9488", "#ffffff"
AXIS = 0.55  # length, of the width of the box
CROP_SHARE = 0.6  # of a crop that the box of its face fills
SHARP = 3  # lines are drawn so many times as large, and reduced


class DrawnFace(NamedTuple):
    """A face to draw: where it is in the photo (None: the photo is its crop), and its attributes."""

    face: Face | None
    attributes: dict[str, float]


def whole_photo(side: int) -> Transform:
    """The transform of a reader that reduces whole photos to squares of `side` pixels, for `framed`."""
    return Transform(side, side, side, side, "border")


def framed(prepared: Prepared, side: int) -> tuple[Image.Image, float]:
    """The photo out of its square, without the border; pixels of it for one of the photo."""
    assert prepared.pixels is not None
    width, height = (max(1, round(side * length / max(prepared.size))) for length in prepared.size)
    left, top = (side - width) // 2, (side - height) // 2
    return Image.fromarray(prepared.pixels[top : top + height, left : left + width]), width / prepared.size[0]


def annotated(
    picture: Image.Image, scale: float, faces: Sequence[DrawnFace], first: int | None = None
) -> Image.Image:
    """The picture with boxes, pose axes and the labels of the faces."""
    large = picture.resize((SHARP * picture.width, SHARP * picture.height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(large)
    for (face, attributes), label in zip(faces, labels_of(faces, first), strict=True):
        if face is None:
            box = (0.0, 0.0, float(large.width), float(large.height))
            centre = (large.width / 2, large.height / 2)
        else:
            left, top, right, bottom = (SHARP * scale * edge for edge in box_of(face))
            box = (left, top, right, bottom)
            centre = _centre_of(face, box, SHARP * scale)
            pen.rectangle(box, outline=TAG, width=3 * SHARP)
            pen.rectangle(
                [box[0] + SHARP, box[1] + SHARP, box[2] - SHARP, box[3] - SHARP], outline=BOX, width=SHARP
            )
        length = AXIS * (box[2] - box[0]) * (1 if face else CROP_SHARE)
        _draw_pose(pen, centre, length, attributes)
        if label and face is not None:
            _draw_label(pen, label, box)
    return large.resize(picture.size, Image.Resampling.BOX)


def labels_of(faces: Sequence[DrawnFace], first: int | None = None) -> list[str]:
    """What each face is called: its number from `first` on; else its track in a video, or where there are
    several its number in the table."""
    tracks = [attributes.get(TRACK, np.nan) for _, attributes in faces]
    if first is None and not np.isnan(tracks).any():
        return [f"{track:.0f}" for track in tracks]
    if first is None and len(faces) == 1:
        return [""]
    return [str(number) for number, _ in enumerate(faces, first or 0)]


def box_of(face: Face) -> tuple[float, ...]:
    """The box, or one around the landmarks of a face that was given without."""
    if not np.isnan(face.box).any():
        return face.box
    (left, top), (right, bottom) = np.min(face.landmarks, 0), np.max(face.landmarks, 0)
    margin = (bottom - top) * 0.8
    return left - margin, top - margin, right + margin, bottom + margin


def _centre_of(face: Face, box: tuple[float, float, float, float], scale: float) -> tuple[float, float]:
    if np.isnan(face.landmarks).any():
        return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    x, y = scale * np.mean(face.landmarks, 0)
    return float(x), float(y)


def _draw_pose(
    pen: ImageDraw.ImageDraw, centre: tuple[float, float], length: float, attributes: dict[str, float]
) -> None:
    pose = [attributes.get(angle, np.nan) for angle in ANGLES]
    if np.isnan(pose).any():
        return
    axes = rotation(np.array([pose]))[0]  # its columns: x right, y up, z to the camera
    x, y = centre
    for axis, colour in enumerate(AXES):
        end = (x + length * axes[0, axis], y - length * axes[1, axis])
        pen.line((x, y, *end), fill=TAG, width=4 * SHARP)
        pen.line((x, y, *end), fill=colour, width=2 * SHARP + SHARP // 2)


def _draw_label(pen: ImageDraw.ImageDraw, label: str, box: tuple[float, float, float, float]) -> None:
    x, y = max(box[0], 0.0), max(box[1], 0.0)
    width, height = (8 + 8 * len(label)) * SHARP, 17 * SHARP
    pen.rectangle((x, y, x + width, y + height), fill=BOX)
    pen.text((x + 4 * SHARP, y - SHARP), label, TAG, font(15 * SHARP))
