"""Poses: yaw, pitch, roll in degrees, R = Ry(yaw) Rx(-pitch) Rz(-roll)."""

from typing import NamedTuple

import numpy as np


class Pose(NamedTuple):
    """yaw > 0: the nose moves to the image's right; pitch > 0: up; roll > 0: the head tilts clockwise."""

    yaw: float
    pitch: float
    roll: float


SERIES = (
    *(Pose(yaw, 0.0, 0.0) for yaw in (-60.0, -40.0, -20.0, 0.0, 20.0, 40.0, 60.0)),
    Pose(0.0, -25.0, 0.0),
    Pose(0.0, 25.0, 0.0),
)


def draw_pose(rng: np.random.Generator) -> Pose:
    """Mostly near the front, sometimes anything the mesh can bear."""
    if rng.random() < 0.72:
        yaw, pitch, roll = rng.normal(0, 20), rng.normal(0, 9), rng.normal(0, 7)
    else:
        yaw, pitch, roll = rng.uniform(-75, 75), rng.uniform(-35, 35), rng.uniform(-28, 28)
    return Pose(float(np.clip(yaw, -75, 75)), float(np.clip(pitch, -40, 40)), float(np.clip(roll, -30, 30)))


def draw_calm_pose(rng: np.random.Generator) -> Pose:
    """Near the front, for series in which something else changes."""
    return Pose(*(float(angle) for angle in np.clip(rng.normal(0, [10, 5, 4]), -25, 25)))
