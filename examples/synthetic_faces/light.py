"""Lighting: up to three lamps, sky and ground, and the shadow of the first lamp."""

import math
from dataclasses import dataclass

import numpy as np

from synthetic_faces.kernels.raster import depth_map

SHADOW_SIDE = 144  # texels of the shadow map
_SHADOW_SPAN = 4.4  # decimetres it covers


@dataclass
class Lighting:
    """`lights` `[N, 7]`: direction in camera axes (y up), colour, 1 for the one that casts shadows; `sky`,
    `ground` `[3]` ambient light."""

    lights: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    exposure: float


def draw_lighting(rng: np.random.Generator) -> Lighting:
    """A main light somewhere before the face, up to two weaker ones anywhere, and a sky."""
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    warm = rng.normal(0, 0.1)
    lights = np.stack([_light(rng, main=k == 0, warm=warm) for k in range(count)])
    level = rng.uniform(0.25, 0.85)
    sky = level * np.exp(np.array([-0.5, 0, 0.5]) * rng.normal(0.05, 0.12))
    ground = sky * rng.uniform(0.35, 0.8) * np.exp(rng.normal(0, 0.08, 3))
    total = lights[:, 3:6].mean(1) @ np.clip(lights[:, 2] + 0.3, 0, 1) + level
    return Lighting(lights, sky, ground, float(rng.uniform(0.85, 1.25) / (0.5 + 0.5 * total)))


def _light(rng: np.random.Generator, main: bool, warm: float) -> np.ndarray:
    azimuth = math.radians(rng.normal(0, 45) if main else rng.uniform(-130, 130))
    elevation = math.radians(rng.uniform(-8, 65) if main else rng.uniform(-30, 60))
    power = rng.uniform(0.8, 1.7) if main else rng.uniform(0.15, 0.8)
    tint = np.exp(np.array([1, 0, -1]) * (warm + rng.normal(0, 0.06 if main else 0.2)))
    flat = math.cos(elevation)
    direction = (math.sin(azimuth) * flat, math.sin(elevation), math.cos(azimuth) * flat)
    return np.array([*direction, *(power * tint), 1.0 if main else 0.0])


def shadow_map(
    points: np.ndarray, triangles: np.ndarray, skip: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth map of `points` `[V, 3]` seen from the direction `light` `[3]`, and its axes `[3, 3]`."""
    across = np.cross(light, [0.2, 1.0, 0.1])
    across /= np.linalg.norm(across)
    scale = SHADOW_SIDE / _SHADOW_SPAN
    axes = np.stack([across * scale, np.cross(light, across) * scale, light])
    shadow = np.full((SHADOW_SIDE, SHADOW_SIDE), -1e9)
    x, y = points @ axes[0] + SHADOW_SIDE / 2, points @ axes[1] + SHADOW_SIDE / 2
    depth_map(x, y, points @ axes[2], triangles, skip, shadow)
    return shadow, axes
