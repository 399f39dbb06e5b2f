"""Folds and wrinkles of the face as a relief of the skin: some come with age, others with expression units.

A fold is a groove with swellings beside it. A person has a map of each fold; a picture weighs them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from synthetic_faces.shape import Shape
from synthetic_faces.skin import FaceMap
from synthetic_faces.texture import noise, smoothstep

ACROSS, DOWN = 0.0145, 0.0125  # decimetres between the texels of the face
_DEEP = 0.013  # decimetres: a groove of this depth is dark
_COLUMNS = np.s_[50:250]  # of the face's texels: the part that a camera sees from the front

Field = np.ndarray


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
    "forehead": Fold({"browInnerUp": 0.9, "browOuterUpLeft": 0.15}, 0.45, 0.02, 0.009, 7.5, 8.06, False),
    "temple": Fold({"browOuterUp*": 0.9}, 0.35, 0.0, 0.008, 7.5, 8.06, True),
    "glabella": Fold({"browDown*": 0.55}, 0.4, 0.03, 0.012, 7.28, 7.72, True),
    "root": Fold({"noseSneer*": 0.5, "browDown*": 0.25}, 0.3, 0.0, 0.009, 7.1, 7.46, True),
    "crow": Fold({"cheekSquint*": 0.7, "eyeSquint*": 0.4, "mouthSmile*": 0.3}, 0.7, 0.0, 0.008, 7.0, 7.5, True),
    "bag": Fold({"cheekSquint*": 0.6, "eyeSquint*": 0.5, "noseSneer*": 0.3}, 0.6, 0.12, 0.009, 6.98, 7.28, True),
    "lid": Fold({"eyeWide*": 0.2, "eyeBlink*": -0.6}, 1.0, 0.9, 0.012, 7.28, 7.5, True),
    "nasolabial": Fold(
        {"mouthSmile*": 0.85, "noseSneer*": 0.75, "mouthUpperUp*": 0.5, "mouthStretch*": 0.3},
        0.6,
        0.08,
        0.015,
        6.4,
        7.1,
        True,
    ),
    "wing": Fold({"noseSneer*": 0.5, "mouthSmile*": 0.2}, 0.6, 0.4, 0.007, 6.76, 7.06, True),
    "dimple": Fold(
        {"mouthSmile*": 0.55, "mouthDimple*": 0.7, "mouthStretch*": 0.6}, 0.25, 0.0, 0.014, 6.35, 6.9, True
    ),
    "marionette": Fold({"mouthFrown*": 0.8, "mouthStretch*": 0.3}, 0.55, 0.03, 0.013, 6.25, 6.66, True),
    "mentolabial": Fold(
        {"mouthShrugLower": 0.6, "mouthPressLeft": 0.3, "mouthPucker": 0.4}, 0.5, 0.35, 0.014, 6.36, 6.56, False
    ),
    "chin": Fold({"mouthShrugLower": 1.0, "mouthFrownLeft": 0.4}, 0.1, 0.0, 0.003, 6.15, 6.5, False),
}
MAKERS: dict[str, Callable[[np.random.Generator, Field, Field, Field], Field]] = {}


@dataclass
class Folds:
    """A person's folds: of each, where it lies in the face's texels, its height there in decimetres, the depth
    at rest and with its units at 1; `pores` `[h, w]` the height of the fine relief; `lids` how far the upper lids are
    closed at rest, as a share of a blink."""

    parts: list[tuple[str, str, tuple[slice, slice], np.ndarray, float, float]]
    pores: np.ndarray
    lids: float

    def relief(self, units: dict[str, float]) -> np.ndarray:
        """Slopes to the subject's left and upwards, and how deep in a groove, `[h, w, 3]`, in a picture."""
        height = np.zeros_like(self.pores)
        for name, side, place, shape, rest, moved in self.parts:
            share = sum(k * units.get(unit.replace("*", side), 0.0) for unit, k in KINDS[name].units.items())
            weight = rest + moved * min(share, 1.0)
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
        moved = own * (0.5 + 0.5 * grown + 0.4 * old)
        wave = _wave(rng, face.y.shape[1])
        for side in ("Left", "Right") if kind.paired else ("Left",):
            place = _place(face, kind, side)
            x = face.x[place] if side == "Left" else -face.x[place]
            y = face.y[place] + wave[:, place[1]]
            parts.append((name, side, place, kind.depth * MAKERS[name](rng, x, y, shape), rest, moved))
    pores = noise(rng, 0.7, shape=face.y.shape) + 0.6 * noise(rng, 1.6, shape=face.y.shape)
    lips = _between(face.y, 6.545, 6.685, 0.015) * smoothstep(0.27, 0.2, face.side)
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
        columns = np.s_[middle - 6 : 250] if side == "Left" else np.s_[50 : middle + 6]
    return np.s_[first:last], columns


def _groove(distance: Field, width: float) -> Field:
    """A groove and the swellings on both sides."""
    square = (distance / width) ** 2
    return 0.4 * np.exp(-square / 8) - np.exp(-square)


def _between(x: Field, a: float, b: float, soft: float) -> Field:
    """1 between `a` and `b`, 0 beyond, over `soft` each."""
    return smoothstep(a - soft, a + soft, x) * smoothstep(b + soft, b - soft, x)


def _forehead(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    return _lines(rng, x, y) * smoothstep(0.46, 0.2, np.abs(x))


def _temple(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    return _lines(rng, x, y - 0.03 + 0.1 * np.clip(x - 0.35, 0, 1)) * _between(x, 0.25, 0.55, 0.1)


def _lines(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Three to five level lines."""
    total = np.zeros_like(y)
    heights = np.linspace(7.62, 7.93, rng.integers(3, 6))
    for height in heights + rng.normal(0, 0.012, len(heights)):
        bend = rng.uniform(-0.08, 0.16) * x**2
        total += rng.uniform(0.5, 1.0) * _groove(y - height - bend, rng.uniform(0.014, 0.02))
    return total


def _glabella(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The upright line beside the middle, and a short one further out."""
    upright = _groove(x - rng.uniform(0.05, 0.075) - 0.12 * (y - 7.45), 0.017) * _between(y, 7.4, 7.6, 0.05)
    short = _groove(x - 0.115 - 0.25 * (y - 7.45), 0.015) * _between(y, 7.42, 7.52, 0.04)
    swell = 0.5 * np.exp(-(((x - 0.14) / 0.09) ** 2) - ((y - 7.44) / 0.06) ** 2)
    return upright + rng.uniform(0, 0.5) * short + swell


def _root(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """Lines across the root of the nose and down its side."""
    level = _groove(y - 7.33 - 0.3 * x, 0.015) * smoothstep(0.13, 0.06, np.abs(x))
    bunny = _groove(y - 7.2 + 0.9 * (x - 0.1), 0.014) + 0.7 * _groove(y - 7.26 + 0.9 * (x - 0.1), 0.012)
    return rng.uniform(0.5, 1) * level + bunny * _between(x, 0.07, 0.15, 0.03)


def _crow(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """Lines that spread from the outer corner of the eye."""
    total = np.zeros_like(y)
    for tilt in (-0.75, -0.4, -0.05, 0.3)[: rng.integers(3, 5)]:
        tilt += rng.normal(0, 0.08)
        line = _groove(y - 7.26 - tilt * (x - 0.44) + 0.3 * (x - 0.44) ** 2, 0.013)
        total += rng.uniform(0.5, 1) * line * _between(x, 0.5, rng.uniform(0.58, 0.7), 0.03)
    return total


def _bag(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The rim of the bag under the eye, and a line close under the lashes."""
    away = (x - 0.31) / 0.16
    rim = _groove(y - rng.uniform(7.1, 7.13) - 0.06 * away**2 + 0.05 * away, 0.022)
    close = 0.6 * _groove(y - 7.17 - 0.05 * away**2, 0.012)
    return (rim + close) * _between(x, 0.16, 0.45, 0.06)


def _lid(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The crease of the upper lid: faint in some, hooded where the skin above hangs over it."""
    away = (x - 0.315) / 0.15
    height = rng.uniform(7.372, 7.4) - 0.05 * away**2 + 0.008 * away
    faint = 1 - rng.uniform(0.2, 0.9) * shape.mix[1]
    crease = _groove(y - height, 0.014) + 0.5 * smoothstep(-0.01, 0.05, y - height)
    return faint * crease * _between(x, 0.2, 0.45, 0.04) * smoothstep(7.5, 7.42, y)


def _nasolabial(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """From the wing of the nose past the corner of the mouth; the cheek stands out over it."""
    down = (6.98 - y) / 0.42
    line = rng.uniform(0.155, 0.175) + 0.10 * down + 0.10 * np.clip(down, 0, 2) ** 2
    away = (x - line) * 0.85
    cheek = 0.7 * smoothstep(-0.01, 0.06, away) * smoothstep(0.3, 0.08, away)
    return (cheek - np.exp(-((away / 0.022) ** 2))) * _between(y, rng.uniform(6.5, 6.6), 6.97, 0.06)


def _wing(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The groove round the wing of the nose."""
    away = np.hypot((x - 0.08) * 1.1, y - 6.88) - 0.105
    return -np.exp(-((away / 0.014) ** 2)) * smoothstep(0.07, 0.12, x) * _between(y, 6.82, 6.96, 0.03)


def _dimple(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """Arcs outside the corner of the mouth."""
    away = np.hypot((x - 0.2) * 0.9, y - 6.62)
    first = _groove(away - rng.uniform(0.13, 0.16), 0.02)
    second = rng.uniform(0.1, 0.8) * _groove(away - 0.24, 0.02)
    return (first + second) * smoothstep(0.26, 0.34, x) * _between(y, 6.5, 6.74, 0.06)


def _marionette(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """From the corner of the mouth down to the jaw."""
    line = 0.275 + 0.14 * (6.6 - y)
    return _groove(x - line, 0.022) * _between(y, rng.uniform(6.34, 6.46), 6.57, 0.05)


def _mentolabial(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The hollow between lower lip and chin."""
    return _groove(y - 6.455 + 0.5 * x**2, 0.03) * smoothstep(0.22, 0.08, np.abs(x))


def _chin(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """Pits of a tightened chin."""
    ball = np.exp(-((x / 0.17) ** 2) - ((y - 6.32) / 0.11) ** 2)
    return -np.clip(noise(rng, 1.5, shape=x.shape), 0, 2) * ball


MAKERS |= {
    "forehead": _forehead,
    "temple": _temple,
    "glabella": _glabella,
    "root": _root,
    "crow": _crow,
    "bag": _bag,
    "lid": _lid,
    "nasolabial": _nasolabial,
    "wing": _wing,
    "dimple": _dimple,
    "marionette": _marionette,
    "mentolabial": _mentolabial,
    "chin": _chin,
}
