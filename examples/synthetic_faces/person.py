"""Who somebody is: all that is the same in every picture of one person."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from synthetic_faces.beard import Beard, paint_beard
from synthetic_faces.colours import cloth_colour, linear
from synthetic_faces.complexion import Complexion, draw_complexion
from synthetic_faces.hair import Hair, draw_hair, paint_scalp
from synthetic_faces.head import Head
from synthetic_faces.shape import Shape, draw_shape
from synthetic_faces.skin import FaceMap, paint_skin
from synthetic_faces.streams import stream

FRAMES_SRGB = [[20, 18, 18], [60, 36, 24], [120, 110, 100], [150, 30, 30], [40, 60, 110], [190, 160, 90]]


@dataclass
class Frame:
    """Frame of glasses, decimetres: `power` 2 = elliptic lenses, larger = more square."""

    half_width: float
    half_height: float
    power: float
    tube: float
    colour: np.ndarray
    drop: float


@dataclass
class Person:
    """`texture` `[H, W, 3]` of the skin with brows, beard and scalp."""

    identity: int
    shape: Shape
    complexion: Complexion
    texture: np.ndarray
    beard: Beard
    hair: Hair
    wears_glasses: bool
    frame: Frame
    wears_headscarf: bool
    headscarf: np.ndarray

    def describe(self) -> dict[str, Any]:
        """The label `person`."""
        shape, complexion = self.shape, self.complexion
        extras = {"fringe": self.hair.fringe, "beard": self.beard.kind, "makeup": complexion.makeup}
        return {
            "male": round(shape.male, 3),
            "age": round(shape.age, 3),
            "mix": [round(float(share), 2) for share in shape.mix],
            "skin": round(complexion.tone, 3),
            "hair": self.hair.style,
            "hair_colour": complexion.hair_name,
            "grey": round(complexion.grey, 2),
            "iris": complexion.iris_name,
            **{name: value for name, value in extras.items() if value and value != "none"},
        }


def draw_person(head: Head, face: FaceMap, seed: int, identity: int) -> Person:
    """The person of this number."""
    rng = stream(seed, identity, 0, "identity")
    shape = draw_shape(head, rng)
    complexion = draw_complexion(rng, shape)
    texture, fine = paint_skin(rng, face, shape, complexion)
    beard = paint_beard(rng, face, shape, complexion, texture, fine)
    hair = draw_hair(rng, head, shape, complexion)
    texture = paint_scalp(texture, hair)
    wears_glasses, frame = bool(rng.random() < 0.25), _frame(rng)
    scarf = bool(shape.male < 0.5 and rng.random() < 0.06)
    colour = cloth_colour(rng)
    return Person(identity, shape, complexion, texture, beard, hair, wears_glasses, frame, scarf, colour)


def _frame(rng: np.random.Generator) -> Frame:
    return Frame(
        half_width=rng.uniform(0.2, 0.265),
        half_height=rng.uniform(0.13, 0.23),
        power=rng.choice([2.0, 2.6, 4.0]),
        tube=rng.choice([0.012, 0.02, 0.032]),
        colour=linear(rng.choice(FRAMES_SRGB)),
        drop=rng.uniform(-0.05, 0.02),
    )
