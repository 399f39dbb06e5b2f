"""Folds and wrinkles of the face as a relief of the skin: some come with age, others with expression units.

A fold is a groove with swellings beside it. A person has a map of each fold; a picture weighs them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from synthetic_faces.creases import MAKERS, between
from synthetic_faces.shape import Shape
from synthetic_faces.skin import FaceMap
from synthetic_faces.texture import noise, smoothstep

ACROSS, DOWN = 0.0145, 0.0125  # decimetres between the texels of the face
_DEEP = 0.013  # decimetres: a groove of this depth is dark
_COLUMNS = np.s_[80:220]  # of the face's texels: the part that a camera sees from the front


class Fold(NamedTuple):
    """A kind of fold: `units` that make it and how strongly ("*" stands for the side), `aged` = its depth
    at rest in old age and `young` the same in youth, as shares; `depth` in decimetres; `low`, `high` = the
    heights it lies between; `paired` = one on each side."""

    units: dict[str, float]
    aged: float
    young: float
    depth: float
    low: float
    high: float
    paired: bool


KINDS = {
    "forehead": Fold({"browInnerUp": 1.0}, 0.45, 0.02, 0.009, 7.5, 8.06, False),
    "temple": Fold({"browOuterUp*": 0.9}, 0.35, 0.0, 0.008, 7.5, 8.06, True),
    "glabella": Fold({"browDown*": 0.55}, 0.4, 0.03, 0.012, 7.28, 7.72, True),
    "root": Fold({"noseSneer*": 0.5, "browDown*": 0.25}, 0.3, 0.0, 0.009, 7.1, 7.46, True),
    "crow": Fold(
        {"cheekSquint*": 0.7, "eyeSquint*": 0.4, "mouthSmile*": 0.3}, 0.7, 0.0, 0.008, 7.0, 7.5, True
    ),
    "bag": Fold(
        {"cheekSquint*": 0.6, "eyeSquint*": 0.5, "noseSneer*": 0.3}, 0.6, 0.12, 0.009, 6.98, 7.28, True
    ),
    "lid": Fold({"eyeWide*": 0.2, "eyeBlink*": -0.6}, 1.0, 0.9, 0.012, 7.28, 7.5, True),
    "nasolabial": Fold(
        {"mouthSmile*": 0.85, "noseSneer*": 0.75, "mouthUpperUp*": 0.5, "mouthStretch*": 0.3},
        0.5,
        0.08,
        0.017,
        6.4,
        7.1,
        True,
    ),
    "wing": Fold({"noseSneer*": 0.5, "mouthSmile*": 0.2}, 0.35, 0.2, 0.006, 6.76, 7.06, True),
    "dimple": Fold(
        {"mouthSmile*": 0.5, "mouthDimple*": 0.7, "mouthStretch*": 0.6}, 0.2, 0.0, 0.011, 6.35, 6.9, True
    ),
    "marionette": Fold({"mouthFrown*": 0.8, "mouthStretch*": 0.3}, 0.55, 0.03, 0.013, 6.25, 6.66, True),
    "mentolabial": Fold(
        {"mouthShrugLower": 0.6, "mouthPressLeft": 0.15, "mouthPressRight": 0.15, "mouthPucker": 0.4},
        0.5,
        0.35,
        0.014,
        6.36,
        6.56,
        False,
    ),
    "chin": Fold(
        {"mouthShrugLower": 1.0, "mouthFrownLeft": 0.2, "mouthFrownRight": 0.2},
        0.1,
        0.0,
        0.003,
        6.15,
        6.5,
        False,
    ),
}


@dataclass
class Folds:
    """A person's folds.

    `parts`: name, side, the fold's part of the face's texels, heights there in decimetres, depth at rest,
    depth that its units add. `pores` `[h, w]` heights of the fine relief; `lids` how far the upper lids are
    closed at rest, as a share of a blink.
    """

    parts: list[tuple[str, str, tuple[slice, slice], np.ndarray, float, float]]
    pores: np.ndarray
    lids: float

    def relief(self, units: dict[str, float]) -> np.ndarray:
        """Slopes to the subject's left and upwards, and how deep in a groove, `[h, w, 3]`, in a picture."""
        height = np.zeros_like(self.pores)
        for name, side, place, shape, rest, moved in self.parts:
            share = sum(k * units.get(unit.replace("*", side), 0.0) for unit, k in KINDS[name].units.items())
            weight = rest + moved * min(share, 1.0)
            weight /= 1 + 0.35 * weight  # the mesh folds there, too
            if weight > 0.01:
                height[place] += np.float32(weight) * shape
        out = np.zeros((*height.shape, 3), np.float32)
        out[..., 2] = np.clip(height * np.float32(-1 / _DEEP), 0, 1)
        height += self.pores
        out[:, 1:-1, 0] = (height[:, 2:] - height[:, :-2]) * np.float32(0.5 / ACROSS)
        out[1:-1, :, 1] = (height[:-2] - height[2:]) * np.float32(0.5 / DOWN)
        return out


def draw_folds(rng: np.random.Generator, face: FaceMap, shape: Shape) -> Folds:
    """Folds of a person."""
    old = float(smoothstep(0.48, 0.95, shape.age))
    grown = float(smoothstep(0.15, 0.6, shape.age))
    lined = rng.uniform(0.55, 1.3)  # some skins fold more than others
    parts = []
    for name, kind in KINDS.items():
        own = lined * rng.uniform(0.55, 1.35)
        rest = own * (kind.aged * old + kind.young * (1 - old) * (0.5 + 0.5 * grown))
        moved = own * (0.2 + 0.8 * grown + 0.3 * old)
        wave = _wave(rng, face.y.shape[1])
        for side in ("Left", "Right") if kind.paired else ("Left",):
            place = _place(face, kind, side)
            x = face.x[place] if side == "Left" else -face.x[place]
            y = face.y[place] + wave[:, place[1]]
            parts.append((name, side, place, kind.depth * MAKERS[name](rng, x, y, shape), rest, moved))
    pores = noise(rng, 0.7, shape=face.y.shape) + 0.6 * noise(rng, 1.6, shape=face.y.shape)
    lips = between(face.y, 6.545, 6.685, 0.015) * smoothstep(0.27, 0.2, face.side)
    pores += lips * (2.2 * noise(rng, 0.8, 3.0, shape=face.y.shape))
    lids = float(np.clip(rng.normal(0.11 + 0.1 * old, 0.08), 0, 0.4))
    return Folds(parts, pores * np.float32(rng.uniform(0.0003, 0.0009) * (0.5 + 0.5 * grown)), lids)


def _wave(rng: np.random.Generator, columns: int) -> np.ndarray:
    """What bends a person's lines up and down, `[1, w]` in decimetres."""
    rough = rng.standard_normal((1, columns)).astype(np.float32)
    return cv2.GaussianBlur(rough, (0, 0), 12) * np.float32(0.07)


def _place(face: FaceMap, kind: Fold, side: str) -> tuple[slice, slice]:
    """The rows and columns of the face's texels that a fold lies in."""
    top = face.y[:, 0]
    first, last = int(np.argmax(top < kind.high)), int(np.argmax(top < kind.low))
    middle = face.y.shape[1] // 2
    columns = _COLUMNS
    if kind.paired:
        columns = np.s_[middle - 6 : 220] if side == "Left" else np.s_[80 : middle + 6]
    return np.s_[first:last], columns
