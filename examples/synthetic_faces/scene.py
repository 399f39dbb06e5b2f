"""Where a picture is taken: camera, and what stands before the face."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass
class Scene:
    """`distance` of the camera in decimetres; `margin` of the crop round the face box and its `shift` as
    shares of the side; `body` the share of the head's yaw that the shoulders take."""

    distance: float
    margin: float
    shift: np.ndarray
    body: float
    seed: int
    occluder: bool

    def stream(self, subject: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, subject]))


def draw_scene(rng: np.random.Generator) -> Scene:
    return Scene(
        distance=float(np.exp(rng.uniform(np.log(5.5), np.log(24)))),
        margin=float(rng.uniform(1.12, 1.45)),
        shift=rng.normal(0, 0.025, 2),
        body=rng.uniform(0.1, 0.8),
        seed=int(rng.integers(1 << 31)),
        occluder=bool(rng.random() < 0.04),
    )


def occlude(scene: Scene, image: np.ndarray) -> np.ndarray:
    """Something before the face, from one side, across, or from below."""
    rng = scene.stream(9)
    side = len(image)
    mask = np.zeros((side, side), np.float32)
    kind, turns = rng.integers(3), rng.integers(4)
    if kind == 0:
        depth = int(side * rng.uniform(0.12, 0.36))
        edge = [[-5, -5], [depth + rng.integers(-8, 9), -5]]
        edge += [[depth + rng.integers(-8, 9), side + 5], [-5, side + 5]]
        cv2.fillPoly(mask, [np.array(edge).astype(np.int32)], 1.0)
    elif kind == 1:
        start, end = (int(value) for value in rng.integers(0, side, 2))
        cv2.line(mask, (-5, start), (side + 5, end), 1.0, int(rng.integers(3, side // 8)))
    else:
        turns = 0
        centre = (int(rng.uniform(0.1, 0.9) * side), int(side * rng.uniform(0.85, 1.05)))
        axes = (int(side * rng.uniform(0.12, 0.3)), int(side * rng.uniform(0.15, 0.4)))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(-30, 30)), 0, 360, 1.0, -1)
    mask = np.ascontiguousarray(np.rot90(mask, turns))
    mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.5, 2.0)))[..., None]
    colour = rng.uniform(0.02, 0.95, 3).astype(np.float32)
    grain = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), 2)[..., None]
    return image + mask * (colour * (1 + 0.1 * grain) - image)
