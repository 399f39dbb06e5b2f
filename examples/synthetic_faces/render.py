"""From a person, an expression, a pose, a light and a camera to a picture."""

import functools
from dataclasses import dataclass

import numpy as np

from synthetic_faces.background import draw_background
from synthetic_faces.camera import Camera, aim
from synthetic_faces.clothes import paint_clothes
from synthetic_faces.expressions import Expression
from synthetic_faces.eyes import LashMap, add_lashes
from synthetic_faces.glasses import add_glasses
from synthetic_faces.hairdo import add_beard, add_hair
from synthetic_faces.hats import add_hat, add_mask, add_scarf, hat_line
from synthetic_faces.head import LEFT_EYE, LOWER_TEETH, PIVOT, RIGHT_EYE, UPPER_TEETH, Head
from synthetic_faces.kernels.geometry import turn, vertex_normals
from synthetic_faces.kernels.pixels import CLOTH, HAIR, SKIN, Illumination, Palette, Relief, Surface, shade
from synthetic_faces.kernels.raster import Hits, blend_lenses, no_hits, rasterise
from synthetic_faces.light import Lighting, shadow_map
from synthetic_faces.look import Look
from synthetic_faces.model import Geometry, Model, casts_shadow, start_model
from synthetic_faces.mouth import Arch, add_teeth
from synthetic_faces.person import Person
from synthetic_faces.pose import Pose
from synthetic_faces.props import add_prop
from synthetic_faces.scene import Scene
from synthetic_faces.sensor import Sensor, develop
from synthetic_faces.shine import shine_map
from synthetic_faces.skin import FACE
from synthetic_faces.texture import WIDTH
from synthetic_faces.wear import Wear

_MOST_TWIST = np.radians(55)


@dataclass
class Shot:
    """All that changes from picture to picture of a person."""

    expression: Expression
    pose: Pose
    lighting: Lighting
    look: Look
    wear: Wear
    scene: Scene
    sensor: Sensor


@dataclass
class Picture:
    """`pixels` `[S, S, 3]` uint8; `landmarks` x, y by name and `face_box` x0, y0, x1, y1 in pixels."""

    pixels: np.ndarray
    landmarks: dict[str, np.ndarray]
    face_box: np.ndarray
    exposure: float


def render(head: Head, person: Person, shot: Shot, size: int = 96, exposure: float | None = None) -> Picture:
    """The camera meters the face unless its exposure is given."""
    wear, scene = shot.wear, shot.scene
    model = _dressed(head, person, shot)
    geometry = model.geometry()
    eyes = _turn_head(model, geometry, shot)
    camera, face_box = aim(geometry.points[head.face], scene, size)
    x, y, nearness = camera.project(geometry.points)
    hits, cuts = no_hits(camera.pixels), np.stack(model.cuts)
    holed = np.isin(geometry.material, (HAIR, CLOTH))
    rasterise(
        x,
        y,
        nearness,
        geometry.triangles,
        np.where(holed, geometry.layer, -1),
        geometry.one_sided,
        geometry.uv,
        cuts,
        np.array(model.frays),
        hits,
    )
    light = _lit(model, geometry, cuts, eyes, shot, camera, hits)
    if exposure is None:
        exposure = shot.lighting.exposure * (0.25 / max(_brightness(geometry, hits, light), 0.01)) ** 0.6
    if model.lenses is not None:
        sun = wear.glasses == "sun"
        tint, opacity = (wear.second * 0.06, 0.9) if sun else (np.full(3, 0.3), wear.lens)
        shine = np.array([wear.shine, 0.11, 1.0 + scene.seed % 7])
        blend_lenses(light, x, y, nearness, model.lenses, hits.nearness * 0.999, tint, opacity, shine)
    landmarks = _landmarks(head, geometry, eyes, person.shape.eye_depth, shot.pose, camera)
    pixels = develop(light * (exposure * shot.lighting.balance), shot.sensor, scene, size)
    return Picture(pixels, landmarks, face_box, float(exposure))


def _dressed(head: Head, person: Person, shot: Shot) -> Model:
    wear, look = shot.wear, shot.look
    covered = wear.hat == "headscarf"
    ears = not (covered or look.hair.covers_ears)
    model = start_model(head, person, look, shot.expression, paint_clothes(head, wear, shot.scene), ears)
    lashes, arches = _small_parts(head)
    add_teeth(model, arches)
    add_lashes(model, lashes)
    if not covered:
        add_hair(model, hat_line(model, wear))
    add_beard(model)
    add_hat(model, wear, shot.scene)
    if wear.mask:
        add_mask(model, wear)
    if wear.glasses != "none":
        add_glasses(model, sun=wear.glasses == "sun")
    if wear.prop == "scarf":
        add_scarf(model, wear, shot.scene)
    elif wear.prop != "none":
        add_prop(model, wear, shot.scene)
    return model


@functools.lru_cache(maxsize=2)
def _small_parts(head: Head) -> tuple[LashMap, tuple[Arch, Arch]]:
    """What lashes and teeth of all people are made from."""
    return LashMap(head), (Arch(head, UPPER_TEETH), Arch(head, LOWER_TEETH))


def _turn_head(model: Model, geometry: Geometry, shot: Shot) -> np.ndarray:
    """Turn the head in place, with the middle of the face at the origin; -> the eyes' centres `[2, 3]`."""
    yaw, pitch, roll = np.radians(shot.pose)
    angles = np.array([yaw, pitch, roll])
    twist = np.clip(yaw * (1 - shot.scene.body), -_MOST_TWIST, _MOST_TWIST)  # of the head from the shoulders
    shoulders = np.array([yaw - twist, pitch * 0.15, roll * 0.25])
    turn(geometry.points, geometry.follows, angles, shoulders, PIVOT)
    face = geometry.points[model.head.face]
    middle = (face.max(0) + face.min(0)) / 2
    geometry.points -= middle
    eyes = model.person.shape.eye_centres.copy()
    turn(eyes, np.ones(2), angles, np.zeros(3), PIVOT)
    return eyes - middle


def _normals(head: Head, geometry: Geometry, eyes: np.ndarray) -> np.ndarray:
    """Normals of all vertices; those of the eyeballs are a sphere's."""
    normals = np.zeros_like(geometry.points)
    vertex_normals(geometry.points, geometry.triangles, normals)
    for part, centre in zip((LEFT_EYE, RIGHT_EYE), eyes, strict=True):
        ball = np.flatnonzero(head.part == part)
        outwards = geometry.points[ball] - centre
        normals[ball] = outwards / (np.linalg.norm(outwards, axis=1, keepdims=True) + 1e-9)
    return normals


def _lit(
    model: Model,
    geometry: Geometry,
    cuts: np.ndarray,
    eyes: np.ndarray,
    shot: Shot,
    camera: Camera,
    hits: Hits,
) -> np.ndarray:
    """Linear light `[P, P, 3]` of the whole picture without lenses."""
    lighting, wear, complexion = shot.lighting, shot.wear, model.person.complexion
    skip = ~casts_shadow(model, geometry, cuts)
    shadow, axes = shadow_map(geometry.points, geometry.triangles, skip, lighting.lights[0])
    light = draw_background(shot.scene, camera.pixels).astype(np.float64)
    light *= lighting.backdrop * (0.35 + 0.65 * lighting.sky / 0.55)
    g = geometry
    normals = _normals(model.head, geometry, eyes)
    shade(
        light,
        hits,
        Surface(g.triangles, g.layer, g.material, g.points, normals, g.uv, g.attributes, g.local),
        Palette(
            np.stack(model.albedo),
            np.stack(model.plains),
            complexion.eye,
            shot.look.lip,
            complexion.skin,
            complexion.gloss,
            shot.scene.oil,
            shine_map(model.head),
            _collar(wear),
            model.cloth,
            complexion.teeth,
        ),
        Illumination(lighting.lights, lighting.sky, lighting.ground, shadow, axes, lighting.screen),
        camera.distance,
        _relief(model.person, shot),
    )
    return light


def _relief(person: Person, shot: Shot) -> Relief:
    """Pores and folds of the skin with this expression and pose."""
    up = np.array([[0.0, 1.0, 0.0]])
    turn(up, np.ones(1), np.radians(np.array(shot.pose)), np.zeros(3), np.zeros(3))
    rows, columns = FACE
    return Relief(person.folds.relief(shot.expression.units), rows.start, columns.start, up[0])


def _collar(wear: Wear) -> np.ndarray:
    """Height `[W]` of the shirt's edge round the neck."""
    degrees = np.abs(np.degrees((np.arange(WIDTH) + 0.5) / WIDTH * 2 * np.pi - np.pi))
    v_neck = wear.collar_v * np.clip(1 - degrees / 50, 0, 1)
    return wear.collar - v_neck + 0.3 * wear.turtleneck


def _brightness(geometry: Geometry, hits: Hits, light: np.ndarray) -> float:
    """Mean light of the skin, which the camera meters."""
    skin = (hits.triangle >= 0) & (hits.triangle < (geometry.material == SKIN).sum())
    return float(light[skin].mean()) if skin.any() else 0.2


def _landmarks(
    head: Head, geometry: Geometry, eyes: np.ndarray, eye_depth: float, pose: Pose, camera: Camera
) -> dict[str, np.ndarray]:
    """Eyes: where the optical axis of the eye in its socket leaves it, whatever the gaze."""
    ahead = np.array([[0.0, 0.0, 1.0]])
    turn(ahead, np.ones(1), np.radians(np.array(pose)), np.zeros(3), np.zeros(3))
    fronts = camera.place(eyes + eye_depth * ahead)
    places = camera.place(geometry.points[list(head.landmarks.values())])
    return {"right_eye": fronts[1], "left_eye": fronts[0], **dict(zip(head.landmarks, places, strict=True))}
