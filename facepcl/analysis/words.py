"""Attributes of a face in words; the names of action units are those of the Facial Action Coding System
(Ekman, Friesen, and Hager 2002)."""

from facepcl.embedding.embeddings import EXPRESSION
from facepcl.images.face import ANGLES

UNIT_NAMES = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "AU14": "dimpler",
    "AU15": "lip corner depressor",
    "AU16": "lower lip depressor",
    "AU17": "chin raiser",
    "AU18": "lip pucker",
    "AU20": "lip stretcher",
    "AU22": "lip funneler",
    "AU24": "lip pressor",
    "AU26": "jaw drop",
    "AU28": "lip suck",
    "AU29": "jaw thrust",
    "AU34": "cheek puff",
    "AU45": "blink",
}


def strongest(attributes: dict[str, float], count: int = 3, least: float = 0.15) -> list[tuple[str, float]]:
    """The `count` action units of a face with the highest intensity, from `least` on."""
    units = [(name, value) for name, value in attributes.items() if name.startswith("AU") and value >= least]
    return sorted(units, key=lambda unit: -unit[1])[:count]


def expressions_of(attributes: dict[str, float]) -> dict[str, float]:
    """The probability of each expression."""
    return {n.removeprefix(EXPRESSION): v for n, v in attributes.items() if n.startswith(EXPRESSION)}


def describe_expression(attributes: dict[str, float]) -> str:
    """The most likely expression and its probability."""
    likely = max(((value, name) for name, value in expressions_of(attributes).items()), default=None)
    return f"{likely[1]} {100 * likely[0]:.0f} %" if likely else ""


def pose_text(attributes: dict[str, float]) -> str:
    """Yaw, pitch and roll in whole degrees."""
    return "  ".join(f"{angle} {round(attributes[angle]):+d}°" for angle in ANGLES if angle in attributes)
