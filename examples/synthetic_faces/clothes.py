"""Clothes as a texture: plain, striped, checked or printed cloth, a jacket with a shirt."""

import cv2
import numpy as np

from synthetic_faces.colours import cloth_colour
from synthetic_faces.head import Head
from synthetic_faces.scene import Scene
from synthetic_faces.texture import HEIGHT, WIDTH
from synthetic_faces.wear import Wear

_ROWS = np.s_[176:HEIGHT]  # from the chin downwards


def paint_clothes(head: Head, wear: Wear, scene: Scene) -> np.ndarray:
    """Linear colours `[H, W, 3]` float32; only the rows below the chin are painted."""
    rng = scene.stream(15)
    kind = wear.clothes
    x, y, angle = head.texel_x[_ROWS], head.texel_y[_ROWS], head.texel_angle[_ROWS]
    colour, second = wear.cloth.astype(np.float32), wear.second.astype(np.float32)
    share = np.zeros_like(y)
    if kind == "stripes":
        wave = np.sin(y * rng.uniform(25, 70)) if rng.random() < 0.6 else np.sin(angle * rng.uniform(15, 50))
        share = (wave > rng.uniform(-0.5, 0.9)).astype(np.float32)
    elif kind == "checks":
        share = 0.5 * (np.sin(y * rng.uniform(25, 60)) > 0.2) + 0.5 * (
            np.sin(angle * rng.uniform(20, 45)) > 0.2
        )
    elif kind == "print":
        cells = rng.standard_normal((int(rng.integers(8, 24)), int(rng.integers(30, 100))), np.float32)
        field = cv2.resize(cells, (WIDTH, len(y)), interpolation=cv2.INTER_CUBIC)
        share = np.clip(0.5 + 4 * (field - rng.uniform(0, 1)), 0, 1)
    cloth = colour + share[..., None].astype(np.float32) * (second - colour)
    if kind == "jacket":
        cloth = _jacket(rng, x, y, np.abs(angle) < 1.3, colour)
    rough = cv2.resize(
        rng.standard_normal((6, 40), np.float32), (WIDTH, len(y)), interpolation=cv2.INTER_CUBIC
    )
    texture = np.empty((HEIGHT, WIDTH, 3), np.float32)
    texture[_ROWS] = cloth * np.exp(0.15 * rough)[..., None]
    return texture


def _jacket(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, front: np.ndarray, colour: np.ndarray
) -> np.ndarray:
    """A dark jacket, open in a V over a light shirt, perhaps with a tie."""
    shade = np.float32(rng.choice([0.08, 0.25, 1.0], p=[0.5, 0.3, 0.2]))
    dark = colour.mean() * shade + np.float32(0.5) * shade * (colour - colour.mean())
    shirt = np.float32(rng.uniform(0.4, 0.85)) * np.exp(rng.normal(0, 0.12, 3)).astype(np.float32)
    opening = np.clip(0.14 + rng.uniform(0.35, 0.6) * (y - 5.15), 0.05, 0.6)
    side = np.abs(x)
    inner = (side < opening) & front
    cloth = np.where(inner[..., None], shirt, np.maximum(dark, np.float32(0.004)))
    lapel = front & (np.abs(side - opening - rng.uniform(0.1, 0.2) * (y - 4.9)) < 0.012)
    cloth[lapel | (front & (np.abs(side - opening) < 0.014))] *= np.float32(0.5)
    if rng.random() < 0.6:
        tie = inner & (side < 0.055 + 0.05 * (5.9 - y))
        ink = cloth_colour(rng).astype(np.float32) * np.float32(0.6)
        bands = np.where(
            np.sin((x + y) * rng.uniform(30, 80)) > rng.uniform(0, 1), np.float32(1.5), np.float32(1)
        )
        cloth = np.where(tie[..., None], ink * bands[..., None], cloth)
    return cloth.astype(np.float32)
