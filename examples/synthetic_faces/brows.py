"""Brows: single hairs, drawn finely and averaged onto the texels of the skin."""

from dataclasses import dataclass

import cv2
import numpy as np

from synthetic_faces.shape import Shape
from synthetic_faces.skin import FaceMap
from synthetic_faces.texture import smoothstep

_FINE = 5  # drawn pixels across and down each texel
_ROWS = np.s_[36:68]  # of the face's texels
_SHIFT = 4  # binary digits of cv2's fractions of pixels
_LIDS = 7.395  # decimetres: texels below stretch when the lids close
_TONES = (100, 125, 150, 175, 200, 225)  # of hairs, the densest on top


@dataclass
class _Style:
    """Decimetres: `inner` and `outer` ends, `lift`, `arch`, `thick`; `dense` 0..1; `peak` where the arch is
    along the brow; `strays` share of hairs that stand off; `steep` how far the hairs rise."""

    inner: float
    outer: float
    lift: float
    arch: float
    peak: float
    thick: float
    dense: float
    strays: float
    steep: float


def brow_cover(rng: np.random.Generator, face: FaceMap, shape: Shape) -> np.ndarray:
    """How much of the brows' colour covers each texel `[h, w]`."""
    style = _draw_style(rng, shape)
    cover = np.zeros(face.y.shape, np.float32)
    middle = face.y.shape[1] // 2
    rows, across = face.y[_ROWS, 0], face.x[(_ROWS.start + _ROWS.stop) // 2]
    for columns in (np.s_[middle : middle + 56], np.s_[middle - 56 : middle]):
        side = np.abs(across[columns])
        hairs = _hairs(rng, style)
        place = np.stack([_index(side, hairs[..., 0]), _index(rows, hairs[..., 1])], -1)
        cover[_ROWS, columns] = _draw(place, (len(rows), 56), style)
    return cover


def _draw_style(rng: np.random.Generator, shape: Shape) -> _Style:
    """Males have thicker, lower and flatter brows; with age some thin out and others grow bushy."""
    male, old = shape.male, float(smoothstep(0.6, 0.95, shape.age))
    thick = rng.uniform(0.02, 0.042) * (0.8 + 0.5 * male)
    dense = rng.uniform(0.3, 0.95) * (0.85 + 0.15 * male) * (1 - 0.3 * old * rng.random())
    if shape.age < 0.35:
        dense *= rng.uniform(0.45, 0.9)
    return _Style(
        inner=rng.uniform(0.1, 0.17),
        outer=rng.uniform(0.47, 0.56),
        lift=rng.normal(0, 0.02) - 0.012 * male,
        arch=rng.uniform(0.02, 0.1) * (1.2 - 0.6 * male),
        peak=rng.uniform(0.5, 0.75),
        thick=thick,
        dense=dense,
        strays=rng.uniform(0.02, 0.1) + 0.12 * male * rng.random(),
        steep=rng.uniform(0.6, 1.3),
    )


def _hairs(rng: np.random.Generator, style: _Style) -> np.ndarray:
    """Roots, middles and tips `[N, 3, 2]` as distances to the side and heights of the rest mesh."""
    count = int(330 * style.dense)
    along = rng.beta(1.05, 1.15, count)
    across = np.clip(rng.normal(0, 0.48, count), -1.1, 1.1)
    stray = rng.random(count) < style.strays
    across = np.where(stray, across * rng.uniform(1.3, 2.2, count), across)
    half = style.thick * np.sqrt(np.clip(1.04 - along**1.8, 0.04, 1)) * smoothstep(-0.25, 0.12, along)
    x = style.inner + along * (style.outer - style.inner)
    rise = np.where(
        along < style.peak, along / style.peak, 1 - 0.75 * ((along - style.peak) / (1 - style.peak))
    )
    y = (
        7.428
        + style.lift
        + style.arch * np.sin(np.clip(rise, 0, 1) * np.pi / 2)
        - 0.012 * along
        + across * half
    )
    # hairs stand up at the inner end, lie along the brow further out, and meet in its middle line
    angle = style.steep * (1.25 - 1.7 * along) - 0.45 * across + rng.normal(0, 0.18, count)
    length = rng.uniform(0.045, 0.085, count) * (0.8 + 0.4 * style.thick / 0.04)
    step = np.stack([np.cos(angle), np.sin(angle)], 1) * length[:, None]
    bend = np.stack([np.cos(angle - 0.35), np.sin(angle - 0.35)], 1) * length[:, None]
    root = np.stack([x, y], 1)
    hairs = np.stack([root, root + step / 2, root + (step + bend) / 2], 1)
    return hairs[y > _LIDS]


def _index(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where `wanted` lies among monotonic `values`, as fractions of their index."""
    numbers = np.arange(len(values), dtype=float)
    order = slice(None) if values[-1] > values[0] else slice(None, None, -1)
    return np.interp(wanted, values[order], numbers[order])


def _draw(place: np.ndarray, shape: tuple[int, int], style: _Style) -> np.ndarray:
    """Hairs at texels `place` `[N, 3, 2]` (column, row) as cover `[h, w]`."""
    fine = np.zeros((shape[0] * _FINE, shape[1] * _FINE), np.uint8)
    lines = np.round(((place + 0.5) * _FINE) * (1 << _SHIFT)).astype(np.int32)
    for part, tone in zip(np.array_split(lines, 6), _TONES, strict=True):
        cv2.polylines(fine, list(part), False, tone, 2, cv2.LINE_AA, _SHIFT)
    small = cv2.resize(fine, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    soft = cv2.GaussianBlur(small, (0, 0), 1.8)  # the finest hairs, not drawn
    return np.clip(0.9 * small + 0.3 * style.dense * soft, 0, 0.85)
