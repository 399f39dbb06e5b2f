"""Hair: thickness, cut and texture of a shell on the scalp, and perhaps the long hair mesh or a bun."""

from dataclasses import dataclass

import numpy as np

from synthetic_faces.complexion import Complexion
from synthetic_faces.head import Head
from synthetic_faces.shape import Shape
from synthetic_faces.texture import noise, smoothstep

STYLES = ("bald", "buzz", "short", "medium", "curly", "afro", "bob", "long", "tied", "slick")
_LINE_AT = [0, 15, 34, 48, 58, 66, 73, 84, 100, 125, 180]  # degrees from the front
_OPEN_AT = [5.2, 6.2, 6.9, 7.4, 7.8, 8.05, 8.2]  # heights


@dataclass
class Hair:
    """`cut` `[H, W]` > 0 where hair grows and `thick` how far it stands out, in decimetres; `texture`
    `[H, W, 3]`; `long_cut` `[H, W]` the same for the mesh of long hair; `bun` its place or None."""

    style: str
    fringe: str
    cut: np.ndarray
    thick: np.ndarray
    texture: np.ndarray
    long_cut: np.ndarray | None
    bun: float | None


def draw_hair(rng: np.random.Generator, head: Head, shape: Shape, complexion: Complexion) -> Hair:
    """A person's hair."""
    style = STYLES[rng.choice(10, p=_odds(shape))]
    line, fringe = _hairline(rng, head, shape, style)
    curly = style in ("curly", "afro")
    strands = noise(rng, 2.6) if curly else noise(rng, 0.9, 9.0)
    coarse = noise(rng, 6, 9)
    rough = 0.028 if curly else 0.035 if fringe != "none" else 0.022
    cut = (head.texel_y - line + rough * strands + 0.02 * coarse).astype(np.float32)
    cut = _bare(rng, head, shape, style, fringe, cut, strands)
    thick = _thickness(rng, head, style, cut, curly)
    tone = 1 + (0.35 if curly else 0.28) * strands + 0.1 * coarse
    if complexion.grey:
        tone = tone * (1 + 0.25 * complexion.grey * noise(rng, 0.8, 9.0))
    texture = complexion.hair.astype(np.float32) * np.clip(tone, 0.25, 2.0)[..., None]
    long_cut = _long_cut(rng, head, style, strands) if style in ("bob", "long") else None
    tied_up = style == "tied" and rng.random() < 0.6
    place = rng.uniform(0.3, 1.0)
    return Hair(style, fringe, cut, thick, texture.astype(np.float32), long_cut, place if tied_up else None)


def paint_scalp(skin: np.ndarray, hair: Hair) -> np.ndarray:
    """The skin's texture with the hair's colour below its shell, so that the edge is soft."""
    under = smoothstep(-0.03, 0.12, hair.cut) * (0.85 if hair.style != "bald" else 0.6)
    return (skin + under[..., None] * (hair.texture * 0.8 - skin)).astype(np.float32)


def _odds(shape: Shape) -> np.ndarray:
    """How frequent each style is."""
    if shape.male > 0.5:
        bald = 0.10 if shape.age > 0.5 else 0.03
        odds = np.array([bald, 0.2, 0.36, 0.12, 0.08, 0.05, 0.01, 0.03, 0.02, 0.06])
    else:
        odds = np.array([0.01, 0.02, 0.08, 0.12, 0.1, 0.07, 0.18, 0.26, 0.14, 0.03])
    odds[STYLES.index("afro")] *= 0.2 + 2.5 * shape.mix[0]
    return odds / odds.sum()


def _hairline(rng: np.random.Generator, head: Head, shape: Shape, style: str) -> tuple[np.ndarray, str]:
    """Height `[H, W]` above which hair grows, and the name of the fringe."""
    male, age = shape.male, shape.age
    degrees = np.degrees(np.abs(head.texel_angle))
    front = rng.normal(7.95, 0.05)
    recede = max(0.0, rng.normal(0.02, 0.05) + 0.22 * male * max(0.0, age - 0.5) * 2 * rng.random())
    burn = rng.uniform(6.85, 7.2) if male > 0.5 else rng.uniform(7.0, 7.2)
    heights = [front, front + 0.4 * recede, front + recede - 0.02, 7.70 + 0.6 * recede, 7.38 + 0.2 * recede]
    line = np.interp(degrees, _LINE_AT, [*heights, 7.2, burn, burn, 6.85, 6.55, 6.4])
    may_have = style in ("medium", "bob", "long", "short", "curly")
    if not (may_have and rng.random() < (0.4 if male < 0.5 else 0.3)):
        return line, "none"
    fringe = ("straight", "swept")[rng.integers(2)]
    low, side = rng.uniform(7.5, 7.72), rng.choice([-1, 1])
    slope = 0.0 if fringe == "straight" else side * rng.uniform(0.006, 0.012)
    waves = np.abs(np.sin(head.texel_angle * rng.uniform(5, 12)))
    drop = np.maximum(low + slope * np.degrees(head.texel_angle) + 0.05 * waves, 7.42)
    drop = drop + 0.03 * np.clip(degrees - 40, 0, 20)
    return np.where(degrees < 52, np.minimum(line, drop), line), fringe


def _bare(
    rng: np.random.Generator,
    head: Head,
    shape: Shape,
    style: str,
    fringe: str,
    cut: np.ndarray,
    strands: np.ndarray,
) -> np.ndarray:
    """The cut of a bald head, or of one with a bare crown."""
    y = head.texel_y
    if style == "bald":
        edge = 7.35 + rng.uniform(-0.1, 0.3)
        cut = np.minimum(cut, (edge - y) + 0.02 * strands).astype(np.float32)
        cut[np.degrees(np.abs(head.texel_angle)) < 60] = -1
    elif shape.male > 0.6 and shape.age > 0.62 and rng.random() < 0.3 and fringe == "none":
        cut = np.minimum(cut, (8.0 - y) + 0.03 * strands).astype(np.float32)
    return cut


def _thickness(rng: np.random.Generator, head: Head, style: str, cut: np.ndarray, curly: bool) -> np.ndarray:
    y = head.texel_y
    volume = {
        "bald": 0.012,
        "buzz": 0.02,
        "short": rng.uniform(0.05, 0.14),
        "medium": rng.uniform(0.12, 0.24),
        "curly": rng.uniform(0.16, 0.32),
        "afro": rng.uniform(0.35, 0.75),
        "bob": rng.uniform(0.1, 0.2),
        "long": rng.uniform(0.08, 0.18),
        "tied": 0.04,
        "slick": rng.uniform(0.04, 0.1),
    }[style]
    bumps = noise(rng, 9 if curly else 14)
    side = 1.0 if style in ("afro", "curly", "bob", "long") else rng.uniform(0.2, 0.6)
    shape = side + (1 - side) * smoothstep(7.5, 8.1, y)
    quiff = rng.uniform(0, 0.9) if style in ("short", "medium", "slick") else 0.0
    shape = shape + quiff * np.exp(-((head.texel_angle / 0.7) ** 2)) * smoothstep(7.8, 8.2, y)
    thick = volume * shape * smoothstep(-0.02, 0.28, cut) * np.clip(1 + 0.18 * bumps, 0.4, 1.6)
    return (0.012 + thick).astype(np.float32)


def _long_cut(rng: np.random.Generator, head: Head, style: str, strands: np.ndarray) -> np.ndarray:
    """Where the mesh of long hair is: open before the face, parted, down to an end."""
    y = head.texel_y
    end = rng.uniform(6.2, 6.6) if style == "bob" else rng.uniform(3.0, 5.6)
    parting = rng.uniform(-14, 14)
    opening = np.interp(y, _OPEN_AT, [62, 62, 60, 56, 44, 24, 0]) + rng.uniform(-16, 4)
    aside = np.abs(np.degrees(head.texel_angle) - parting)
    inner = aside - opening + 2.5 * noise(rng, 1, 10)
    return np.minimum(inner, (y - end) * 60 + 6 * strands).astype(np.float32)
