"""Lighting: up to three lamps, sky and ground, and the shadow of the first lamp."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from synthetic_faces.kernels.raster import depth_map

_SHADOW_SIDES = (176, 112, 64)  # texels of the shadow map: the larger the lamp, the softer the edge
_SHADOW_SPAN = 4.4  # decimetres it covers
_SCREENED = {"sun": 0.35, "lamp": 0.15, "window": 0.15, "side": 0.1}  # share with something before the lamp
SETUPS = {  # share of the pictures
    "soft": 0.27,
    "flat": 0.1,
    "window": 0.14,
    "lamp": 0.12,
    "side": 0.06,
    "top": 0.06,
    "sun": 0.08,
    "flash": 0.09,
    "back": 0.04,
    "stage": 0.03,
    "below": 0.01,
}


@dataclass
class Lighting:
    """`lights` `[N, 8]`: direction in camera axes (y up), colour, 1 for the one that casts shadows, size
    0 (a point) .. 1 (a window or a cloudy sky); `sky`, `ground` `[3]` ambient light; `backdrop` what the
    background receives in comparison to the face; `balance` `[3]` how the camera evens out the light's
    colour; `screen` what stands before the first lamp (kernels/pixels.py)."""

    setup: str
    lights: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    exposure: float
    backdrop: float
    balance: np.ndarray
    screen: np.ndarray


def draw_lighting(rng: np.random.Generator) -> Lighting:
    """One of the setups of photographs, with its own strength, colours and number of lamps."""
    setup = str(rng.choice(list(SETUPS), p=list(SETUPS.values())))
    lamps, level, backdrop = _LAMPS[setup](rng)
    lights = np.stack(lamps)
    lights[:, 6] = np.arange(len(lights)) == 0
    sky = level * np.exp(np.array([-0.5, 0, 0.5]) * rng.normal(0.05, 0.12))
    ground = sky * rng.uniform(0.35, 0.8) * np.exp(rng.normal(0, 0.08, 3))
    total = lights[:, 3:6].mean(1) @ np.clip(lights[:, 2] + 0.3, 0, 1) + level
    exposure = float(rng.uniform(0.95, 1.4) / (0.5 + 0.5 * total))
    colour = lights[:, 3:6].sum(0) + sky
    balance = (colour.mean() / colour) ** (0.8 if setup != "stage" else 0.2)
    screen = _screen(rng) if rng.random() < _SCREENED.get(setup, 0) else np.ones((1, 1))
    return Lighting(setup, lights, sky, ground, exposure, backdrop, balance, screen)


def _screen(rng: np.random.Generator) -> np.ndarray:
    """Leaves, blinds or an edge between the lamp and the head."""
    side, kind = 160, rng.integers(3)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == 0:
        cells = int(rng.integers(6, 16))
        field = cv2.resize(
            rng.standard_normal((cells, cells), np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
        field += np.float32(rng.uniform(-0.4, 0.6))
    elif kind == 1:
        field = np.sin(along * rng.uniform(40, 110) + rng.uniform(0, 6)) + np.float32(rng.uniform(-0.3, 0.6))
    else:
        field = (along + np.float32(rng.uniform(-0.12, 0.12))) * 20
    dark = rng.uniform(0, 0.3)
    return np.asarray(dark + (1 - dark) * np.clip(0.5 + rng.uniform(1, 4) * field, 0, 1), float)


_Drawn = tuple[list[np.ndarray], float, float]  # lamps, ambient level, backdrop


def _lamp(
    rng: np.random.Generator,
    azimuth: float,
    elevation: float,
    power: float,
    size: float,
    warm: float = 0.0,
    tint: np.ndarray | None = None,
) -> np.ndarray:
    """A lamp at angles in degrees, 0 = from the camera; `warm` > 0 is yellowish, `tint` `[3]` any colour."""
    a, e = math.radians(azimuth), math.radians(elevation)
    colour = np.exp(np.array([1, 0, -1]) * (warm + rng.normal(0, 0.05))) if tint is None else tint
    direction = (math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
    return np.array([*direction, *(power * colour), 0.0, size])


def _fill(rng: np.random.Generator) -> np.ndarray:
    """A weak lamp from anywhere."""
    azimuth, elevation = rng.uniform(-130, 130), rng.uniform(-30, 60)
    return _lamp(rng, azimuth, elevation, rng.uniform(0.1, 0.6), 0.5, rng.normal(0, 0.2))


def _either_side(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.choice([-1, 1]) * rng.uniform(low, high))


def _soft(rng: np.random.Generator) -> _Drawn:
    """Lamps of rooms and studios, a large one somewhere before the face."""
    warm = rng.normal(0.03, 0.1)
    main = _lamp(
        rng, rng.normal(0, 40), rng.uniform(0, 60), rng.uniform(0.8, 1.5), rng.uniform(0.3, 0.8), warm
    )
    return [main, *(_fill(rng) for _ in range(rng.integers(3)))], rng.uniform(0.3, 0.8), rng.uniform(0.6, 1.3)


def _flat(rng: np.random.Generator) -> _Drawn:
    """A cloudy day or a light box: hardly any shadow."""
    main = _lamp(rng, rng.normal(0, 40), rng.uniform(35, 80), rng.uniform(0.4, 0.9), 1.0, -0.05)
    return [main], rng.uniform(0.8, 1.1), rng.uniform(0.7, 1.5)


def _window(rng: np.random.Generator) -> _Drawn:
    """A window at one side, warm light of the room from the other."""
    azimuth = _either_side(rng, 25, 85)
    lamps = [_lamp(rng, azimuth, rng.uniform(-5, 35), rng.uniform(1.0, 2.0), rng.uniform(0.5, 0.9), -0.06)]
    if rng.random() < 0.5:
        lamps.append(_lamp(rng, -azimuth, rng.uniform(0, 60), rng.uniform(0.1, 0.5), 0.5, 0.25))
    return lamps, rng.uniform(0.15, 0.5), rng.uniform(0.4, 1.2)


def _hard(rng: np.random.Generator) -> _Drawn:
    """A bare lamp before the face."""
    azimuth, elevation = rng.normal(0, 40), rng.uniform(0, 60)
    main = _lamp(rng, azimuth, elevation, rng.uniform(1.2, 2.2), rng.uniform(0, 0.2), rng.normal(0.08, 0.1))
    return [main, *(_fill(rng) for _ in range(rng.integers(2)))], rng.uniform(0.15, 0.4), rng.uniform(0.3, 1)


def _side(rng: np.random.Generator) -> _Drawn:
    """One half of the face lies in the dark."""
    main = _lamp(
        rng, _either_side(rng, 65, 105), rng.uniform(-5, 40), rng.uniform(1.3, 2.2), rng.uniform(0, 0.5)
    )
    return [main], rng.uniform(0.08, 0.3), rng.uniform(0.2, 1)


def _top(rng: np.random.Generator) -> _Drawn:
    """Spots in the ceiling: dark sockets, a bright forehead and nose."""
    warm = rng.normal(0.1, 0.1)
    main = _lamp(
        rng, rng.normal(0, 50), rng.uniform(60, 85), rng.uniform(1.2, 2.2), rng.uniform(0, 0.4), warm
    )
    lamps = [main, *(_fill(rng) for _ in range(rng.integers(3)))]
    return lamps, rng.uniform(0.25, 0.5), rng.uniform(0.4, 1.1)


def _sun(rng: np.random.Generator) -> _Drawn:
    """The sun, and a blue sky in the shadows."""
    main = _lamp(
        rng, rng.normal(0, 70), rng.uniform(25, 75), rng.uniform(1.5, 2.6), 0.05, rng.uniform(0, 0.15)
    )
    return [main], rng.uniform(0.35, 0.6), rng.uniform(0.8, 1.6)


def _flash(rng: np.random.Generator) -> _Drawn:
    """A flash on the camera: a flat bright face that shines, before a darker room."""
    main = _lamp(rng, rng.normal(0, 5), rng.uniform(0, 12), rng.uniform(1.6, 2.6), 0.05, -0.02)
    return [main], rng.uniform(0.08, 0.3), rng.uniform(0.3, 1.2)


def _back(rng: np.random.Generator) -> _Drawn:
    """The light stands behind the head and leaves a bright rim."""
    main = _lamp(rng, _either_side(rng, 110, 160), rng.uniform(5, 55), rng.uniform(1.5, 3.0), 0.1, 0.06)
    front = _lamp(rng, rng.normal(0, 50), rng.uniform(0, 50), rng.uniform(0.2, 0.6), 0.8)
    return [main, front], rng.uniform(0.3, 0.6), rng.uniform(1.0, 2.5)


def _stage(rng: np.random.Generator) -> _Drawn:
    """Coloured lamps from two sides in the dark."""
    hues = np.exp(rng.normal(0, 0.6, (2, 3)))
    hues /= hues.mean(1, keepdims=True)
    first, azimuth = rng.uniform(1.2, 2.2), _either_side(rng, 10, 70)
    lamps = [_lamp(rng, azimuth, rng.uniform(10, 65), first, 0.1, tint=1 + 0.6 * (hues[0] - 1))]
    lamps.append(_lamp(rng, -azimuth * 1.6, rng.uniform(-10, 50), rng.uniform(0.5, 1.4), 0.2, tint=hues[1]))
    return lamps, rng.uniform(0.08, 0.25), rng.uniform(0.1, 0.5)


def _below(rng: np.random.Generator) -> _Drawn:
    """A screen, a fire, a table in the sun."""
    main = _lamp(
        rng, rng.normal(0, 30), rng.uniform(-50, -15), rng.uniform(0.9, 1.7), 0.5, rng.normal(0, 0.15)
    )
    return [main], rng.uniform(0.2, 0.5), rng.uniform(0.3, 1)


_LAMPS = {
    "soft": _soft,
    "flat": _flat,
    "window": _window,
    "lamp": _hard,
    "side": _side,
    "top": _top,
    "sun": _sun,
    "flash": _flash,
    "back": _back,
    "stage": _stage,
    "below": _below,
}


def shadow_map(
    points: np.ndarray, triangles: np.ndarray, skip: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth map of `points` `[V, 3]` seen from `light` `[8]`, and its axes `[3, 3]`."""
    direction, size = light[:3], light[7]
    side = _SHADOW_SIDES[int(size > 0.15) + int(size > 0.45)]
    across = np.cross(direction, [0.2, 1.0, 0.1])
    across /= np.linalg.norm(across)
    scale = side / _SHADOW_SPAN
    axes = np.stack([across * scale, np.cross(direction, across) * scale, direction])
    shadow = np.full((side, side), -1e9)
    x, y = points @ axes[0] + side / 2, points @ axes[1] + side / 2
    depth_map(x, y, points @ axes[2], triangles, skip, shadow)
    return shadow, axes
