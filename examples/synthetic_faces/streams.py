"""Random numbers that depend on the seed, the person, the image and what is drawn, and on nothing else."""

import numpy as np

_NUMBERS = {"identity": 1, "expression": 2, "pose": 3, "lighting": 4, "scene": 5, "wear": 6, "sensor": 7}


def stream(seed: int, identity: int, image: int, subject: str) -> np.random.Generator:
    """The generator of one subject ("pose", "wear", ...) of one image."""
    return np.random.Generator(np.random.PCG64([seed, identity, image, _NUMBERS[subject]]))
