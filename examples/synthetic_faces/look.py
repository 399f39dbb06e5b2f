"""How somebody looks for a time: hair, beard, make-up, frame of the glasses.

Each of them may differ between pictures of one person, so that a person is known by the shape of the face.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from synthetic_faces.beard import Beard, paint_beard
from synthetic_faces.colours import cloth_colour, linear
from synthetic_faces.complexion import dye, lipstick
from synthetic_faces.hair import Hair, draw_hair, paint_scalp
from synthetic_faces.head import Head
from synthetic_faces.person import Person
from synthetic_faces.skin import FaceMap, paint_makeup
from synthetic_faces.streams import stream

FRAMES_SRGB = [[20, 18, 18], [60, 36, 24], [120, 110, 100], [150, 30, 30], [40, 60, 110], [190, 160, 90]]
CHANGED = 0.5  # share of the pictures with another look than the usual one
OTHERS = 2  # other looks of a person


class Variant(NamedTuple):
    """Which variant of each part, 0 = the usual one."""

    hair: int = 0
    dye: int = 0
    beard: int = 0
    makeup: int = 0
    frame: int = 0


_CHANGES = np.array([0.4, 0.35, 0.6, 0.75, 0.75])  # of each part: hair keeps its style in 80 % of pictures


@dataclass
class Frame:
    """Frame of glasses, decimetres: `power` 2 = elliptic lenses, larger = more square; `taper` > 0 = wider
    above, `lift` = how far the outer corners rise."""

    half_width: float
    half_height: float
    power: float
    tube: float
    colour: np.ndarray
    drop: float
    taper: float
    lift: float


@dataclass
class Look:
    """`texture` `[H, W, 3]` of the skin with brows, beard, make-up and scalp; colours `[3]`."""

    texture: np.ndarray
    hair: Hair
    hair_colour: np.ndarray
    hair_name: str
    grey: float
    beard: Beard
    makeup: bool
    lip: np.ndarray
    wears_glasses: bool
    frame: Frame
    headscarf: np.ndarray

    def describe(self) -> dict[str, Any]:
        """The label `look`; missing = none."""
        found = {
            "hair": self.hair.style,
            "hair_colour": self.hair_name,
            "grey": round(self.grey, 2),
            "fringe": self.hair.fringe,
            "beard": self.beard.kind,
            "makeup": self.makeup,
        }
        return {name: value for name, value in found.items() if value and value != "none"}


def draw_variant(seed: int, identity: int, image: int) -> Variant:
    """Mostly the usual look, else one of OTHERS, in which some parts are others."""
    rng = stream(seed, identity, image, "look")
    if rng.random() > CHANGED:
        return Variant()
    other = 1 + int(rng.integers(OTHERS))
    changed = stream(seed, identity, other, "change").random(len(Variant._fields)) < _CHANGES
    return Variant(*(other if part else 0 for part in changed))


def draw_look(head: Head, face: FaceMap, seed: int, person: Person, variant: Variant) -> Look:
    """A person's look."""
    shape, complexion = person.shape, person.complexion

    def draw(subject: str) -> np.random.Generator:
        return stream(seed, person.identity, getattr(variant, subject), subject)

    colour, name, grey = complexion.hair, complexion.hair_name, complexion.grey
    if variant.dye or draw("dye").random() < 0.03:
        (colour, name), grey = dye(draw("dye")), 0.0
    texture = person.skin.copy()
    makeup, lip = _make_up(draw("makeup"), face, person, texture)
    beard = paint_beard(draw("beard"), face, shape, colour, texture, person.fine)
    hair = draw_hair(draw("hair"), head, shape, colour, grey)
    texture = paint_scalp(texture, hair)
    rng = draw("frame")
    glasses, frame, scarf = (
        bool(rng.random() < 0.25 * min(1.0, 0.1 + 2 * shape.age)),
        _frame(rng),
        cloth_colour(rng),
    )
    return Look(texture, hair, colour, name, grey, beard, makeup, lip, glasses, frame, scarf)


def _make_up(
    rng: np.random.Generator, face: FaceMap, person: Person, texture: np.ndarray
) -> tuple[bool, np.ndarray]:
    """Perhaps make-up, painted on `texture`; -> whether there is any, and the lips."""
    if person.shape.male > 0.4 or person.shape.age < 0.4 or rng.random() > 0.45:
        return False, person.complexion.lip
    paint_makeup(rng, face, texture)
    return True, lipstick(rng)


def _frame(rng: np.random.Generator) -> Frame:
    return Frame(
        half_width=rng.uniform(0.19, 0.275),
        half_height=rng.uniform(0.11, 0.23),
        power=rng.choice([2.0, 2.4, 3.0, 4.0]),
        tube=rng.choice([0.01, 0.016, 0.024, 0.034]),
        colour=linear(rng.choice(FRAMES_SRGB)),
        drop=rng.uniform(-0.05, 0.02),
        taper=rng.uniform(-0.08, 0.22),
        lift=max(0.0, rng.normal(0, 0.03)),
    )
