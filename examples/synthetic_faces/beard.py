"""Beards: where they grow and how thick, painted on the skin and as the field of a shell."""

from dataclasses import dataclass

import numpy as np

from synthetic_faces.head import Head
from synthetic_faces.shape import Shape
from synthetic_faces.skin import FACE, FaceMap, blank_texture
from synthetic_faces.texture import smoothstep

KINDS = ("shaven", "stubble", "moustache", "goatee", "short beard", "full beard")
_DEPTH = {"full beard": 0.12, "short beard": 0.035, "goatee": 0.04}  # decimetres, of those with a shell


@dataclass
class Beard:
    """`kind`, "none" where none grows; `field` `[H, W]` of those that stand out from the skin, else None."""

    kind: str
    field: np.ndarray | None


def paint_beard(
    rng: np.random.Generator,
    face: FaceMap,
    shape: Shape,
    colour: np.ndarray,
    texture: np.ndarray,
    fine: np.ndarray,
) -> Beard:
    """Draw a beard and paint it on `texture`, in place; `colour` is the hair's."""
    area, moustache, goatee, off_lips = _areas(rng, face)
    kind = "none"
    if shape.male > 0.55 and shape.age > 0.42:
        kind = KINDS[rng.choice(6, p=[0.4, 0.2, 0.1, 0.09, 0.11, 0.1])]
    full = np.clip(np.maximum(area, moustache), 0, 1) * off_lips
    shadow, stubble = rng.uniform(0, 1), rng.uniform(0.25, 0.5)
    density = {
        "none": 0 * face.y,
        "shaven": full * 0.16 * shadow,
        "stubble": full * stubble,
        "moustache": moustache * off_lips * 0.85 + full * 0.1,
        "goatee": np.maximum(goatee, moustache) * off_lips * 0.85 + full * 0.12,
        "short beard": full * 0.85,
        "full beard": full,
    }[kind]
    skin = texture[FACE]
    hair = colour.astype(np.float32) * 0.7
    sparse = 0.5 - 0.35 * np.clip(density, 0, 1)
    grain = np.clip(1 + sparse * rng.standard_normal(face.y.shape, np.float32), 0.1, 2.0)
    cover = np.clip(density * grain, 0, 1)[..., None]
    skin += cover * (hair * (1 + 0.2 * fine[..., None]) - skin)
    if kind not in _DEPTH:
        return Beard(kind, None)
    field = blank_texture()
    field[FACE] = np.where(density > 0.5, density, 0)
    return Beard(kind, field)


def _areas(rng: np.random.Generator, face: FaceMap) -> tuple[np.ndarray, ...]:
    """-> where cheeks and chin, moustache and goatee can grow, and where the lips leave room."""
    side, y, degrees = face.side, face.y, np.degrees(face.angle)
    cheek = np.interp(degrees, [0, 14, 30, 55, 80, 95], [6.58, 6.72, 6.62, 6.66, 7.1, 7.3])
    cheek = cheek.astype(np.float32) + rng.normal(0, 0.04)
    throat = np.interp(degrees, [0, 60, 95, 110], [5.95, 6.1, 6.5, 7.4]).astype(np.float32)
    area = smoothstep(-0.05, 0.06, cheek - y) * smoothstep(-0.05, 0.1, y - throat) * (face.angle < 1.75)
    under_nose = np.sqrt((side / 0.31) ** 2 + ((y - 6.735 + 0.25 * side) / 0.085) ** 2)
    moustache = smoothstep(1.15, 0.8, under_nose)
    chin = np.sqrt((side / 0.34) ** 2 + ((y - 6.5) / 0.38) ** 2)
    goatee = smoothstep(1.1, 0.85, chin) * (y < 6.8)
    lips = np.sqrt((side / 0.27) ** 2 + ((y - 6.605) / 0.105) ** 2)
    return area, moustache, goatee, smoothstep(1.0, 1.15, lips)


def beard_shell(
    head: Head, beard: Beard, colour: np.ndarray, hair: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Thickness and cut `[H, W]` of the shell of a beard with a field; `hair` is the hair's texture."""
    y = head.texel_y
    lips = np.sqrt((head.texel_x / 0.27) ** 2 + ((y - 6.605) / 0.12) ** 2)
    thick = _DEPTH[beard.kind] * smoothstep(0.3, 1.0, beard.field)
    thick = thick * smoothstep(1.0, 2.2, lips) * smoothstep(7.0, 6.55, y)
    strands = hair[..., 0] / colour[0] - 1
    cut = np.where(beard.field > 0, beard.field - 0.6 + 0.25 * strands, -1)
    return thick.astype(np.float32) - 0.004, cut.astype(np.float32)
