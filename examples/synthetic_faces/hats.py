"""Hats, scarves and masks as shells of cloth."""

import cv2
import numpy as np

from synthetic_faces.kernels.pixels import CLOTH, PLAIN
from synthetic_faces.model import Model
from synthetic_faces.scene import Scene
from synthetic_faces.solids import strip
from synthetic_faces.texture import noise, plain, smoothstep
from synthetic_faces.wear import Wear

_EDGES = {"beanie": 7.66, "cap": 7.78}


def hat_line(model: Model, wear: Wear) -> np.ndarray | None:
    """Height `[H, W]` of the edge of a hat that presses the hair down, None for other hats."""
    if wear.hat not in _EDGES:
        return None
    around = 0.0025 * np.clip(_degrees(model), 0, 130)
    return (_EDGES[wear.hat] + wear.hat_low - around).astype(np.float32)


def _degrees(model: Model) -> np.ndarray:
    return np.abs(np.degrees(model.head.texel_angle))


def add_hat(model: Model, wear: Wear, scene: Scene) -> None:
    """Whatever is on the head."""
    if wear.hat == "beanie":
        _add_beanie(model, wear)
    elif wear.hat == "cap":
        _add_cap(model, wear)
    elif wear.hat == "headband":
        _add_headband(model, wear)
    elif wear.hat == "headscarf":
        _add_headscarf(model, wear, scene)


def _add_beanie(model: Model, wear: Wear) -> None:
    y, line = model.head.texel_y, hat_line(model, wear)
    cloth = plain(wear.colour)
    cloth *= (1 + 0.2 * np.sin(model.head.texel_angle * wear.rib))[..., None]
    rolled = y < line + 0.25
    cloth = np.where(rolled[..., None], cloth * 0.85, cloth)
    thick = 0.09 + 0.05 * rolled + 0.15 * smoothstep(7.9, 8.5, y)
    model.add_shell(
        thick.astype(np.float32), (y - line).astype(np.float32), cloth.astype(np.float32), CLOTH, 12
    )


def _add_cap(model: Model, wear: Wear) -> None:
    head, line = model.head, hat_line(model, wear)
    y, angle = head.texel_y, head.texel_angle
    cloth = plain(wear.colour)
    cloth *= (1 - 0.35 * (np.abs(np.sin(angle * 3)) < 0.03))[..., None]
    if wear.badge:
        cloth[(_degrees(model) < 14) & (np.abs(y - line - 0.3) < 0.14)] = wear.second
    thick = 0.08 + 0.07 * smoothstep(7.9, 8.5, y)
    model.add_shell(
        thick.astype(np.float32), (y - line).astype(np.float32), cloth.astype(np.float32), CLOTH, 12
    )
    _, front_y, front_z = model.person.shape.points[head.nearest(0, _EDGES["cap"] + wear.hat_low, 1.5)]
    a = np.linspace(-0.95, 0.95, 15)
    inner = np.stack([np.sin(a) * 0.78, np.full(15, front_y + 0.02), front_z - 0.98 + np.cos(a) * 1.02], 1)
    brim_y, brim_z = inner[:, 1] - 0.10 - 0.12 * np.cos(a), front_z - 0.9 + np.cos(a) * 1.65
    outer = np.stack([np.sin(a) * 0.92, brim_y, brim_z], 1)
    model.add(*strip(inner, outer), PLAIN, model.add_plain(wear.colour * 0.8, 0.02))


def _add_headband(model: Model, wear: Wear) -> None:
    line = 7.86 + wear.hat_low - 0.002 * _degrees(model)
    thick = cv2.GaussianBlur(model.look.hair.thick, (0, 0), 3) + 0.05
    cut = (0.13 - np.abs(model.head.texel_y - line)).astype(np.float32)
    model.add_shell(thick.astype(np.float32), cut, plain(wear.colour), CLOTH)


def _add_headscarf(model: Model, wear: Wear, scene: Scene) -> None:
    head, y = model.head, model.head.texel_y
    beside = _degrees(model) >= 75
    tall = np.where(y > 7, 0.9, 0.8)
    from_face = np.sqrt((head.texel_x / 0.66) ** 2 + ((y - 7.0 - wear.hat_low) / tall) ** 2)
    from_face = from_face * ~beside + 9.0 * beside
    folds = noise(np.random.Generator(np.random.PCG64(scene.seed)), 5, 14)
    cloth = model.look.headscarf.astype(np.float32) * np.clip(1 + 0.10 * folds, 0.5, 1.5)[..., None]
    model.cuts[0] = np.where((from_face > 1.15) & (y > 5.85), -1, 0).astype(np.float32)
    cut = ((from_face - 1.0) * 0.5).astype(np.float32)
    thick = (0.15 + 0.02 * folds).astype(np.float32)
    model.add_shell(thick, cut, cloth.astype(np.float32), CLOTH, 6, ears=True)


def add_mask(model: Model, wear: Wear) -> None:
    """A mask over nose and mouth."""
    y = model.head.texel_y
    inside = 1.0 - (np.abs(model.head.texel_x) / 0.66) ** 4 - (np.abs(y - 6.62) / 0.46) ** 4
    cloth = plain(wear.second * 0.3 + 0.45)
    cloth *= (1 - 0.12 * (np.abs(np.sin((y - 6.6) * 22)) < 0.15))[..., None]
    thick = (0.10 * smoothstep(0.0, 0.6, inside)).astype(np.float32) + 0.02
    cut = np.where(_degrees(model) < 90, inside * 0.5, -1).astype(np.float32)
    model.add_shell(thick, cut, cloth.astype(np.float32), CLOTH, 30)


def add_scarf(model: Model, wear: Wear, scene: Scene) -> None:
    """A scarf round the neck, up to the chin, the mouth or the nose."""
    rng, y = scene.stream(14), model.head.texel_y
    folds = noise(rng, 12, 3)
    line = rng.uniform(6.2, 6.75) - 0.0015 * _degrees(model) * rng.uniform(-0.5, 2)
    cloth = plain(wear.second) * np.clip(1 + 0.2 * folds, 0.4, 1.6)[..., None]
    if rng.random() < 0.4:
        cloth = np.where((np.sin(y * rng.uniform(20, 60)) > 0.5)[..., None], wear.colour, cloth)
    thick = (0.13 + 0.045 * folds + 0.12 * smoothstep(6.5, 5.9, y)).astype(np.float32)
    cut = ((line + 0.04 * folds - y) * 0.7).astype(np.float32)
    model.add_shell(thick, cut, cloth.astype(np.float32), CLOTH, 40)
