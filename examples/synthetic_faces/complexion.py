"""Colours of a person: skin, hair, eyes, lips."""

from dataclasses import dataclass

import numpy as np

from synthetic_faces.colours import GREYS, HAIR_NAMES, HAIRS, IRIS_NAMES, IRISES, SKINS, linear
from synthetic_faces.shape import Shape
from synthetic_faces.texture import smoothstep

LIPSTICKS_SRGB = ((176, 40, 56), (150, 30, 60), (196, 92, 92), (120, 24, 40), (200, 70, 100))


@dataclass
class Complexion:
    """`tone` 0 light .. 1 dark; colours `[3]` in linear light; `eye` and `lip` as shading wants them;
    `hair` is its natural colour; `teeth` theirs."""

    tone: float
    skin: np.ndarray
    gloss: float
    hair: np.ndarray
    hair_name: str
    grey: float
    brow: np.ndarray
    eye: np.ndarray
    iris_name: str
    lip: np.ndarray
    teeth: np.ndarray


def draw_complexion(rng: np.random.Generator, shape: Shape) -> Complexion:
    """Colours that go with a shape, loosely."""
    tone, skin = _skin(rng, shape)
    fair = max(0.0, 1 - tone * 2.4) * shape.mix[2]
    hair, hair_name, grey, brow = _hair(rng, shape, skin, tone, fair)
    eye, iris_name = _eye(rng, tone, fair)
    gloss = rng.uniform(0.03, 0.16)
    lip = skin * [0.96 - 0.2 * tone, 0.56, 0.55] * rng.uniform(0.75, 1.0) + [0.045, 0, 0.005]
    lip = lip + 0.5 * max(0.0, shape.age - 0.6) * (skin * 0.8 - lip)
    lip = np.array([*lip, rng.uniform(0.45, 0.75), rng.uniform(0, 2.5)])
    yellow = rng.uniform(0, 0.5 + 0.5 * shape.age)
    teeth = (
        np.array([0.84, 0.76, 0.63]) * (1 - yellow * np.array([0.08, 0.16, 0.34])) * rng.uniform(0.85, 1.08)
    )
    return Complexion(tone, skin, gloss, hair, hair_name, grey, brow, eye, iris_name, lip, teeth)


def _skin(rng: np.random.Generator, shape: Shape) -> tuple[float, np.ndarray]:
    tone = np.clip(shape.mix @ [0.78, 0.3, 0.16] + rng.normal(0, 0.11), 0, 1) * (len(SKINS) - 1)
    k = min(int(tone), len(SKINS) - 2)
    skin = SKINS[k] + (tone - k) * (SKINS[k + 1] - SKINS[k])
    old = max(0.0, shape.age - 0.6) / 0.4  # paler and greyer
    skin = skin + rng.uniform(0, 0.3) * old * (skin.mean() - skin)
    skin = skin * [1.02, 0.96, 1.04]  # as pink as in photographs
    skin = skin * (1 + rng.normal(0, [0.05, 0.035, 0.05])) * np.exp(rng.normal(0, 0.08))
    return float(tone / (len(SKINS) - 1)), skin


def _hair(
    rng: np.random.Generator, shape: Shape, skin: np.ndarray, tone: float, fair: float
) -> tuple[np.ndarray, str, float, np.ndarray]:
    """-> colour of the hair, its name, how grey it is, colour of the brows."""
    odds = [0.45, 0.3, 0.25 * (1 - tone) + 0.02, *(share * fair + 0.01 for share in (0.5, 0.4, 0.3, 0.18))]
    pick = rng.choice(7, p=np.array(odds) / np.sum(odds))
    colour, name = HAIRS[pick] * np.exp(rng.normal(0, 0.2)), HAIR_NAMES[pick]
    grey = 0.0
    if shape.age > 0.58:
        grey = float(np.clip(smoothstep(0.6, 0.9, shape.age) + rng.normal(0, 0.15), 0, 1))
    child = max(0.0, 1 - shape.age / 0.3)
    brow = colour * [1.0, 0.92, 0.85] * rng.uniform(0.5, 0.85)
    brow = brow + 0.45 * child * (skin * 0.75 - brow)  # few hairs, too: see brows.py
    colour = colour + 0.3 * child * (skin * 0.6 - colour)
    colour = colour + grey * (GREYS[int(rng.random() < 0.4)] - colour)
    return colour, name, grey, brow + 0.6 * grey * (GREYS[0] * 0.7 - brow)


def _eye(rng: np.random.Generator, tone: float, fair: float) -> tuple[np.ndarray, str]:
    odds = [1.0, 0.6, 0.3 * (1 - tone) + 0.02, 0.5 * fair + 0.02]
    odds += [0.9 * fair + 0.01, 0.6 * fair + 0.01, 0.2 * fair + 0.01]
    pick = rng.choice(7, p=np.array(odds) / np.array(odds).sum())
    iris = IRISES[pick] * np.exp(rng.normal(0, 0.2))
    pupil, size, white = rng.uniform(0.3, 0.48), rng.uniform(0.40, 0.47), rng.uniform(0.85, 1.1)
    return np.array([*iris, size, pupil, white]), IRIS_NAMES[pick]


def dye(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Another colour of the hair, and its name: mostly one that people have by nature."""
    if rng.random() < 0.12:
        return linear(rng.integers(30, 220, 3)), "dyed"
    pick = rng.integers(len(HAIRS))
    return HAIRS[pick] * np.exp(rng.normal(0, 0.2)), HAIR_NAMES[pick]


def lipstick(rng: np.random.Generator) -> np.ndarray:
    """Painted lips, as shading wants them."""
    colour, strength = linear(LIPSTICKS_SRGB[rng.integers(len(LIPSTICKS_SRGB))]), rng.uniform(0.4, 0.95)
    return np.array([*colour, strength, rng.uniform(0, 2.5)])
