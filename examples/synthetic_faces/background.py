"""Backgrounds: walls, rooms, foliage, lights, people, writing; mostly out of focus."""

from collections.abc import Callable

import cv2
import numpy as np

from synthetic_faces.colours import SKINS, cloth_colour
from synthetic_faces.scene import Scene

Painter = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def draw_background(scene: Scene, side: int) -> np.ndarray:
    """Linear light `[side, side, 3]` float32."""
    rng = scene.stream(5)
    image = _wall(rng, side)
    for painter, share in _PAINTERS:
        if rng.random() < share:
            image = painter(rng, image)
    blur = rng.choice([rng.uniform(0.3, 1.5), rng.uniform(1.5, 7.0)], p=[0.35, 0.65]) * side / 192
    return np.clip(cv2.GaussianBlur(image, (0, 0), float(blur)), 0, 1.5)


def _muted(rng: np.random.Generator) -> np.ndarray:
    """A colour as rooms and streets have: mostly near grey."""
    colour = cloth_colour(rng)
    return colour + rng.uniform(0.2, 1.0) * (colour.mean() - colour)


def _colour(rng: np.random.Generator) -> tuple[float, ...]:
    return tuple(float(value) for value in _muted(rng))


def _wall(rng: np.random.Generator, side: int) -> np.ndarray:
    """A gradient between two colours, which are often alike."""
    first, second = _muted(rng), _muted(rng)
    second = first + rng.choice([0.0, 0.3, 1.0]) * (second - first)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
    return (first + ramp * (second - first)).astype(np.float32)


def _clouds(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    for cells, strength in ((4, 0.7), (9, 0.45), (24, 0.3)):
        low = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        low = low + 0.96 * (low.mean(2, keepdims=True) - low)
        image = image * np.exp(strength * cv2.resize(low, image.shape[:2], interpolation=cv2.INTER_CUBIC))
    return image


def _foliage(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Leaves: light through green at two scales."""
    side = len(image)
    green = np.array([rng.uniform(0.02, 0.25), rng.uniform(0.08, 0.25), rng.uniform(0.01, 0.08)], np.float32)
    leaves = np.zeros((side, side), np.float32)
    for cells in (14, 40):
        low = rng.standard_normal((cells, cells)).astype(np.float32)
        leaves += cv2.resize(low, (side, side), interpolation=cv2.INTER_LINEAR)
    share = np.clip(0.6 + 0.8 * leaves, 0, 1)[..., None]
    return image + share * (green * np.exp(0.5 * leaves[..., None]) - image)


def _room(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Upright and level edges: doors, windows, shelves, seen a little askew."""
    side = len(image)
    for _ in range(int(rng.integers(3, 10))):
        x, y = rng.uniform(-0.2, 1.0, 2) * side
        wide, tall = rng.uniform(0.05, 0.6) * side, rng.uniform(0.1, 1.1) * side
        skew = rng.normal(0, 0.04, (4, 2)) * side
        corners = np.array([(x, y), (x + wide, y), (x + wide, y + tall), (x, y + tall)]) + skew
        cv2.fillPoly(image, [corners.astype(np.int32)], _colour(rng))
        if rng.random() < 0.5:
            cv2.polylines(image, [corners.astype(np.int32)], True, _colour(rng), int(rng.integers(1, 5)))
    return image


def _shapes(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    side = len(image)
    for _ in range(int(rng.integers(3, 12))):
        x0, y0, x1, y1 = (int(value) for value in rng.integers(-side // 4, side + side // 4, 4))
        if rng.random() < 0.5:
            cv2.line(image, (x0, y0), (x1, y1), _colour(rng), int(rng.integers(1, side // 10)))
        else:
            cv2.fillPoly(image, [rng.integers(-20, side + 20, (3, 2)).astype(np.int32)], _colour(rng))
    return image


def _lights(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Bright discs, as lamps out of focus."""
    side = len(image)
    radius = int(rng.integers(2, max(3, side // 12)))
    for _ in range(int(rng.integers(5, 30))):
        x, y = (int(value) for value in rng.integers(0, side, 2))
        light = tuple(float(value) for value in rng.uniform(0.4, 1.3) * np.exp(rng.normal(0, 0.25, 3)))
        cv2.circle(image, (x, y), radius, light, -1)
    return image


def _people(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Others, mostly at the edges: shoulders, head, hair."""
    side = len(image)
    for _ in range(int(rng.integers(1, 4))):
        x, y = int(rng.uniform(-0.05, 1.05) * side), int(rng.uniform(0.15, 0.7) * side)
        size = rng.uniform(0.08, 0.22) * side
        skin = SKINS[rng.integers(len(SKINS))] * rng.uniform(0.5, 1.1)
        hair = tuple(float(value) for value in rng.uniform(0.005, 0.15, 3))
        body, face = (int(size * 1.8), int(size * 2.2)), (int(size * 0.75), int(size))
        cv2.ellipse(image, (x, y + int(3.1 * size)), body, 0, 0, 360, _colour(rng), -1)
        cv2.ellipse(image, (x, y - int(0.2 * size)), (int(size * 0.85), int(size)), 0, 0, 360, hair, -1)
        cv2.ellipse(image, (x, y + int(0.15 * size)), face, 0, 0, 360, tuple(map(float, skin)), -1)
    return image


def _writing(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A panel with rows of strokes like letters."""
    side = len(image)
    left, top = (int(value) for value in rng.uniform(-0.1, 0.7, 2) * side)
    tall = int(rng.integers(3, 12))
    ink = _colour(rng)
    for row in range(int(rng.integers(1, 6))):
        x, y = left, top + int(1.7 * tall * row)
        while x < left + 0.5 * side:
            wide = int(rng.integers(1, max(2, tall)))
            cv2.rectangle(image, (x, y), (x + wide // 2, y + int(rng.uniform(0.5, 1) * tall)), ink, -1)
            x += wide + int(rng.integers(1, 4))
    return image


_PAINTERS: tuple[tuple[Painter, float], ...] = (
    (_clouds, 0.4),
    (_foliage, 0.12),
    (_room, 0.35),
    (_shapes, 0.15),
    (_lights, 0.1),
    (_people, 0.15),
    (_writing, 0.12),
)
