"""Small solids for glasses, brims and buns: vertices `[V, 3]` and triangles `[T, 3]`."""

import math

import numpy as np

Solid = tuple[np.ndarray, np.ndarray]
_SQUARE = ((1, 1), (1, -1), (-1, -1), (-1, 1))


def ring(points: np.ndarray, tube: float) -> Solid:
    """A closed tube of square section along the closed line `points` `[N, 3]`."""
    count = len(points)
    ahead = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    side = np.cross(ahead, [0, 0, 1.0])
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    up = np.cross(side, ahead)
    vertices = np.concatenate([points + tube * (a * side + b * up) for a, b in _SQUARE])
    triangles = []
    for k in range(4):
        here, beyond = k * count, (k + 1) % 4 * count
        for i in range(count):
            j = (i + 1) % count
            triangles += [(here + i, here + j, beyond + j), (here + i, beyond + j, beyond + i)]
    return vertices, np.array(triangles)


def bar(start: np.ndarray, end: np.ndarray, tube: float) -> Solid:
    """A straight bar of square section, open at its ends."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    ahead = (end - start) / np.linalg.norm(end - start)
    side = np.cross(ahead, [0.1, 1.0, 0.2])
    side /= np.linalg.norm(side)
    up = np.cross(side, ahead)
    vertices = [[place + tube * (a * side + b * up) for a, b in _SQUARE] for place in (start, end)]
    triangles = []
    for k in range(4):
        beyond = (k + 1) % 4
        triangles += [(k, beyond, 4 + beyond), (k, 4 + beyond, 4 + k)]
    return np.concatenate(vertices), np.array(triangles)


def ball(centre: np.ndarray, radius: float, rings: int = 10) -> Solid:
    """A sphere."""
    around = 2 * rings
    points = [[0, 1, 0]]
    for i in range(1, rings):
        for j in range(around):
            a, b = np.pi * i / rings, np.pi * j / rings
            points.append([math.sin(a) * math.cos(b), math.cos(a), math.sin(a) * math.sin(b)])
    points.append([0, -1, 0])
    triangles = []
    for j in range(around):
        k = (j + 1) % around
        triangles.append((0, 1 + j, 1 + k))
        for i in range(rings - 2):
            a, b = 1 + i * around, 1 + (i + 1) * around
            triangles += [(a + j, b + j, b + k), (a + j, b + k, a + k)]
        a = 1 + (rings - 2) * around
        triangles.append((a + j, len(points) - 1, a + k))
    return np.array(points) * radius + centre, np.array(triangles)


def strip(inner: np.ndarray, outer: np.ndarray) -> Solid:
    """The band between two lines `[N, 3]`."""
    count = len(inner)
    triangles = []
    for i in range(count - 1):
        triangles += [(i, count + i, count + i + 1), (i, count + i + 1, i + 1)]
    return np.concatenate([inner, outer]), np.array(triangles)


def capsule(start: np.ndarray, end: np.ndarray, first: float, last: float, around: int = 12) -> Solid:
    """A rod with round ends whose radius goes from `first` to `last`."""
    ahead = (end - start) / (np.linalg.norm(end - start) + 1e-9)
    side = np.cross(ahead, [0.3, 0.1, 1.0])
    side /= np.linalg.norm(side)
    up = np.cross(side, ahead)
    turns = np.linspace(0, 2 * np.pi, around, endpoint=False)
    circle = np.cos(turns)[:, None] * side + np.sin(turns)[:, None] * up
    bend = np.linspace(0, np.pi / 2, 4)
    rows = [start - ahead * first * np.cos(b) + circle * first * np.sin(b) for b in bend]
    rows += [end + ahead * last * np.cos(b) + circle * last * np.sin(b) for b in bend[::-1]]
    triangles = []
    for row in range(len(rows) - 1):
        for i in range(around):
            a, b = row * around + i, row * around + (i + 1) % around
            triangles += [(a, b, b + around), (a, b + around, a + around)]
    return np.concatenate(rows), np.array(triangles)


def slab(centre: np.ndarray, half: np.ndarray, lean: float) -> Solid:
    """A box with half sides `half` `[3]`, leaning forwards by `lean` radians, with sharp edges."""
    points, triangles = [], []
    for axis in range(3):
        for sign in (-1, 1):
            for a, b in _SQUARE:
                corner = np.zeros(3)
                corner[axis], corner[axis - 2], corner[axis - 1] = sign, a, b
                points.append(corner * half)
            first = len(points) - 4
            triangles += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
    x, y, z = np.array(points).T
    c, s = math.cos(lean), math.sin(lean)
    return np.stack([x, c * y - s * z, s * y + c * z], 1) + centre, np.array(triangles)
