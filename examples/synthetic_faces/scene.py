"""Where a picture is taken: camera, background, and what stands before the face."""

from dataclasses import dataclass

import cv2
import numpy as np

from synthetic_faces.colours import cloth_colour


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
        occluder=bool(rng.random() < 0.06),
    )


def draw_background(scene: Scene, side: int) -> np.ndarray:
    """Linear light `[side, side, 3]`: a gradient, plain, cloudy or of shapes."""
    rng = scene.stream(5)
    kind = rng.choice(["noise", "gradient", "shapes", "plain"], p=[0.35, 0.2, 0.35, 0.1])
    first, second = cloth_colour(rng), cloth_colour(rng)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
    image = (first + ramp * (second - first)).astype(np.float32)
    if kind == "plain":
        image = np.broadcast_to(first.astype(np.float32), (side, side, 3)).copy()
    if kind == "noise":
        image = _clouds(rng, image)
    if kind == "shapes":
        image = _shapes(rng, image)
    return np.clip(image, 0, 1.5)


def _clouds(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    for cells, strength in ((4, 0.8), (9, 0.5), (24, 0.3)):
        low = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        low = low + 0.92 * (low.mean(2, keepdims=True) - low)
        image = image * np.exp(strength * cv2.resize(low, image.shape[:2], interpolation=cv2.INTER_CUBIC))
    return image


def _shapes(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    side = len(image)
    for _ in range(int(rng.integers(4, 16))):
        colour = [float(value) for value in cloth_colour(rng)]
        x0, y0, x1, y1 = (int(value) for value in rng.integers(-side // 4, side + side // 4, 4))
        what = rng.integers(4)
        if what == 0:
            cv2.rectangle(image, (x0, y0), (x1, y1), colour, -1)
        elif what == 1:
            cv2.circle(image, (x0, y0), int(rng.integers(side // 20, side // 3)), colour, -1)
        elif what == 2:
            cv2.line(image, (x0, y0), (x1, y1), colour, int(rng.integers(1, side // 10)))
        else:
            cv2.fillPoly(image, [rng.integers(-20, side + 20, (3, 2)).astype(np.int32)], colour)
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.8, 9)))


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
