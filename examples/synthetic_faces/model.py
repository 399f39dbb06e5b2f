"""The model of one picture: parts gathered into one list of triangles, with materials and texture layers."""

import math
from dataclasses import dataclass, field

import numpy as np

from synthetic_faces.expressions import Expression, gain
from synthetic_faces.head import (
    BODY,
    LEFT_EYE,
    RIGHT_EYE,
    TONGUE,
    Head,
)
from synthetic_faces.kernels import pixels
from synthetic_faces.kernels.geometry import hollows, smooth, vertex_normals
from synthetic_faces.kernels.pixels import CLOTH, EAR, EYE, HAIR, HOLLOW, LASH, OCCLUSION, PLAIN, SKIN
from synthetic_faces.look import Look
from synthetic_faces.person import Person
from synthetic_faces.skin import blank_texture
from synthetic_faces.texture import smoothstep, texel_of

_HIDDEN = -0.12  # a shell's vertices with a smaller cut are left out


@dataclass
class Geometry:
    """Vertices: `points`, `local` `[V, 3]`, `uv` `[V, 2]`, `attributes` `[V, 5]`, `follows` `[V]`; triangles
    `[T, 3]` with `material`, `layer`, `one_sided` `[T]`."""

    points: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    attributes: np.ndarray
    local: np.ndarray
    follows: np.ndarray
    material: np.ndarray
    layer: np.ndarray
    one_sided: np.ndarray


@dataclass
class Model:
    """A person in a look with an expression, before the head turns. `points`, `normals` `[V, 3]` of the mesh;
    `albedo`, `cuts`, `frays` the texture layers, `cloth` the number of the clothes' layer; `plains` colours
    and shines of parts without texture."""

    head: Head
    person: Person
    look: Look
    points: np.ndarray
    normals: np.ndarray
    attributes: np.ndarray
    albedo: list[np.ndarray] = field(default_factory=list)
    cuts: list[np.ndarray] = field(default_factory=list)
    frays: list[float] = field(default_factory=list)
    plains: list[np.ndarray] = field(default_factory=list)
    lenses: np.ndarray | None = None
    long_hair: int = -1
    cloth: int = 0
    _parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    _count: int = 0

    def add(
        self,
        points: np.ndarray,
        triangles: np.ndarray,
        material: int | np.ndarray,
        layer: int = 0,
        uv: np.ndarray | None = None,
        attributes: np.ndarray | None = None,
        local: np.ndarray | None = None,
        follows: np.ndarray | None = None,
    ) -> int:
        """Add a part, by default one that turns with the head; -> the number of its first vertex."""
        count = len(points)
        if attributes is None:
            attributes = np.zeros((count, 5))
            attributes[:, OCCLUSION] = 0.9
        material = np.broadcast_to(np.int64(material), len(triangles))
        part = (
            points,
            triangles + self._count,
            np.full((count, 2), 0.5) if uv is None else uv,
            attributes,
            np.zeros((count, 3)) if local is None else local,
            np.ones(count) if follows is None else follows,
            material,
            np.full(len(triangles), layer, np.int64),
            material == SKIN,
        )
        self._parts.append(part)
        self._count += count
        return self._count - count

    def add_layer(self, albedo: np.ndarray, cut: np.ndarray, fray: float = 0.0) -> int:
        """A texture `[H, W, 3]` with holes where `cut` `[H, W]` < 0, whose edges strands roughen by `fray`;
        -> its number."""
        self.albedo.append(albedo)
        self.frays.append(fray)
        self.cuts.append(cut)
        return len(self.albedo) - 1

    def add_plain(self, colour: np.ndarray, shine: float = 0.0) -> int:
        """A colour for parts without texture; -> its number."""
        self.plains.append(np.array([*colour, shine]))
        return len(self.plains) - 1

    def add_shell(
        self,
        thick: np.ndarray,
        cut: np.ndarray,
        albedo: np.ndarray,
        material: int,
        smoothing: int = 0,
        ears: bool = False,
        fray: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """The skin pushed outwards by `thick` `[H, W]` decimetres, over skin that was smoothed first; -> its
        points, their vertices in the mesh, the texture layer."""
        head = self.head
        layer = self.add_layer(albedo, cut, fray)
        triangles = head.shell if ears else head.shell_without_ears
        triangles = triangles[(cut[head.texel] > _HIDDEN)[triangles].any(1)]
        used = np.unique(triangles)
        if not len(used):
            return np.zeros((0, 3)), used, layer
        attributes = self.attributes.copy()
        attributes[:, OCCLUSION] = np.maximum(attributes[:, OCCLUSION], 0.85)
        number = np.zeros(head.count, np.int64)
        number[used] = np.arange(len(used))
        points = self._pushed(thick, smoothing, ears or smoothing > 0)[used]
        self.add(
            points,
            number[triangles],
            material,
            layer,
            head.uv[used],
            attributes[used],
            follows=head.follows[used],
        )
        return points, used, layer

    def _pushed(self, thick: np.ndarray, smoothing: int, flat_ears: bool) -> np.ndarray:
        head, points = self.head, self.points.copy()
        skin = self.points
        if flat_ears:
            points += self.person.shape.flat_ears
        if smoothing:
            smooth(points, head.first_neighbour, head.neighbours, smoothing, head.skin)
        outwards = points - [0, 7.3, 0.25]
        outwards[:, 1] *= 0.8
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True) + 1e-9
        lower_face = smoothstep(7.2, 6.9, head.vertices[:, 1]) * (head.vertices[:, 2] > 0.3)
        outwards = outwards + lower_face[:, None] * (self.normals - outwards)
        points = points + outwards * thick[head.texel][:, None]
        if smoothing:  # which sinks corners of the head below the skin
            crown = (head.vertices[:, 1] > 7.3) & (head.attributes[:, EAR] < 0.1)
            above = ((points - skin) * outwards).sum(1, keepdims=True)
            points += outwards * np.clip(0.06 - above, 0, 0.3) * crown[:, None]
        return points

    def geometry(self) -> Geometry:
        """All parts together."""
        return Geometry(*(np.concatenate(column) for column in zip(*self._parts, strict=True)))


def start_model(
    head: Head, person: Person, look: Look, expression: Expression, cloth: np.ndarray, ears: bool
) -> Model:
    """The skin, eyes, tongue and shoulders of a person with an expression."""
    points = person.shape.points.copy()
    units, reach = expression.with_gaze_units(), person.shape.reach
    for unit, value in units.items():
        head.push(points, f"unit/{unit}", value * gain(unit) * _reach(unit, reach))
    for side in ("Left", "Right"):  # how far the lids hang when at rest
        open_share = 1 - min(1.0, units.get(f"eyeBlink{side}", 0.0) + units.get(f"eyeWide{side}", 0.0))
        head.push(points, f"unit/eyeBlink{side}", person.folds.lids * open_share * reach)
    normals = np.zeros_like(points)
    vertex_normals(points, head.triangles[BODY], normals)
    attributes = head.attributes.copy()
    hollows(points, normals, head.first_neighbour, head.neighbours, attributes[:, HOLLOW])
    attributes[head.part != BODY, HOLLOW] = 0
    model = Model(head, person, look, points, normals, attributes)
    model.add_layer(look.texture, blank_texture())
    _add_head(model, expression, ears)
    rim = points[head.lower_rim]
    middle = rim.mean(0)
    skirt = np.concatenate([rim, middle + (rim - middle) * [1.25, 1, 1.25] - [0, 2.2, 0]])
    model.cloth = model.add_layer(cloth, blank_texture())
    uv = np.concatenate([head.uv[head.lower_rim]] * 2)
    model.add(skirt, head.skirt, CLOTH, model.cloth, uv, follows=np.zeros(len(skirt)))
    return model


def _reach(unit: str, reach: float) -> float:
    """How far a unit moves a face: a baby's less, its mouth and cheeks least, but its lids close."""
    if unit.startswith("eyeBlink"):
        return 1.0
    return reach * reach if unit.startswith(("mouth", "cheek", "nose")) else reach


def _add_head(model: Model, expression: Expression, ears: bool) -> None:
    head, part = model.head, model.head.triangles
    skin = part[BODY] if ears else head.skin_without_ears
    materials = (
        (skin, SKIN),
        (part[LEFT_EYE], EYE),
        (part[RIGHT_EYE], EYE),
        (part[TONGUE], pixels.TONGUE),
    )
    model.add(
        model.points,
        np.concatenate([triangles for triangles, _ in materials]),
        np.concatenate([np.full(len(triangles), material) for triangles, material in materials]),
        0,
        head.uv,
        model.attributes,
        _eye_coordinates(model, expression.gaze),
        head.follows,
    )


def _eye_coordinates(model: Model, gaze: np.ndarray) -> np.ndarray:
    """The eyeballs' vertices in the axes of the gaze, z through the pupil; teeth in the mesh's own."""
    local = model.head.vertices.copy()
    yaw, pitch = np.radians(gaze)
    for part, centre in zip((LEFT_EYE, RIGHT_EYE), model.person.shape.eye_centres, strict=True):
        ball = model.head.part == part
        d = model.points[ball] - centre
        c, s = math.cos(-yaw), math.sin(-yaw)
        x, z = c * d[:, 0] + s * d[:, 2], -s * d[:, 0] + c * d[:, 2]
        c, s = math.cos(pitch), math.sin(pitch)
        local[ball] = np.stack([x, c * d[:, 1] - s * z, s * d[:, 1] + c * z], 1)
    return local


def casts_shadow(model: Model, geometry: Geometry, cuts: np.ndarray) -> np.ndarray:
    """`[T]` bool: not eyes, teeth, tongue, lashes, long hair, nor what the holes `cuts` `[L, H, W]` take away
    from a shell."""
    layer, material, triangles = geometry.layer, geometry.material, geometry.triangles
    textured = ~np.isin(material, (PLAIN, LASH))
    of_vertex = np.zeros(len(geometry.points), np.int64)
    of_vertex[triangles] = (layer * textured)[:, None]
    row, column = texel_of(geometry.uv)
    hole = cuts[of_vertex, row, column] < 0
    cut_away = hole[triangles].all(1) & (layer > 0) & textured
    solid = np.isin(material, (SKIN, HAIR, CLOTH, PLAIN))
    return solid & ~cut_away & (layer != model.long_hair)
