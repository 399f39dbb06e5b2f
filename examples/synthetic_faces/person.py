"""Who somebody is: all that is the same in every picture of one person."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from synthetic_faces.brows import brow_cover
from synthetic_faces.complexion import Complexion, draw_complexion
from synthetic_faces.folds import Folds, draw_folds
from synthetic_faces.head import Head
from synthetic_faces.shape import Shape, draw_shape
from synthetic_faces.skin import FACE, FaceMap, paint_skin
from synthetic_faces.streams import stream


@dataclass
class Person:
    """`skin` `[H, W, 3]` the texture with brows, without beard and hair, and the `fine` noise of its face;
    `folds` its wrinkles."""

    identity: int
    shape: Shape
    complexion: Complexion
    skin: np.ndarray
    fine: np.ndarray
    folds: Folds
    wears_headscarf: bool

    def describe(self) -> dict[str, Any]:
        """The label `person`."""
        shape, complexion = self.shape, self.complexion
        return {
            "male": round(shape.male, 3),
            "age": round(shape.age, 3),
            "mix": [round(float(share), 2) for share in shape.mix],
            "skin": round(complexion.tone, 3),
            "iris": complexion.iris_name,
        }


def draw_person(head: Head, face: FaceMap, seed: int, identity: int) -> Person:
    """The person of this number."""
    rng = stream(seed, identity, 0, "identity")
    shape = draw_shape(head, rng)
    complexion = draw_complexion(rng, shape)
    skin, fine = paint_skin(rng, face, shape, complexion)
    scarf = bool(shape.male < 0.5 and shape.age > 0.25 and rng.random() < 0.05)
    brow = brow_cover(stream(seed, identity, 0, "brows"), face, shape)[..., None]
    skin[FACE] += brow * (complexion.brow.astype(np.float32) * (1 + 0.3 * fine[..., None]) - skin[FACE])
    folds = draw_folds(stream(seed, identity, 0, "folds"), face, shape)
    return Person(identity, shape, complexion, skin, fine, folds, scarf)
