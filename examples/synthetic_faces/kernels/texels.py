"""Values at a point of a triangle, and colours of textures there."""

import math

from numba import njit

from synthetic_faces.kernels.raster import unwrap
from synthetic_faces.kernels.scalars import clamp


@njit(cache=True)
def mix(values, corners, weights, k):
    """Column `k` of per-vertex `values` at a point of a triangle."""
    return (
        weights[0] * values[corners[0], k]
        + weights[1] * values[corners[1], k]
        + weights[2] * values[corners[2], k]
    )


@njit(cache=True)
def mix3(values, corners, weights):
    """The first three columns at a point of a triangle."""
    return (
        mix(values, corners, weights, 0),
        mix(values, corners, weights, 1),
        mix(values, corners, weights, 2),
    )


@njit(cache=True, inline="always")
def texel(surface, albedo, corners, weights):
    """The row and column of a point on its texture, between texels."""
    uv = surface.uv
    ua, ub, uc = unwrap(uv[corners[0], 0], uv[corners[1], 0], uv[corners[2], 0])
    column = (weights[0] * ua + weights[1] * ub + weights[2] * uc) * albedo.shape[2] - 0.5
    return mix(uv, corners, weights, 1) * albedo.shape[1] - 0.5, column


@njit(cache=True, inline="always")
def textured(surface, albedo, layer, corners, weights, colour):
    """The texture's colour at a point, bilinear, into `colour`; -> the texel's column and row."""
    rows, columns = albedo.shape[1], albedo.shape[2]
    v, u = texel(surface, albedo, corners, weights)
    v = clamp(v, 0.0, rows - 1.001)
    floor_u, floor_v = math.floor(u), math.floor(v)
    du, dv = u - floor_u, v - floor_v
    u0, v0 = int(floor_u) % columns, int(floor_v)
    u1 = (u0 + 1) % columns
    for k in range(3):
        upper = (1 - du) * albedo[layer, v0, u0, k] + du * albedo[layer, v0, u1, k]
        lower = (1 - du) * albedo[layer, v0 + 1, u0, k] + du * albedo[layer, v0 + 1, u1, k]
        colour[k] = (1 - dv) * upper + dv * lower
    return u0, v
