"""What somebody wears in one picture."""

from dataclasses import dataclass

import numpy as np

from synthetic_faces.colours import cloth_colour
from synthetic_faces.look import Look
from synthetic_faces.person import Person

PROPS = {  # what hides part of the face, and its share
    "chin in hand": 0.11,
    "hand at cheek": 0.1,
    "hands at cheeks": 0.07,
    "hand before mouth": 0.13,
    "hand over eye": 0.08,
    "strands": 0.15,
    "scarf": 0.1,
    "phone": 0.07,
    "cup": 0.07,
    "microphone": 0.12,
}

CLOTHES = {"plain": 0.4, "stripes": 0.1, "checks": 0.08, "print": 0.12, "jacket": 0.3}  # and their shares


@dataclass
class Wear:
    """`hat` none, beanie, cap, headband or headscarf; `glasses` none, clear or sun; colours `[3]`;
    `prop` what hides part of the face;
    `clothes` one of CLOTHES; `hat_low` moves the hat's edge up, `collar` is the shirt's height, `collar_v`
    its depth at the throat."""

    hat: str
    glasses: str
    mask: bool
    colour: np.ndarray
    second: np.ndarray
    hat_low: float
    clothes: str
    collar: float
    collar_v: float
    turtleneck: bool
    cloth: np.ndarray
    lens: float
    shine: float
    rib: float
    badge: bool
    prop: str


def draw_wear(rng: np.random.Generator, person: Person, look: Look) -> Wear:
    """Hat, glasses, mask and clothes; glasses and headscarf by the person's habit."""
    hat = "none"
    if rng.random() < 0.12:
        hat = str(rng.choice(["beanie", "cap", "headband"], p=[0.45, 0.4, 0.15]))
    if person.wears_headscarf:
        hat = "headscarf"
    glasses = "none"
    if rng.random() < (0.85 if look.wears_glasses else 0.02):
        glasses = "clear"
    if rng.random() < (0.04 if person.shape.age > 0.15 else 0.01):
        glasses = "sun"
    clothes = str(rng.choice(list(CLOTHES), p=list(CLOTHES.values())))
    return Wear(
        hat=hat,
        glasses=glasses,
        mask=bool(rng.random() < 0.03),
        colour=cloth_colour(rng),
        second=cloth_colour(rng),
        hat_low=rng.uniform(-0.08, 0.1),
        clothes=clothes,
        collar=rng.uniform(5.55, 6.0) if clothes != "jacket" else rng.uniform(5.9, 6.08),
        collar_v=rng.uniform(0, 0.5) * (rng.random() < (0.5 if clothes != "jacket" else 0.2)),
        turtleneck=bool(rng.random() < 0.08),
        cloth=cloth_colour(rng),
        lens=rng.uniform(0.03, 0.12),
        shine=rng.uniform(0, 0.12),
        rib=rng.uniform(20, 60),
        badge=bool(rng.random() < 0.5),
        prop=str(rng.choice(list(PROPS), p=list(PROPS.values()))) if rng.random() < 0.14 else "none",
    )
