"""Where a picture is taken: camera, skin's shine, and what stands before the face."""

from dataclasses import dataclass

import numpy as np

OCCLUDERS = {"neighbour": 0.3, "edge": 0.25, "thing": 0.2, "text": 0.25}  # shares


@dataclass
class Scene:
    """`distance` of the camera in decimetres; `margin` of the crop round the face box and its `shift` as
    shares of the side; `body` the share of the head's yaw that the shoulders take; `oil` how much forehead
    and nose shine; `occluder` "none" or one of OCCLUDERS."""

    distance: float
    margin: float
    shift: np.ndarray
    body: float
    oil: float
    seed: int
    occluder: str

    def stream(self, subject: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, subject]))


def draw_scene(rng: np.random.Generator) -> Scene:
    """From a telephone at arm's length to a long lens; some faces are cut by the picture's edge."""
    near, far = (4.2, 7.0) if rng.random() < 0.2 else (7.0, 40.0)
    off = 0.1 if rng.random() < 0.08 else 0.025
    return Scene(
        distance=float(np.exp(rng.uniform(np.log(near), np.log(far)))),
        margin=float(rng.uniform(1.12, 1.45)),
        shift=np.clip(rng.normal(0, off, 2), -0.2, 0.2),
        body=rng.uniform(0.1, 0.8),
        oil=float(np.exp(rng.normal(-0.1, 0.8))),
        seed=int(rng.integers(1 << 31)),
        occluder=str(rng.choice(list(OCCLUDERS), p=list(OCCLUDERS.values())))
        if rng.random() < 0.08
        else "none",
    )
