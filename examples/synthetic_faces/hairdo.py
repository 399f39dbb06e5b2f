"""Hair on the model: the scalp's shell, the mesh of long hair, a bun, a beard."""

import numpy as np

from synthetic_faces.beard import beard_shell
from synthetic_faces.head import LONG_HAIR
from synthetic_faces.kernels.pixels import HAIR
from synthetic_faces.model import Model
from synthetic_faces.solids import ball
from synthetic_faces.texture import BOTTOM, TOP


def add_hair(model: Model, hat_line: np.ndarray | None) -> None:
    """The hair, pressed down by a hat whose edge is at `hat_line` `[H, W]`."""
    hair, y = model.look.hair, model.head.texel_y
    thick, cut, long_cut = hair.thick, hair.cut, hair.long_cut
    if hat_line is not None:
        most = np.where(y > hat_line - 0.1, np.float32(0.05), np.float32(0.2))
        thick = np.minimum(thick, most)
        cut = np.where(y > hat_line + 0.03, np.float32(-1), cut)
        if long_cut is not None:
            long_cut = np.where(y > hat_line - 0.02, np.float32(-1), long_cut)
    model.add_shell(thick, cut, hair.texture, HAIR, ears=hair.covers_ears)
    if long_cut is not None:
        _add_long_hair(model, long_cut)
    if hair.bun is not None and hat_line is None:
        _add_bun(model, hair.bun)


def _add_long_hair(model: Model, cut: np.ndarray) -> None:
    head = model.head
    model.long_hair = model.add_layer(model.look.hair.texture, cut)
    used = np.flatnonzero(head.part == LONG_HAIR)
    model.add(
        model.points[used],
        head.triangles[LONG_HAIR] - used[0],
        HAIR,
        model.long_hair,
        head.uv[used],
        model.attributes[used],
        follows=head.follows[used],
    )


def _add_bun(model: Model, place: float) -> None:
    points, triangles = ball(np.array([0, 7.3 + 1.2 * place, -0.85 + 0.55 * place]), 0.38)
    layer = model.add_layer(model.look.hair.texture, model.cuts[0])
    across = np.arctan2(points[:, 0], points[:, 2]) / (2 * np.pi) + 0.5
    uv = np.stack([across, np.clip((TOP - points[:, 1]) / (TOP - BOTTOM), 0, 1)], 1)
    model.add(points, triangles, HAIR, layer, uv)


def add_beard(model: Model) -> None:
    """The beard's shell, if it has one."""
    look = model.look
    if look.beard.field is not None:
        texture = look.hair.texture
        thick, cut = beard_shell(model.head, look.beard, look.hair_colour, texture)
        model.add_shell(thick, cut, texture * 0.85, HAIR)
