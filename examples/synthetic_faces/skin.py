"""Painting the skin's texture: mottle, flush, blemishes, freckles, moles; make-up."""

import cv2
import numpy as np

from synthetic_faces.colours import linear
from synthetic_faces.complexion import Complexion
from synthetic_faces.head import Head
from synthetic_faces.shape import Shape
from synthetic_faces.texture import HEIGHT, WIDTH, noise, plain, smoothstep

FACE = np.s_[38:220, 90:390]  # the texels of the face and the throat
SHADOWS_SRGB = [[90, 60, 70], [60, 70, 110], [120, 80, 60], [60, 40, 50], [90, 110, 90]]


class FaceMap:
    """Places on the face's part of the texture: `x`, `y` of the rest mesh in decimetres, `side` = |x|,
    `angle` from the front in radians, all `[h, w]`."""

    def __init__(self, head: Head) -> None:
        self.x, self.y = head.texel_x[FACE], head.texel_y[FACE]
        self.side, self.angle = np.abs(self.x), np.abs(head.texel_angle[FACE])
        self._blobs: dict[tuple[float, ...], np.ndarray] = {}

    def blob(self, side: float, y: float, wide: float, tall: float) -> np.ndarray:
        """A soft spot on both sides of the face; kept, since all people have the same ones."""
        key = (side, y, wide, tall)
        if key not in self._blobs:
            spot = np.exp(-(((self.side - side) / wide) ** 2) - ((self.y - y) / tall) ** 2)
            self._blobs[key] = spot.astype(np.float32)
        return self._blobs[key]


def darken(skin: np.ndarray, amount: np.ndarray, colour: tuple[float, float, float]) -> None:
    """Take `amount` `[h, w]` of each `colour` away from `skin`, in place."""
    skin *= 1 - amount[..., None] * np.array(colour, np.float32)


def paint_skin(
    rng: np.random.Generator, face: FaceMap, shape: Shape, complexion: Complexion
) -> tuple[np.ndarray, np.ndarray]:
    """-> the texture `[H, W, 3]` of linear colours without brows and hair, and the fine noise `[h, w]` of
    its face."""
    whole = plain(complexion.skin)
    fine = noise(rng, 1.2)
    uneven = rng.uniform(0.6, 1.7) * (0.5 + 0.7 * shape.age)
    mottle = uneven * (0.035 * noise(rng, 10) + 0.025 * noise(rng, 3.5)) + 0.022 * fine
    whole *= np.exp(mottle)[..., None]
    skin, fine = whole[FACE], fine[FACE]
    _flush(rng, face, shape, complexion, skin)
    _blemishes(rng, face, shape, skin)
    _spots(rng, face, complexion, skin)
    return whole, fine


def _flush(
    rng: np.random.Generator, face: FaceMap, shape: Shape, complexion: Complexion, skin: np.ndarray
) -> None:
    """Red cheeks, nose and chin, bags and lids."""
    blob = face.blob
    flush = blob(0.45, 6.95, 0.22, 0.2) + 0.8 * blob(0, 6.88, 0.14, 0.12) + 0.4 * blob(0, 6.3, 0.2, 0.1)
    flush = flush * rng.uniform(0.1, 1.0) * (1 - 0.6 * complexion.tone)
    skin *= 1 + flush[..., None] * np.array([0.10, -0.13, -0.10], np.float32)
    bags = blob(0.30, 7.13, 0.14, 0.06) * rng.uniform(0, 0.25 + 0.2 * shape.age)
    lids = blob(0.31, 7.36, 0.16, 0.07) * rng.uniform(0.05, 0.25)
    sockets = blob(0.33, 7.265, 0.19, 0.1) * rng.uniform(0.12, 0.4 + 0.15 * complexion.tone)
    sockets = sockets + blob(0.36, 7.26, 0.15, 0.055) * rng.uniform(0.1, 0.35)
    corners = blob(0.275, 6.622, 0.045, 0.03) * rng.uniform(0.15, 0.5)
    mouth = blob(0.0, 6.6, 0.36, 0.2) * rng.uniform(0, 0.1 + 0.2 * complexion.tone)
    grown = 0.4 + 0.6 * smoothstep(0.05, 0.4, shape.age)  # a child's skin is even
    darken(skin, grown * (bags + lids + sockets + mouth + corners), (0.7, 0.95, 0.9))
    folds = np.exp(
        -(((face.side - 0.29 - 0.5 * (6.77 - face.y)) / 0.06) ** 2) - ((face.y - 6.77) / 0.13) ** 2
    )
    darken(skin, grown * folds * rng.uniform(0.05, 0.25), (0.7, 0.95, 0.9))
    wings = blob(0.13, 6.87, 0.045, 0.07) * rng.uniform(0, 0.2)
    darken(skin, wings, (0.3, 0.95, 0.9))


def paint_makeup(rng: np.random.Generator, face: FaceMap, texture: np.ndarray) -> None:
    """Eye shadow and rouge on `texture` `[H, W, 3]`, in place."""
    skin = texture[FACE]
    shadow = face.blob(0.33, 7.385, 0.15, 0.05)[..., None] * rng.uniform(0, 0.7)
    skin += shadow * (linear(rng.choice(SHADOWS_SRGB)).astype(np.float32) - skin)
    darken(skin, face.blob(0.5, 6.98, 0.16, 0.14) * rng.uniform(0, 0.4), (0.0, 0.7, 0.5))


def _blemishes(rng: np.random.Generator, face: FaceMap, shape: Shape, skin: np.ndarray) -> None:
    """Small red places, mostly of the young, and brown ones of the old."""
    often = 0.5 if 0.3 < shape.age < 0.55 else 0.2
    count = rng.poisson(9) if rng.random() < often else rng.poisson(1.5)
    old = smoothstep(0.6, 0.9, shape.age)
    for _ in range(min(count, 25)):
        x, y = rng.normal(0, 0.35), rng.choice([rng.uniform(6.25, 7.05), rng.uniform(7.5, 7.95)])
        radius, brown = rng.uniform(0.012, 0.03) * (1 + old * rng.random()), rng.random() < old
        rows = (face.y[:, 0] < y + 0.08) & (face.y[:, 0] > y - 0.08)
        near = ((face.x[rows] - x) ** 2 + (face.y[rows] - y) ** 2) / radius**2
        spot = np.exp(-near) * rng.uniform(0.15, 0.6) * (face.angle[rows] < 1.4)
        skin[rows] *= 1 - spot[..., None] * np.array(
            (0.5, 0.7, 0.8) if brown else (0.1, 0.5, 0.45), np.float32
        )


def _spots(rng: np.random.Generator, face: FaceMap, complexion: Complexion, skin: np.ndarray) -> None:
    """Freckles and moles."""
    x, y = face.x, face.y
    if rng.random() < 0.05 + 0.5 * max(0.0, 0.3 - complexion.tone):
        dots = noise(rng, 1.0, shape=y.shape) > 1.6
        dots = dots * smoothstep(0.9, 0.2, np.abs(y - 7.0)) * smoothstep(0.8, 0.3, face.side)
        dots = cv2.GaussianBlur(dots.astype(np.float32), (0, 0), 0.7)
        darken(skin, 0.5 * (1 - complexion.tone) * dots * rng.uniform(0.3, 0.9), (0.6, 0.9, 1))
    for _ in range(rng.poisson(1.2)):
        mole_x, mole_y, radius = rng.uniform(-0.6, 0.6), rng.uniform(6.3, 7.9), rng.uniform(0.01, 0.026)
        if abs(mole_y - 7.32) < 0.12 and 0.12 < abs(mole_x) < 0.5:
            continue  # texels of the lids stretch when they close
        spot = np.exp(-((((x - mole_x) ** 2 + (y - mole_y) ** 2) / radius**2) ** 2)) * (face.angle < 1.4)
        darken(skin, spot, (0.6, 0.72, 0.75))


def blank_texture() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), np.float32)
