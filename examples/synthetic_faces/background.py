"""Backgrounds: a place, perhaps other people in it, mostly out of focus."""

import cv2
import numpy as np

from synthetic_faces.scene import Scene
from synthetic_faces.scenery import PLACES, add_people


def draw_background(scene: Scene, side: int) -> np.ndarray:
    """Linear light `[side, side, 3]` float32; what is out of focus is drawn with half as many pixels."""
    rng = scene.stream(5)
    blur = float(rng.choice([rng.uniform(0.2, 1.5), rng.uniform(1.5, 8.0)], p=[0.4, 0.6])) * side / 192
    place = str(rng.choice(list(PLACES), p=[share for _, share in PLACES.values()]))
    if place == "crowd":
        blur = max(blur, 1.6 * side / 192)
    drawn = side if blur < 1.2 else side // 2
    image = np.empty((drawn, drawn, 3), np.float32)
    PLACES[place][0](rng, image)
    if place != "studio" and rng.random() < 0.25:
        add_people(rng, image, int(rng.integers(1, 4)))
    image = cv2.GaussianBlur(image, (0, 0), blur * drawn / side)
    if drawn < side:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    return np.clip(image * _unevenness(rng, side), 0, 2.0)


def _unevenness(rng: np.random.Generator, side: int) -> np.ndarray:
    """Light that falls on the place unevenly, `[side, side, 1]`."""
    low = np.exp(rng.normal(0, 0.25, (3, 3))).astype(np.float32)
    return cv2.resize(low, (side, side), interpolation=cv2.INTER_LINEAR)[..., None]
