"""Poses: yaw, pitch, roll in degrees, R = Ry(yaw) Rx(-pitch) Rz(-roll)."""

from typing import NamedTuple

import numpy as np


class Pose(NamedTuple):
    """yaw > 0: the nose moves to the image's right; pitch > 0: up; roll > 0: the head tilts clockwise."""

    yaw: float
    pitch: float
    roll: float


_MOST = (90.0, 45.0, 45.0)
SERIES = (
    *(Pose(yaw, 0.0, 0.0) for yaw in (-60.0, -40.0, -20.0, 0.0, 20.0, 40.0, 60.0)),
    Pose(0.0, -25.0, 0.0),
    Pose(0.0, 25.0, 0.0),
)


def draw_pose(rng: np.random.Generator) -> Pose:
    """Half near the front as in portraits, half from wide normal distributions, cut at profiles."""
    spread = (13, 8, 6) if rng.random() < 0.5 else (42, 14, 12)
    return Pose(*(_truncated(rng, sd, most) for sd, most in zip(spread, _MOST, strict=True)))


def _truncated(rng: np.random.Generator, sd: float, most: float) -> float:
    angle = rng.normal(0, sd)
    while abs(angle) > most:
        angle = rng.normal(0, sd)
    return float(angle)


def draw_calm_pose(rng: np.random.Generator) -> Pose:
    """Near the front, for series in which something else changes."""
    return Pose(*(float(angle) for angle in np.clip(rng.normal(0, [10, 5, 4]), -25, 25)))
