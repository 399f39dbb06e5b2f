"""Hair: thickness, cut and texture of a shell on the scalp, and perhaps the long hair mesh or a bun."""

from dataclasses import dataclass

import cv2
import numpy as np

from synthetic_faces.head import Head
from synthetic_faces.shape import Shape
from synthetic_faces.texture import HEIGHT, WIDTH, noise, smoothstep

STYLES = ("bald", "buzz", "short", "medium", "curly", "afro", "bob", "long", "tied", "slick")
FRINGES = ("straight", "swept", "curtain", "wisps")
_LINE_AT = [0, 15, 34, 48, 58, 66, 73, 84, 100, 125, 180]  # degrees from the front
_OPEN_AT = [5.2, 6.2, 6.9, 7.4, 7.8, 8.05, 8.2]  # heights
_CURLY = ("curly", "afro")
_STRAYS = {"bald": 0, "buzz": 0, "short": 120, "slick": 60, "tied": 110, "curly": 240, "afro": 320}


@dataclass
class Hair:
    """`cut` `[H, W]` > 0 where hair grows and `thick` how far it stands out, in decimetres; `texture`
    `[H, W, 3]`; `long_cut` `[H, W]` the same for the mesh of long hair; `bun` its place or None; `strays`
    `[N, 6]` random numbers of single hairs."""

    style: str
    fringe: str
    covers_ears: bool
    cut: np.ndarray
    thick: np.ndarray
    texture: np.ndarray
    long_cut: np.ndarray | None
    bun: float | None
    strays: np.ndarray


def draw_hair(rng: np.random.Generator, head: Head, shape: Shape, colour: np.ndarray, grey: float) -> Hair:
    """Hair of a `colour` `[3]`."""
    style = STYLES[rng.choice(10, p=_odds(shape))]
    curly = style in _CURLY
    parting = float(rng.normal(0, 22))  # degrees
    covers = {"medium": 0.35, "curly": 0.4, "bob": 0.85, "long": 0.7}.get(style, 0.0)
    covers_ears = bool(rng.random() < covers)
    line, fringe = _hairline(rng, head, shape, style, parting, covers_ears)
    strands = noise(rng, 2.6) if curly else _combed(rng, head, parting)
    coarse = noise(rng, 6, 9)
    rough = 0.03 if curly else 0.05 if fringe == "wisps" else 0.035 if fringe != "none" else 0.02
    cut = (head.row_y - line + rough * strands + 0.025 * coarse).astype(np.float32)
    cut = _bare(rng, head, shape, style, fringe, cut, strands)
    thick = _thickness(rng, head, style, cut, parting)
    light = 1 - 0.5 * float(np.clip(colour.mean() * 2.5, 0, 1))  # light hair has less contrast
    tone = 1 + light * ((0.35 if curly else 0.3) * strands + 0.14 * coarse)
    if style not in ("bald", "buzz", *_CURLY) and rng.random() < 0.5:
        line_at = (np.degrees(head.column_angle) - parting) / 2.0
        tone = tone - 0.5 * np.exp(-(line_at**2)) * smoothstep(7.7, 8.0, head.row_y)
    if grey:
        tone = tone * (1 + 0.18 * grey * noise(rng, 0.8, 9.0))
    texture = colour.astype(np.float32) * np.clip(tone, 0.25, 2.0)[..., None]
    long_cut = _long_cut(rng, head, style, parting, strands) if style in ("bob", "long") else None
    tied_up = style == "tied" and rng.random() < 0.6
    bun = rng.uniform(0.3, 1.0) if tied_up else None
    texture = texture.astype(np.float32)
    strays = rng.random((_STRAYS.get(style, 170), 6))
    return Hair(style, fringe, covers_ears, cut, thick, texture, long_cut, bun, strays)


def paint_scalp(skin: np.ndarray, hair: Hair) -> np.ndarray:
    """The skin's texture with the hair's colour below its shell, so that the edge is soft."""
    under = smoothstep(-0.03, 0.12, hair.cut) * (0.85 if hair.style != "bald" else 0.6)
    return (skin + under[..., None] * (hair.texture * 0.8 - skin)).astype(np.float32)


def _odds(shape: Shape) -> np.ndarray:
    """How frequent each style is."""
    if shape.male > 0.5:
        bald = 0.08 if shape.age > 0.5 else 0.01
        odds = np.array([bald, 0.1, 0.38, 0.2, 0.09, 0.04, 0.01, 0.04, 0.02, 0.08])
    else:
        odds = np.array([0.005, 0.015, 0.08, 0.14, 0.11, 0.06, 0.2, 0.25, 0.12, 0.03])
    if shape.age < 0.12:  # babies have little
        little = np.array([0, 0.4, 0.35, 0.1, 0.1, 0, 0, 0, 0.02, 0.03])
        odds = odds + (1 - shape.age / 0.12) * (little - odds)
    odds[STYLES.index("afro")] *= 0.2 + 2.5 * shape.mix[0]
    return odds / odds.sum()


def _combed(rng: np.random.Generator, head: Head, parting: float) -> np.ndarray:
    """Strands that slope away from the parting."""
    straight = noise(rng, 0.9, 9.0)
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    slope = np.tanh((np.degrees(head.column_angle) - parting) / 25) * rng.uniform(0.2, 1.1)
    return cv2.remap(
        straight, (column - slope * (row - 60)) % WIDTH, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )


def _hairline(
    rng: np.random.Generator, head: Head, shape: Shape, style: str, parting: float, covers_ears: bool
) -> tuple[np.ndarray, str]:
    """Height above which hair grows, `[H, W]` or `[1, W]`, and the name of the fringe."""
    male, age = shape.male, shape.age
    angle = np.degrees(head.column_angle)
    degrees = np.abs(angle)
    front = rng.normal(7.93, 0.05)
    recede = max(0.0, rng.normal(0.02, 0.05) + 0.22 * male * max(0.0, age - 0.5) * 2 * rng.random())
    burn = rng.uniform(6.85, 7.2) if male > 0.5 else rng.uniform(7.0, 7.2)
    peak = rng.normal(0, 0.03)
    heights = [front - peak, front + 0.4 * recede, front + recede - 0.02]
    heights += [7.70 + 0.6 * recede, 7.38 + 0.2 * recede, 7.2]
    ends = [rng.uniform(6.3, 6.9)] * 4 if covers_ears else [burn, burn, 6.85, 6.55]
    line = np.interp(degrees, _LINE_AT, [*heights, *ends, min(6.4, ends[-1])])
    line = line + rng.normal(0, 0.05) * np.sin(head.column_angle) * (degrees < 60)
    may_have = style in ("medium", "bob", "long", "short", "curly")
    if not (may_have and rng.random() < (0.5 if male < 0.5 else 0.35)):
        return line, "none"
    fringe = FRINGES[rng.choice(4, p=[0.2, 0.35, 0.25, 0.2])]
    low = rng.uniform(7.5, 7.75)
    away = np.abs(angle - parting)
    drop = {
        "straight": low + 0.0 * angle,
        "swept": low + rng.choice([-1, 1]) * rng.uniform(0.004, 0.012) * angle,
        "curtain": 7.95 - rng.uniform(0.006, 0.014) * away,
        "wisps": low + 0.15 * noise(rng, 4, 40),
    }[fringe]
    waves = np.abs(np.sin(head.column_angle * rng.uniform(4, 12)))
    drop = np.maximum(drop + 0.06 * waves, 7.42) + 0.03 * np.clip(degrees - 40, 0, 20)
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
    y = head.row_y
    if style == "bald":
        edge = 7.35 + rng.uniform(-0.1, 0.3)
        cut = np.minimum(cut, (edge - y) + 0.02 * strands).astype(np.float32)
        cut = np.where(np.degrees(np.abs(head.column_angle)) < 60, np.float32(-1), cut)
    elif shape.male > 0.6 and shape.age > 0.62 and rng.random() < 0.3 and fringe == "none":
        cut = np.minimum(cut, (8.0 - y) + 0.03 * strands)
        front = np.float32(0.012) * (np.degrees(np.abs(head.column_angle)) - rng.uniform(45, 65))
        cut = np.minimum(cut, front + 0.05 * strands).astype(np.float32)
    return cut


def _thickness(
    rng: np.random.Generator, head: Head, style: str, cut: np.ndarray, parting: float
) -> np.ndarray:
    """Volume in decimetres: more on top or all round by style, and more on one side of the parting."""
    y = head.row_y
    low, high = {
        "bald": (0.01, 0.014),
        "buzz": (0.015, 0.03),
        "short": (0.07, 0.22),
        "medium": (0.14, 0.32),
        "curly": (0.18, 0.38),
        "afro": (0.35, 0.75),
        "bob": (0.14, 0.28),
        "long": (0.1, 0.24),
        "tied": (0.03, 0.07),
        "slick": (0.04, 0.1),
    }[style]
    volume = rng.uniform(low, high)
    bumps = noise(rng, 9 if style in _CURLY else 14)
    side = 1.0 if style in ("afro", "curly", "bob", "long") else rng.uniform(0.2, 0.7)
    shape = side + (1 - side) * smoothstep(7.5, 8.1, y)
    quiff = rng.uniform(0, 1.1) if style in ("short", "medium", "slick") else 0.0
    shape = shape + quiff * np.exp(-((head.column_angle / 0.7) ** 2)) * smoothstep(7.8, 8.2, y)
    lopsided = 1 + rng.uniform(0, 0.35) * np.sin(head.column_angle - np.radians(parting))
    uneven = np.clip(1 + 0.22 * bumps, 0.4, 1.7)
    thick = volume * shape * lopsided * smoothstep(-0.02, 0.22, cut) * uneven
    return (0.012 + thick).astype(np.float32)


def _long_cut(
    rng: np.random.Generator, head: Head, style: str, parting: float, strands: np.ndarray
) -> np.ndarray:
    """Where the mesh of long hair is: open before the face, parted, down to an end."""
    y = head.row_y
    end = rng.uniform(6.1, 6.6) if style == "bob" else rng.uniform(3.0, 5.6)
    opening = np.interp(y, _OPEN_AT, [62, 62, 60, 56, 44, 24, 0]) + rng.uniform(-16, 4)
    aside = np.abs(np.degrees(head.column_angle) - np.clip(parting, -14, 14))
    inner = aside - opening + 1.5 * noise(rng, 1, 10) + 4 * noise(rng, 5, 30)
    return np.minimum(inner, (y - end) * 60 + 6 * strands).astype(np.float32)
