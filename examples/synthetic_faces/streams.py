"""Random numbers that depend on the version, the seed, the person, the image and the subject alone."""

import numpy as np

VERSION = 3  # of the faces: another version draws other people
_SUBJECTS = (
    "identity",
    "expression",
    "pose",
    "lighting",
    "scene",
    "wear",
    "sensor",
    "look",
    "change",
    "hair",
    "dye",
    "beard",
    "makeup",
    "frame",
    "folds",
    "brows",
    "strands",
)


def stream(seed: int, identity: int, image: int, subject: str) -> np.random.Generator:
    """The generator of one subject ("pose", "wear", ...) of one image, or of one variant of a look."""
    return np.random.Generator(np.random.PCG64([VERSION, seed, identity, image, _SUBJECTS.index(subject)]))
