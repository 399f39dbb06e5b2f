"""Teeth and gums: two smooth arches on the source's teeth, with the place of each point in its tooth."""

import numpy as np

from synthetic_faces.head import LOWER_TEETH, UPPER_TEETH, Head
from synthetic_faces.kernels.pixels import OCCLUSION, TEETH
from synthetic_faces.model import Model
from synthetic_faces.texture import smoothstep

_STEPS = 3  # columns of an arch for each of the source's
_ARCHES = {  # x, y, z of the outer columns on one side, at the teeth's edge, the gum's rim and above it
    UPPER_TEETH: (
        ((0.089, 6.604, 1.464), (0.083, 6.701, 1.487), (0.078, 6.792, 1.508)),
        ((0.174, 6.620, 1.412), (0.169, 6.713, 1.435), (0.161, 6.801, 1.454)),
        ((0.221, 6.640, 1.342), (0.216, 6.727, 1.355), (0.210, 6.811, 1.370)),
        ((0.254, 6.657, 1.260), (0.252, 6.742, 1.275), (0.248, 6.822, 1.290)),
        ((0.284, 6.676, 1.173), (0.283, 6.753, 1.185), (0.282, 6.827, 1.199)),
        ((0.311, 6.704, 1.039), (0.306, 6.768, 1.047), (0.306, 6.834, 1.058)),
    ),
    LOWER_TEETH: (
        ((0.091, 6.596, 1.462), (0.092, 6.519, 1.445), (0.097, 6.428, 1.424)),
        ((0.177, 6.612, 1.413), (0.183, 6.538, 1.396), (0.190, 6.450, 1.377)),
        ((0.222, 6.631, 1.340), (0.229, 6.559, 1.326), (0.235, 6.475, 1.311)),
        ((0.256, 6.649, 1.258), (0.260, 6.582, 1.244), (0.264, 6.502, 1.228)),
        ((0.284, 6.665, 1.169), (0.286, 6.605, 1.156), (0.287, 6.532, 1.141)),
        ((0.306, 6.694, 1.035), (0.306, 6.636, 1.024), (0.306, 6.571, 1.012)),
    ),
}
_LIPS = np.array(  # x, y, z on the edges of upper and lower lip, from the middle to the side
    [
        [(0, 6.608, 1.553), (0, 6.601, 1.540)],
        [(0.129, 6.615, 1.536), (0.111, 6.604, 1.517)],
        [(0.185, 6.615, 1.485), (0.172, 6.600, 1.479)],
    ]
)


class Arch:
    """`used` vertices of the source's mesh and `weights` `[3 * c, used]` that give the arch's points; its
    `triangles` and `local`: along the arch from the middle, height (lower teeth: < 0). `lips` `[5, 2]` =
    vertices on the edges of both lips."""

    def __init__(self, head: Head, part: int) -> None:
        columns = np.array(_ARCHES[part])
        mirrored = columns[::-1] * [-1, 1, 1]
        places = np.concatenate([mirrored, columns])  # [12, 3, 3]
        own = np.flatnonzero(head.part == part)
        away = ((head.vertices[own] - places[:, :, None]) ** 2).sum(-1)
        self.used = own[away.argmin(-1)]  # [12, 3]
        edges = np.concatenate([_LIPS, _LIPS[1:] * [-1, 1, 1]])
        self.lips = ((head.vertices - edges[:, :, None]) ** 2).sum(-1).argmin(-1)
        self.weights = _spline(len(places), _STEPS)
        count = len(self.weights)
        rest = self.points(head.vertices).reshape(count, 3, 3)
        steps = np.linalg.norm(np.diff(rest[:, 0], axis=0), axis=1)
        along = np.concatenate([[0], np.cumsum(steps)])
        along -= along.mean()
        sign = 1.0 if part == UPPER_TEETH else -1.0
        self.local = np.zeros((count, 3, 3))
        self.local[..., 0] = along[:, None]
        self.local[..., 1] = sign * (np.array([0.0, 1.0, 2.0]) + 0.001)
        self.local = self.local.reshape(-1, 3)
        corner = 3 * np.arange(count - 1)[:, None] + np.arange(2)
        a, b = corner.ravel(), corner.ravel() + 3
        self.triangles = np.concatenate([np.stack([a, b, b + 1], 1), np.stack([a, b + 1, a + 1], 1)])

    def points(self, vertices: np.ndarray) -> np.ndarray:
        return np.einsum("ck,krd->crd", self.weights, vertices[self.used]).reshape(-1, 3)

    def shown(self, vertices: np.ndarray) -> float:
        """0 when the lips touch, 1 when the mouth is open: light does not reach teeth behind a narrow gap."""
        edges = vertices[self.lips, 1]
        return float(smoothstep(0.022, 0.05, (edges[:, 0] - edges[:, 1]).max()))


def _spline(count: int, steps: int) -> np.ndarray:
    """Weights `[(count - 1) * steps + 1, count]` of a Catmull-Rom spline through `count` points."""
    rows = []
    for k in range((count - 1) * steps + 1):
        j, t = min(k // steps, count - 2), k / steps
        t -= j
        row = np.zeros(count)
        shares = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
        for place, share in zip(range(j - 1, j + 3), shares, strict=True):
            row[np.clip(place, 0, count - 1)] += share / 2
        rows.append(row)
    return np.array(rows)


def add_teeth(model: Model, arches: tuple[Arch, Arch]) -> None:
    """Both rows of teeth, as narrow as the mouth when it is rounded, in the dark while the lips touch."""
    head = model.head
    right, left = (model.points[head.landmarks[f"mouth_{side}"]] for side in ("right", "left"))
    middle = (right + left) / 2
    narrow = float(np.clip(np.hypot(*(left - right)[[0, 2]]) / 2 / 0.27, 0.55, 1.0))
    lit = 0.1 + 0.9 * arches[0].shown(model.points)
    for arch in arches:
        points = arch.points(model.points)
        points[:, 0] = middle[0] + (points[:, 0] - middle[0]) * narrow * 0.94
        points[:, 2] -= 0.012
        attributes = np.zeros((len(points), 5))
        attributes[:, OCCLUSION] = lit
        model.add(points, arch.triangles, TEETH, attributes=attributes, local=arch.local)
