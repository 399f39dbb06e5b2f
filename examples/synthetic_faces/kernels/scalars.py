"""Functions of single numbers."""

import math

from numba import njit


@njit(cache=True)
def clamp(x: float, low: float, high: float) -> float:
    return low if x < low else (high if x > high else x)


@njit(cache=True)
def step(a: float, b: float, x: float) -> float:
    """0 at `a`, 1 at `b`, smooth between."""
    t = clamp((x - a) / (b - a), 0.0, 1.0)
    return t * t * (3 - 2 * t)


@njit(cache=True)
def _hashed(i: int, j: int) -> float:
    """-1..1, as good as random."""
    h = (i * 374761393 + j * 668265263) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 32767.5 - 1.0


@njit(cache=True)
def strand(row: float, column: float) -> float:
    """Noise -1..1 of hair that hangs: fine across `column` and long down `row`, in texels."""
    j, t = math.floor(row / 14.0), row / 14.0
    t -= j
    fine, coarse = math.floor(column * 2.6), math.floor(column * 1.1 + 0.03 * row)
    a = _hashed(fine, j) * (1 - t) + _hashed(fine, j + 1) * t
    b = _hashed(coarse + 7919, j) * (1 - t) + _hashed(coarse + 7919, j + 1) * t
    return 0.6 * a + 0.4 * b
