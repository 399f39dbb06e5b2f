"""The head mesh: the extract and everything that is the same for all people."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from synthetic_faces import texture
from synthetic_faces.kernels.geometry import vertex_normals
from synthetic_faces.kernels.pixels import EAR, INSIDE, LIPS, OCCLUSION
from synthetic_faces.kernels.raster import depth_map
from synthetic_faces.texture import AXIS_Z, BOTTOM, HEIGHT, TOP, WIDTH

EXTRACT = Path(__file__).with_name("head.npz")
BODY, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE, LONG_HAIR, LASHES = range(8)  # parts
PIVOT = np.array([0.0, 6.75, 0.25])  # what the head turns about
POSITIVE_ENDS = ("incr", "up", "in", "forward", "convex", "compress", "one")
NEGATIVE_ENDS = ("decr", "down", "out", "backward", "concave", "uncompress")


class Head:
    """Decimetres, x to the subject's left, y up, z to the front. `vertices` `[V, 3]`, `part` `[V]`,
    `triangles` of each part, `uv` `[V, 2]`, `attributes` `[V, 5]` (columns: kernels/pixels.py), `follows`
    `[V]` how much of the head's turn a vertex takes, `landmarks` the vertices of nose and mouth corners."""

    def __init__(self, path: Path = EXTRACT) -> None:
        data = np.load(path)
        self.vertices = data["vertices"].astype(np.float64)
        self.part = data["vertex_part"]
        self.count = len(self.part)
        triangles, part = data["triangles"].astype(np.int64), data["triangle_part"]
        self.triangles = [triangles[part == k] for k in range(8)]
        self.skin = self.part == BODY
        self.targets = _targets(data, (self.part == LEFT_EYE) | (self.part == RIGHT_EYE))
        self.units = [name.removeprefix("unit/") for name in self.targets if name.startswith("unit/")]
        self.local_shapes = _local_shapes(self.targets)
        self.theta = np.arctan2(self.vertices[:, 0], self.vertices[:, 2] - AXIS_Z)
        across = self.theta / (2 * np.pi) + 0.5
        self.uv = np.stack([across, (TOP - self.vertices[:, 1]) / (TOP - BOTTOM)], 1)
        self.texel = texture.texel_of(self.uv)
        self.first_neighbour, self.neighbours = self._neighbours()
        self.attributes = np.zeros((self.count, 5))
        self.attributes[:, LIPS] = data["mask_lips"] / 255.0
        self.attributes[:, INSIDE] = data["mask_inside_mouth"] > 128
        self.attributes[:, EAR] = self._ears()
        self.attributes[:, OCCLUSION] = self._occlusion()
        self.ear_zone = self._ear_zone()
        self.follows = self._follows()
        self._choose_triangles()
        self._choose_vertices()
        self.texel_y, self.texel_angle = texture.texels()
        self.row_y, self.column_angle = self.texel_y[:, :1], self.texel_angle[:1]
        self.texel_x = self._texel_x()

    def push(self, points: np.ndarray, target: str, weight: float) -> None:
        """Add a blendshape to `points` `[V, 3]`, in place; an unknown one is none."""
        if target in self.targets and weight:
            index, delta = self.targets[target]
            points[index] += weight * delta

    def nearest(self, x: float, y: float, z: float) -> int:
        """The vertex of the skin nearest to a place of the rest mesh."""
        return int((((self.vertices - [x, y, z]) ** 2).sum(1) + 9 * ~self.skin).argmin())

    def _neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        t = self.triangles[BODY]
        sides = [t[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2))]
        pairs = np.unique(np.concatenate(sides), axis=0)
        return np.searchsorted(pairs[:, 0], np.arange(self.count + 1)), pairs[:, 1].copy()

    def _ears(self) -> np.ndarray:
        """1 on the ear proper, which is what stands out with it."""
        ear = np.zeros(self.count)
        for side in "lr":
            index, delta = self.targets[f"local/{side}-ear-wing-incr"]
            share = np.abs(delta).max(1) / np.abs(delta).max()
            ear[index] = np.maximum(ear[index], np.clip((share - 0.08) / 0.15, 0, 1))
        return ear

    def _ear_zone(self) -> np.ndarray:
        zone = np.zeros(self.count, bool)
        for side in "lr":
            index, delta = self.targets[f"local/{side}-ear-trans-up"]
            rise = np.abs(delta[:, 1])
            zone[index[rise > 0.6 * rise.max()]] = True
        return zone

    def _follows(self) -> np.ndarray:
        """0 on the shoulders, 1 on the head, a blend on the neck and along long hair."""
        height = self.vertices[:, 1] + 0.45 * self.vertices[:, 2]
        share = np.clip((height - 5.55) / 0.95, 0, 1)
        follows = share * share * (3 - 2 * share)
        follows[(self.part >= LEFT_EYE) & (self.part <= TONGUE)] = 1
        follows[self.part == LASHES] = 1
        hair = self.part == LONG_HAIR
        share = np.clip((self.vertices[hair, 1] - 5.6) / 1.2, 0, 1)
        follows[hair] = share * share * (3 - 2 * share)
        return follows

    def _choose_triangles(self) -> None:
        """Shells (hair, beard, hats, masks) grow from the skin without the mouth, and mostly without ears."""
        skin, ear, inside = self.triangles[BODY], self.attributes[:, EAR], self.attributes[:, INSIDE]
        inner = (inside > 0) | (self.vertices[:, 1] < 5.75)
        self.shell = skin[~(inner[skin].any(1))]
        self.shell_without_ears = self.shell[ear[self.shell].max(1) < 0.6]
        self.skin_without_ears = skin[ear[skin].max(1) < 0.6]
        edges = np.sort(np.concatenate([skin[:, [0, 1]], skin[:, [1, 2]], skin[:, [2, 0]]]), axis=1)
        edges, times = np.unique(edges, axis=0, return_counts=True)
        edges = edges[(times == 1) & (self.vertices[edges, 1].max(1) < 5.9)]
        self.lower_rim, place = np.unique(edges, return_inverse=True)
        a, b = place.reshape(-1, 2).T
        below = len(self.lower_rim)
        self.skirt = np.concatenate(  # continues the shoulders from the rim downwards
            [np.stack([a, b, b + below], 1), np.stack([a, b + below, a + below], 1)]
        )

    def _choose_vertices(self) -> None:
        _, y, z = self.vertices.T
        ear, inside = self.attributes[:, EAR], self.attributes[:, INSIDE]
        face = self.skin & (y > 6.14) & (y < 8.05) & (z > 0.45) & (np.abs(self.theta) < 1.25)
        self.face = np.flatnonzero(face & (inside == 0))  # chin to hairline, ear to ear
        self.temples = np.flatnonzero(self.skin & (ear < 0.3) & (np.abs(y - 7.3) < 0.09) & (z > 0.4))
        self.landmarks = {
            "nose": self.nearest(0, 6.895, 1.70),
            "mouth_right": self.nearest(-0.255, 6.63, 1.40),
            "mouth_left": self.nearest(0.255, 6.63, 1.40),
        }

    def _occlusion(self, count: int = 96, side: int = 128) -> np.ndarray:
        """How much of the world before it a vertex sees, from depth maps out of many directions."""
        points = self.vertices - [0, 7, 0.3]
        normals = np.zeros_like(points)
        vertex_normals(points, self.triangles[BODY], normals)
        seen, total = np.zeros(self.count), np.zeros(self.count) + 1e-9
        for direction in _directions(count):
            across = np.cross(direction, [0.31, 0.52, 0.79])
            across /= np.linalg.norm(across)
            scale = side / 5.2
            x = points @ across * scale + side / 2
            y, z = points @ np.cross(direction, across) * scale + side / 2, points @ direction
            depth = np.full((side, side), -1e9)
            depth_map(x, y, z, self.triangles[BODY], np.zeros(len(self.triangles[BODY]), bool), depth)
            column = np.clip(np.round(x), 0, side - 1).astype(int)
            row = np.clip(np.round(y), 0, side - 1).astype(int)
            slope = np.clip(normals @ direction, 0, 1)
            seen += slope * (depth[row, column] <= z + 0.05)
            total += slope
        share = 0.18 + 0.82 * np.clip(seen / total, 0, 1) ** 0.85
        x, y, z = self.vertices.T  # depth maps are too coarse for the nostrils
        away = ((np.abs(x) - 0.088) / 0.036) ** 2 + ((y - 6.875) / 0.02) ** 2 + ((z - 1.567) / 0.04) ** 2
        share *= 1 - 0.9 * np.exp(-away) * self.skin
        for part, value in ((LEFT_EYE, 0.9), (RIGHT_EYE, 0.9)):
            share[self.part == part] = value
        share[self.part == TONGUE] = 0.4
        share[self.part >= LONG_HAIR] = 0.85
        return share

    def _texel_x(self) -> np.ndarray:
        """x of the rest mesh's outermost surface at each texel."""
        t, ear, inside = self.triangles[BODY], self.attributes[:, EAR], self.attributes[:, INSIDE]
        flat = np.ptp(self.uv[t, 0], axis=1) < 0.5
        t = t[(inside[t].max(1) == 0) & flat & (ear[t].max(1) < 0.5)]
        radius = np.hypot(self.vertices[:, 0], self.vertices[:, 2] - AXIS_Z)
        out = np.full((HEIGHT, WIDTH), -1e9)
        x, y = self.uv[:, 0] * WIDTH - 0.5, self.uv[:, 1] * HEIGHT - 0.5
        depth_map(x, y, radius, t, np.zeros(len(t), bool), out)
        missing = out < 0
        out[missing] = 0
        known = (~missing).astype(np.float32)
        for sigma in (3, 12, 40):
            share = cv2.GaussianBlur(known, (0, 0), sigma) + 1e-6
            fill = cv2.GaussianBlur(out.astype(np.float32) * known, (0, 0), sigma) / share
            out = np.where(missing & (out == 0) & (fill > 0.2), fill, out)
        return (np.sin(self.texel_angle) * out).astype(np.float32)


def _targets(data: Mapping[str, np.ndarray], eyeball: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The blendshapes: indices of vertices and what is added to them, by name."""
    delta = np.stack([data["delta_x"], data["delta_y"], data["delta_z"]], 1) * np.float64(data["quantum"])
    starts, steps = data["starts"], data["index_step"].astype(np.int64)
    targets = {}
    for k, name in enumerate(map(str, data["names"])):
        span = slice(starts[k], starts[k + 1])
        index, change = np.cumsum(steps[span]), delta[span]
        if name.startswith("unit/"):  # the eyeballs turn by the gaze, not by blendshapes
            keep = ~eyeball[index]
            index, change = index[keep], change[keep]
        targets[name] = (index, change)
    return targets


def _local_shapes(targets: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, list[str]]]:
    """The local blendshapes of each scale ("nose-width") by end ("incr", "decr"), left and right together."""
    shapes: dict[str, dict[str, list[str]]] = {}
    for name in targets:
        if name.startswith("local/"):
            stem = name.removeprefix("local/")
            body = stem[2:] if stem[:2] in ("l-", "r-") else stem
            base, _, end = body.rpartition("-")
            if body.startswith("asym") or end not in POSITIVE_ENDS[:-1] + NEGATIVE_ENDS:
                base, end = body, "one"
            shapes.setdefault(base, {}).setdefault(end, []).append(name)
    return dict(sorted(shapes.items()))


def _directions(count: int) -> np.ndarray:
    """Directions `[count, 3]` spread evenly over the sphere."""
    k = np.arange(count) + 0.5
    phi, y = np.pi * (1 + 5**0.5) * k, 1 - 2 * k / count
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(phi), y, radius * np.sin(phi)], 1)
