"""Colours in linear light."""

from collections.abc import Sequence

import numpy as np

SKINS_SRGB = (
    (241, 207, 186),
    (228, 186, 158),
    (210, 164, 130),
    (183, 133, 98),
    (143, 98, 68),
    (104, 69, 49),
    (70, 47, 36),
)
HAIRS_SRGB = {
    "black": (24, 20, 18),
    "dark brown": (44, 32, 25),
    "brown": (74, 50, 34),
    "light brown": (112, 76, 46),
    "dark blond": (168, 128, 78),
    "blond": (206, 176, 124),
    "red": (134, 62, 34),
}
GREYS_SRGB = ((150, 148, 146), (192, 190, 186))
IRISES_SRGB = {
    "dark brown": (70, 42, 24),
    "brown": (98, 64, 34),
    "hazel": (110, 92, 52),
    "green": (92, 118, 84),
    "blue": (88, 124, 160),
    "light blue": (120, 150, 176),
    "grey": (104, 112, 120),
}


def linear(rgb: Sequence[int] | np.ndarray) -> np.ndarray:
    """sRGB 0..255 as linear light 0..1."""
    return (np.asarray(rgb, float) / 255) ** 2.2


SKINS, GREYS = linear(SKINS_SRGB), linear(GREYS_SRGB)
HAIRS, IRISES = linear(list(HAIRS_SRGB.values())), linear(list(IRISES_SRGB.values()))
HAIR_NAMES, IRIS_NAMES = tuple(HAIRS_SRGB), tuple(IRISES_SRGB)


def cloth_colour(rng: np.random.Generator) -> np.ndarray:
    """Mostly muted, sometimes vivid."""
    hue, saturation, value = rng.random(), rng.beta(1.1, 2.4), rng.uniform(0.04, 0.95)
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return linear(255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)))


def draw_person_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Skin, hair and cloth of somebody in the background or in front."""
    skin = SKINS[rng.integers(len(SKINS))] * rng.uniform(0.7, 1.1)
    hair = (
        GREYS[0] if rng.random() < 0.15 else HAIRS[rng.choice(7, p=[0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02])]
    )
    return skin, hair * rng.uniform(0.6, 1.2), cloth_colour(rng)
