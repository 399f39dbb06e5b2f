"""Functions of single numbers."""

from numba import njit


@njit(cache=True)
def clamp(x: float, low: float, high: float) -> float:
    return low if x < low else (high if x > high else x)


@njit(cache=True)
def step(a: float, b: float, x: float) -> float:
    """0 at `a`, 1 at `b`, smooth between."""
    t = clamp((x - a) / (b - a), 0.0, 1.0)
    return t * t * (3 - 2 * t)
