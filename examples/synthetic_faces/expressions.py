"""Expressions: intensities of 52 units, prototypes of seven classes, the map to action units, gaze."""

from dataclasses import dataclass

import numpy as np

CLASSES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")
PROTOTYPES = {
    "happy": {
        "mouthSmile": 0.95,
        "cheekSquint": 0.7,
        "eyeSquint": 0.3,
        "mouthUpperUp": 0.25,
        "mouthDimple": 0.2,
    },
    "sad": {
        "browInnerUp": 0.95,
        "mouthFrown": 0.95,
        "mouthShrugLower": 0.5,
        "eyeSquint": 0.25,
        "browDown": 0.15,
        "mouthPress": 0.2,
    },
    "surprise": {"browInnerUp": 1.0, "browOuterUp": 1.0, "eyeWide": 0.9, "jawOpen": 0.55, "mouthFunnel": 0.2},
    "fear": {
        "browInnerUp": 0.95,
        "browOuterUp": 0.4,
        "browDown": 0.35,
        "eyeWide": 1.0,
        "mouthStretch": 0.9,
        "jawOpen": 0.28,
        "mouthLowerDown": 0.3,
    },
    "disgust": {
        "noseSneer": 1.0,
        "mouthUpperUp": 0.75,
        "browDown": 0.6,
        "eyeSquint": 0.5,
        "cheekSquint": 0.4,
        "mouthFrown": 0.35,
        "mouthLowerDown": 0.2,
    },
    "anger": {
        "browDown": 1.0,
        "eyeSquint": 0.15,
        "eyeWide": 0.35,
        "noseSneer": 0.45,
        "mouthPress": 0.8,
        "mouthFrown": 0.3,
        "jawForward": 0.3,
    },
}
ACTION_UNITS = {
    "AU1": ("browInnerUp",),
    "AU2": ("browOuterUp",),
    "AU4": ("browDown",),
    "AU5": ("eyeWide",),
    "AU6": ("cheekSquint",),
    "AU7": ("eyeSquint",),
    "AU9": ("noseSneer",),
    "AU10": ("mouthUpperUp",),
    "AU12": ("mouthSmile",),
    "AU14": ("mouthDimple",),
    "AU15": ("mouthFrown",),
    "AU16": ("mouthLowerDown",),
    "AU17": ("mouthShrugLower",),
    "AU18": ("mouthPucker",),
    "AU20": ("mouthStretch",),
    "AU22": ("mouthFunnel",),
    "AU24": ("mouthPress",),
    "AU26": ("jawOpen",),
    "AU28": ("mouthRollLower", "mouthRollUpper"),
    "AU29": ("jawForward",),
    "AU34": ("cheekPuff",),
    "AU45": ("eyeBlink",),
}
PAIRED = (
    "browDown",
    "browOuterUp",
    "cheekSquint",
    "eyeBlink",
    "eyeSquint",
    "eyeWide",
    "mouthDimple",
    "mouthFrown",
    "mouthLowerDown",
    "mouthPress",
    "mouthSmile",
    "mouthStretch",
    "mouthUpperUp",
    "noseSneer",
)
_GAINS = {
    "browInnerUp": 1.5,
    "browOuterUp": 1.5,
    "browDown": 1.2,
    "eyeWide": 1.4,
    "mouthSmile": 1.2,
    "mouthFrown": 1.4,
    "noseSneer": 1.25,
    "mouthStretch": 1.3,
}
_MIXED = [
    "browInnerUp",
    "browOuterUp",
    "browDown",
    "eyeWide",
    "eyeSquint",
    "cheekSquint",
    "noseSneer",
    "mouthUpperUp",
    "mouthSmile",
    "mouthDimple",
    "mouthFrown",
    "mouthLowerDown",
    "mouthShrugLower",
    "mouthPucker",
    "mouthStretch",
    "mouthFunnel",
    "mouthPress",
    "jawOpen",
    "mouthRollLower",
    "mouthRollUpper",
    "jawForward",
    "cheekPuff",
    "mouthLeft",
    "mouthRight",
    "jawLeft",
    "jawRight",
]
_SPOKEN = [
    "jawOpen",
    "mouthFunnel",
    "mouthPucker",
    "mouthStretch",
    "mouthLowerDown",
    "mouthUpperUp",
    "mouthRollLower",
    "mouthSmile",
    "browInnerUp",
]
_GAZE_UNITS = (
    ("eyeLookOutLeft", 0, 1),
    ("eyeLookInRight", 0, 1),
    ("eyeLookInLeft", 0, -1),
    ("eyeLookOutRight", 0, -1),
    ("eyeLookUpLeft", 1, 1),
    ("eyeLookUpRight", 1, 1),
    ("eyeLookDownLeft", 1, -1),
    ("eyeLookDownRight", 1, -1),
)


@dataclass
class Expression:
    """`label` one of CLASSES or None; `units` by blendshape name, 0..1, missing = 0; `gaze` yaw and pitch in
    degrees relative to the head."""

    label: str | None
    units: dict[str, float]
    gaze: np.ndarray

    def with_gaze_units(self) -> dict[str, float]:
        """The units and those of the lids that follow the gaze."""
        units = dict(self.units)
        for name, axis, sign in _GAZE_UNITS:
            value = sign * self.gaze[axis] / 30
            if value > 0.01:
                units[name] = float(min(1, value))
        return units


class _Units(dict[str, float]):
    """Units under construction; a pair gets a little asymmetry."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def raise_to(self, name: str, value: float, skew: float = 0.12) -> None:
        value = float(np.clip(value, 0, 1))
        if name not in PAIRED:
            self[name] = max(self.get(name, 0), value)
            return
        lean = self._rng.normal(0, skew)
        for side, share in (("Left", 1 + lean), ("Right", 1 - lean)):
            self[name + side] = float(np.clip(max(self.get(name + side, 0), value * share), 0, 1))


def gain(unit: str) -> float:
    """The blendshape's weight at intensity 1."""
    return _GAINS.get(unit.removesuffix("Left").removesuffix("Right"), 1.0)


def draw_expression(rng: np.random.Generator, label: str | None = None) -> Expression:
    """A prototype (of the class `label` if given), two at once, some units at random, speech, or a blink."""
    units = _Units(rng)
    mode = rng.choice(["prototype", "blend", "mix", "talk", "blink"], p=[0.42, 0.1, 0.25, 0.17, 0.06])
    if label is not None:
        _prototype(rng, units, label, (0.85, 1.0))
    elif mode == "prototype":
        label = CLASSES[rng.choice(7, p=[0.23, 0.32, 0.1, 0.1, 0.075, 0.085, 0.09])]
        _prototype(rng, units, label, (0.4, 1.0))
    elif mode == "blend":
        for part in rng.choice(CLASSES[1:], 2, replace=False):
            _prototype(rng, units, str(part), (0.25, 0.7))
    else:
        _mixture(rng, units, mode)
    gaze = np.clip(rng.normal(0, [9, 6]), [-25, -18], [25, 18])
    if label == "sad":
        gaze[1] -= 6
    return Expression(label, dict(units), gaze)


def _prototype(rng: np.random.Generator, units: _Units, label: str, strengths: tuple[float, float]) -> None:
    if label == "neutral":
        return
    strength = rng.uniform(*strengths)
    for name, value in PROTOTYPES[label].items():
        units.raise_to(name, value * strength * rng.uniform(0.8, 1.15))
    if label == "happy" and rng.random() < 0.75:  # most smiles in photographs show teeth
        units.raise_to("jawOpen", rng.uniform(0.04, 0.5) * rng.uniform(0.3, 1))
        units.raise_to("mouthUpperUp", rng.uniform(0.3, 0.8))
        units.raise_to("mouthLowerDown", rng.uniform(0, 0.4))
    if label in ("anger", "fear", "surprise") and rng.random() < 0.3:  # shouts and screams
        units.raise_to("jawOpen", strength * rng.uniform(0.3, 0.95))
    if label == "anger" and "jawOpen" in units:
        units.raise_to("mouthLowerDown", 0.6)
        units.raise_to("mouthUpperUp", 0.5)


def _mixture(rng: np.random.Generator, units: _Units, mode: str) -> None:
    if mode == "talk":
        units.raise_to("jawOpen", rng.uniform(0.05, 0.5))
        units.raise_to("mouthUpperUp", rng.uniform(0, 0.4))
        if rng.random() < 0.35:  # many smile while they speak
            smile = rng.uniform(0.2, 0.9)
            units.raise_to("mouthSmile", smile)
            units.raise_to("cheekSquint", smile * rng.uniform(0.2, 0.9))
    for name in rng.choice(_SPOKEN if mode == "talk" else _MIXED, rng.integers(1, 5), replace=False):
        value = rng.uniform(0.25, 1.0)
        units.raise_to(str(name), value, 0.45 if rng.random() < 0.25 else 0.12)
    if mode == "blink":
        value = rng.uniform(0.5, 1.0)
        units.raise_to("eyeBlink", value, 0.5 if rng.random() < 0.15 else 0.03)


def action_units(units: dict[str, float]) -> dict[str, float]:
    """FACS intensities 0..1 by our reading of the names, a pair's mean; missing = 0."""

    def intensity(name: str) -> float:
        if name in PAIRED:
            return float(np.mean([units.get(name + side, 0) for side in ("Left", "Right")]))
        return units.get(name, 0)

    found = {au: round(float(max(map(intensity, names))), 3) for au, names in ACTION_UNITS.items()}
    return {au: value for au, value in found.items() if value}
