"""Where each fold of the face lies, and its cross-section.

A maker gives heights (1 = the fold's depth) at places x, y of the rest mesh in decimetres; folds in pairs are
drawn for the subject's left.
"""

import numpy as np

from synthetic_faces.shape import Shape
from synthetic_faces.texture import noise, smoothstep

Field = np.ndarray


def _groove(distance: Field, width: float) -> Field:
    """A groove and the swellings on both sides."""
    square = (distance / width) ** 2
    return 0.4 * np.exp(-square / 8) - np.exp(-square)


def between(x: Field, a: float, b: float, soft: float) -> Field:
    """1 between `a` and `b`, 0 beyond, over `soft` each."""
    return smoothstep(a - soft, a + soft, x) * smoothstep(b + soft, b - soft, x)


def _forehead(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    return _lines(rng, x, y) * smoothstep(0.46, 0.2, np.abs(x))


def _temple(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    return _lines(rng, x, y - 0.03 + 0.1 * np.clip(x - 0.35, 0, 1)) * between(x, 0.25, 0.55, 0.1)


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
    upright = _groove(x - rng.uniform(0.05, 0.075) - 0.12 * (y - 7.45), 0.017) * between(y, 7.4, 7.6, 0.05)
    short = _groove(x - 0.115 - 0.25 * (y - 7.45), 0.015) * between(y, 7.42, 7.52, 0.04)
    swell = 0.5 * np.exp(-(((x - 0.14) / 0.09) ** 2) - ((y - 7.44) / 0.06) ** 2)
    return upright + rng.uniform(0, 0.5) * short + swell


def _root(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """Lines across the root of the nose and down its side."""
    level = _groove(y - 7.33 - 0.3 * x, 0.015) * smoothstep(0.13, 0.06, np.abs(x))
    bunny = _groove(y - 7.2 + 0.9 * (x - 0.1), 0.014) + 0.7 * _groove(y - 7.26 + 0.9 * (x - 0.1), 0.012)
    return rng.uniform(0.5, 1) * level + bunny * between(x, 0.07, 0.15, 0.03)


def _crow(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """Lines that spread from the outer corner of the eye."""
    total = np.zeros_like(y)
    for tilt in (-0.75, -0.4, -0.05, 0.3)[: rng.integers(3, 5)]:
        tilt += rng.normal(0, 0.08)
        line = _groove(y - 7.26 - tilt * (x - 0.44) + 0.3 * (x - 0.44) ** 2, 0.013)
        total += rng.uniform(0.5, 1) * line * between(x, 0.5, rng.uniform(0.58, 0.7), 0.03)
    return total


def _bag(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The rim of the bag under the eye, and a line close under the lashes."""
    away = (x - 0.31) / 0.16
    rim = _groove(y - rng.uniform(7.1, 7.13) - 0.06 * away**2 + 0.05 * away, 0.022)
    close = 0.6 * _groove(y - 7.17 - 0.05 * away**2, 0.012)
    return (rim + close) * between(x, 0.16, 0.45, 0.06)


def _lid(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The crease of the upper lid: faint in some, hooded where the skin above hangs over it."""
    away = (x - 0.315) / 0.15
    height = rng.uniform(7.372, 7.4) - 0.05 * away**2 + 0.008 * away
    faint = 1 - rng.uniform(0.2, 0.9) * shape.mix[1]
    crease = _groove(y - height, 0.014) + 0.5 * smoothstep(-0.01, 0.05, y - height)
    return faint * crease * between(x, 0.2, 0.45, 0.04) * smoothstep(7.5, 7.42, y)


def _nasolabial(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """From the wing of the nose past the corner of the mouth; the cheek stands out over it."""
    down = (6.98 - y) / 0.42
    line = rng.uniform(0.16, 0.19) + 0.13 * down + 0.10 * np.clip(down, 0, 2) ** 2
    away = (x - line) * 0.85
    cheek = 0.7 * smoothstep(-0.01, 0.06, away) * smoothstep(0.3, 0.08, away)
    hollow = 0.35 * np.exp(-(((away + 0.03) / 0.06) ** 2))
    return (cheek - hollow - np.exp(-((away / 0.022) ** 2))) * between(y, rng.uniform(6.5, 6.6), 6.97, 0.06)


def _wing(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The groove round the wing of the nose."""
    away = np.hypot((x - 0.08) * 1.1, y - 6.88) - 0.105
    return -np.exp(-((away / 0.014) ** 2)) * smoothstep(0.07, 0.12, x) * between(y, 6.82, 6.96, 0.03)


def _dimple(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """Arcs outside the corner of the mouth."""
    away = np.hypot((x - 0.2) * 0.9, y - 6.62)
    first = _groove(away - rng.uniform(0.13, 0.16), 0.02)
    second = rng.uniform(0.1, 0.8) * _groove(away - 0.24, 0.02)
    return (first + second) * smoothstep(0.26, 0.34, x) * between(y, 6.5, 6.74, 0.06)


def _marionette(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """From the corner of the mouth down to the jaw."""
    line = 0.275 + 0.14 * (6.6 - y)
    return _groove(x - line, 0.022) * between(y, rng.uniform(6.34, 6.46), 6.57, 0.05)


def _mentolabial(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """The hollow between lower lip and chin."""
    return _groove(y - 6.455 + 0.5 * x**2, 0.03) * smoothstep(0.22, 0.08, np.abs(x))


def _chin(rng: np.random.Generator, x: Field, y: Field, shape: Shape) -> Field:
    """Pits of a tightened chin."""
    ball = np.exp(-((x / 0.17) ** 2) - ((y - 6.32) / 0.11) ** 2)
    return -np.clip(noise(rng, 1.5, shape=x.shape), 0, 2) * ball


MAKERS = {
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
