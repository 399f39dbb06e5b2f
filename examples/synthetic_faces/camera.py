"""Camera: perspective, and the square crop round the projected face."""

from dataclasses import dataclass

import numpy as np

from synthetic_faces.scene import Scene

OVERSAMPLING = 2  # pixels rendered for one of the picture, in each direction


@dataclass
class Camera:
    """At z = `distance`, looking along -z; `pixels` = side of what is rendered."""

    distance: float
    pixels: int
    x: float
    y: float
    scale: float

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y in rendered pixels (centre of the first one = 0) and nearness `[V]` of `points` `[V, 3]`."""
        nearness = 1.0 / (self.distance - points[:, 2])
        x = (points[:, 0] * nearness - self.x) * self.scale + self.pixels / 2 - 0.5
        y = (-points[:, 1] * nearness - self.y) * self.scale + self.pixels / 2 - 0.5
        return x, y, nearness

    def place(self, points: np.ndarray) -> np.ndarray:
        """`[V, 2]` in pixels of the picture, the first one's centre at 0.5."""
        nearness = 1 / (self.distance - points[:, 2])
        x = (points[:, 0] * nearness - self.x) * self.scale + self.pixels / 2
        y = (-points[:, 1] * nearness - self.y) * self.scale + self.pixels / 2
        return np.stack([x, y], 1) / OVERSAMPLING


def aim(face: np.ndarray, scene: Scene, size: int) -> tuple[Camera, np.ndarray]:
    """The camera that has the points of the face `[V, 3]` in its middle, and the box x0, y0, x1, y1 of the
    face in the picture."""
    nearness = 1.0 / (scene.distance - face[:, 2])
    x, y = face[:, 0] * nearness, -face[:, 1] * nearness
    low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()])
    side = max(high - low) * scene.margin
    pixels = size * OVERSAMPLING
    centre = (low + high) / 2 + scene.shift * side
    camera = Camera(scene.distance, pixels, centre[0], centre[1], pixels / side)
    box = (np.concatenate([low, high]) - np.tile(centre, 2)) * camera.scale + pixels / 2
    return camera, box / OVERSAMPLING
