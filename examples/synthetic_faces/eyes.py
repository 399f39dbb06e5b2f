"""Lashes: strands on the source's lash mesh, and the line they make along the lids."""

import numpy as np

from synthetic_faces.head import LASHES, Head
from synthetic_faces.kernels.pixels import LASH
from synthetic_faces.model import Model
from synthetic_faces.texture import smoothstep

_BINS = 11  # places along a lid at which the source's mesh is read
_STRANDS = {True: 26, False: 15}  # of an upper, a lower lid
_WIDTH = 0.0075  # decimetres, of a strand at its root


class LashMap:
    """Roots and tips of strands as vertices of the source's lash mesh: a point is `share` of the way from
    `first` to `second`. The same for all people."""

    def __init__(self, head: Head) -> None:
        rng = np.random.Generator(np.random.PCG64(4))
        lashes = np.flatnonzero(head.part == LASHES)
        x, y = head.vertices[lashes, :2].T
        rows = []  # bins of root and tip, their shares, where along the lid, upper
        self.roots, self.tips = [], []
        for left in (True, False):
            for upper in (True, False):
                edge = 7.279 if upper else 7.2755
                own = lashes[((x > 0) == left) & ((y >= edge) if upper else (y < edge))]
                first = len(self.roots)
                self._read(head.vertices, own, upper)
                rows += [(first, place, upper) for place in _places(rng, _STRANDS[upper])]
        self.first = np.array([first for first, _, _ in rows])
        self.place = np.array([place for _, place, _ in rows])
        self.upper = np.array([upper for _, _, upper in rows])
        self.lean = rng.normal(0, 0.5, len(rows))
        self.longer = rng.uniform(0.75, 1.15, len(rows))

    def _read(self, vertices: np.ndarray, own: np.ndarray, upper: bool) -> None:
        """The vertices nearest to and furthest from the eye at each place along a lid."""
        x, y, z = vertices[own].T
        out = z + (y if upper else -y)
        edges = np.linspace(np.abs(x).min(), np.abs(x).max() + 1e-6, _BINS + 1)
        bins = np.digitize(np.abs(x), edges) - 1
        for k in range(_BINS):
            inside = np.flatnonzero(np.abs(bins - k) <= (0 if (bins == k).any() else 1))
            self.roots.append(own[inside[out[inside].argmin()]])
            self.tips.append(own[inside[out[inside].argmax()]])


def _places(rng: np.random.Generator, count: int) -> np.ndarray:
    """Along a lid, in bins: denser towards the outer corner."""
    places = (np.arange(count) + rng.uniform(0.2, 0.8, count)) / count
    return places**0.85 * (_BINS - 1.001)


def add_lashes(model: Model, lashes: LashMap) -> None:
    """Strands, and the dark line along the lids."""
    person = model.person
    makeup = model.look.makeup
    length = (1.0 - 0.35 * person.shape.male) * (1.45 if makeup else 1.0)
    forward = np.array([0, 0, 0.014])  # or the lid's rounded edge hides the roots
    roots, tips = model.points[lashes.roots] + forward, model.points[lashes.tips] + forward
    dark = person.complexion.brow * 0.35 + 0.006
    lid = 0.12 + 0.3 * person.shape.male
    line = dark + (0.05 if makeup else lid) * (person.complexion.skin * [0.45, 0.36, 0.36] - dark)
    _add_strands(model, lashes, roots, tips, length, model.add_plain(dark))
    _add_line(model, roots, tips, 0.5 if makeup else 0.42, model.add_plain(line))


def _add_strands(
    model: Model, lashes: LashMap, roots: np.ndarray, tips: np.ndarray, length: float, plain: int
) -> None:
    low = lashes.place.astype(int)
    share = (lashes.place - low)[:, None]
    a, b = lashes.first + low, lashes.first + low + 1
    root = roots[a] + share * (roots[b] - roots[a])
    tip = tips[a] + share * (tips[b] - tips[a])
    along = (roots[b] - roots[a]) / (np.linalg.norm(roots[b] - roots[a], axis=1, keepdims=True) + 1e-9)
    outer = (lashes.place / _BINS - 0.35)[:, None]  # strands lean outwards towards the outer corner
    reach = length * lashes.longer * np.where(lashes.upper, 1.0, 0.6) * smoothstep(-1, 3, lashes.place)
    tip = root + (tip - root) * reach[:, None] + along * (0.03 * outer + 0.012 * lashes.lean[:, None])
    half = along * (_WIDTH / 2)
    points = np.concatenate([root - half, root + half, tip])
    count = len(root)
    triangles = np.arange(count)[:, None] + np.array([0, count, 2 * count])
    model.add(points, triangles, LASH, plain)


def _add_line(model: Model, roots: np.ndarray, tips: np.ndarray, width: float, plain: int) -> None:
    lids = len(roots) // _BINS
    upper = (np.arange(len(roots)) // _BINS % 2 == 0)[:, None]
    taper = np.tile(np.sin(np.linspace(0.5, 2.6, _BINS)), lids)[:, None]
    edge = roots + (tips - roots) * (width * taper * np.where(upper, 1.0, 0.4))
    a = (np.arange(lids)[:, None] * _BINS + np.arange(_BINS - 1)).ravel()
    b, below = a + 1, len(roots)
    triangles = np.concatenate([np.stack([a, b, b + below], 1), np.stack([a, b + below, a + below], 1)])
    model.add(np.concatenate([roots, edge]), triangles, LASH, plain)
