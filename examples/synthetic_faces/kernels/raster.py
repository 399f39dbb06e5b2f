"""Loops over the pixels of triangles: depth maps, the visible triangle of each pixel, lenses."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from synthetic_faces.kernels.scalars import strand


class Hits(NamedTuple):
    """What each pixel `[H, W]` shows: 1 / depth (0 = nothing), triangle (-1 = none), and the weights of its
    second and third corner."""

    nearness: np.ndarray
    triangle: np.ndarray
    second: np.ndarray
    third: np.ndarray


def no_hits(pixels: int) -> Hits:
    """A square picture without anything in it."""
    shape = (pixels, pixels)
    return Hits(np.zeros(shape), np.full(shape, -1, np.int64), np.zeros(shape), np.zeros(shape))


@njit(cache=True)
def _span(a: float, b: float, c: float, count: int) -> tuple[int, int]:
    """The first and the last of `count` pixels between the corners of a triangle, along one axis."""
    return max(0, math.ceil(min(a, b, c))), min(count - 1, math.floor(max(a, b, c)))


@njit(cache=True)
def unwrap(a: float, b: float, c: float) -> tuple[float, float, float]:
    """The angles of a triangle's corners, in turns, when the triangle spans the seam of the cylinder."""
    if max(a, b, c) - min(a, b, c) > 0.5:
        if a < 0.5:
            a += 1.0
        if b < 0.5:
            b += 1.0
        if c < 0.5:
            c += 1.0
    return a, b, c


@njit(cache=True)
def depth_map(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, triangles: np.ndarray, skip: np.ndarray, out: np.ndarray
) -> None:
    """The largest z over each texel of `out` `[H, W]`, of the triangles that are not skipped."""
    height, width = out.shape
    for t in range(triangles.shape[0]):
        if skip[t]:
            continue
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by, cx, cy = x[a], y[a], x[b], y[b], x[c], y[c]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        left, right = _span(ax, bx, cx, width)
        top, low = _span(ay, by, cy, height)
        for j in range(top, low + 1):
            for i in range(left, right + 1):
                second = ((i - ax) * (cy - ay) - (j - ay) * (cx - ax)) / area
                third = ((bx - ax) * (j - ay) - (by - ay) * (i - ax)) / area
                if second < 0 or third < 0 or second + third > 1:
                    continue
                depth = z[a] + second * (z[b] - z[a]) + third * (z[c] - z[a])
                if depth > out[j, i]:
                    out[j, i] = depth


@njit(cache=True)
def _is_hole(cut: np.ndarray, fray: float, u: float, v: float) -> bool:
    """Whether a texture's `cut` `[h, w]` is open here; its edge has strands where it is frayed."""
    rows, columns = cut.shape
    row = min(rows - 1.001, max(0.0, v * rows - 0.5))
    column = u * columns - 0.5
    j, i = int(row), math.floor(column)
    dv, du = row - j, column - i
    left, right = int(i) % columns, (int(i) + 1) % columns
    upper = cut[j, left] * (1 - du) + cut[j, right] * du
    lower = cut[j + 1, left] * (1 - du) + cut[j + 1, right] * du
    value = upper + dv * (lower - upper)
    if fray > 0 and abs(value) < fray:
        value += fray * strand(row, column)
    return value < 0


@njit(cache=True)
def rasterise(
    x: np.ndarray,
    y: np.ndarray,
    nearness: np.ndarray,
    triangles: np.ndarray,
    layer: np.ndarray,
    one_sided: np.ndarray,
    uv: np.ndarray,
    cut: np.ndarray,
    fray: np.ndarray,
    hits: Hits,
) -> None:
    """The nearest triangle of each pixel, into `hits`.

    `layer` `[T]` names the texture of `cut` `[L, h, w]` whose negative texels are holes, -1 = no holes;
    `fray` `[L]` is how far, in units of `cut`, strands roughen the holes' edges; `one_sided` `[T]` triangles
    are seen from the front only.
    """
    height, width = hits.nearness.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by, cx, cy = x[a], y[a], x[b], y[b], x[c], y[c]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9 or (one_sided[t] and area > 0):
            continue
        left, right = _span(ax, bx, cx, width)
        top, low = _span(ay, by, cy, height)
        ua, ub, uc = unwrap(uv[a, 0], uv[b, 0], uv[c, 0])
        for j in range(top, low + 1):
            for i in range(left, right + 1):
                second = ((i - ax) * (cy - ay) - (j - ay) * (cx - ax)) / area
                third = ((bx - ax) * (j - ay) - (by - ay) * (i - ax)) / area
                if second < 0 or third < 0 or second + third > 1:
                    continue
                first = 1 - second - third
                near = first * nearness[a] + second * nearness[b] + third * nearness[c]
                if near <= hits.nearness[j, i]:
                    continue
                if layer[t] >= 0:
                    u = first * ua + second * ub + third * uc
                    v = first * uv[a, 1] + second * uv[b, 1] + third * uv[c, 1]
                    if _is_hole(cut[layer[t]], fray[layer[t]], u, v):
                        continue
                hits.nearness[j, i] = near
                hits.triangle[j, i] = t
                hits.second[j, i] = second
                hits.third[j, i] = third


@njit(cache=True)
def blend_lenses(
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    nearness: np.ndarray,
    triangles: np.ndarray,
    nearest: np.ndarray,
    tint: np.ndarray,
    opacity: float,
    shine: np.ndarray,
) -> None:
    """Blend lenses over what lies behind them; `shine` = strength, frequency and phase of sloped streaks."""
    height, width = nearest.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by, cx, cy = x[a], y[a], x[b], y[b], x[c], y[c]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        left, right = _span(ax, bx, cx, width)
        top, low = _span(ay, by, cy, height)
        for j in range(top, low + 1):
            for i in range(left, right + 1):
                second = ((i - ax) * (cy - ay) - (j - ay) * (cx - ax)) / area
                third = ((bx - ax) * (j - ay) - (by - ay) * (i - ax)) / area
                if second < 0 or third < 0 or second + third >= 1:  # not twice on a shared edge
                    continue
                near = (
                    nearness[a] + second * (nearness[b] - nearness[a]) + third * (nearness[c] - nearness[a])
                )
                if near <= nearest[j, i]:
                    continue
                streak = shine[0] * (1 + math.sin((i + 0.6 * j) * shine[1] + shine[2])) * 0.5
                for k in range(3):
                    image[j, i, k] = image[j, i, k] * (1 - opacity) + opacity * tint[k] + streak
