"""Hair on the model: the scalp's shell, the mesh of long hair, a bun, a beard."""

import numpy as np

from synthetic_faces.beard import beard_shell
from synthetic_faces.head import LONG_HAIR
from synthetic_faces.kernels.pixels import HAIR
from synthetic_faces.model import Model
from synthetic_faces.solids import ball
from synthetic_faces.texture import BOTTOM, TOP, smoothstep

_THIN = 0.006  # decimetres across a single hair, or a few together


def add_hair(model: Model, hat_line: np.ndarray | None) -> None:
    """The hair, pressed down by a hat whose edge is at `hat_line` `[H, W]`."""
    hair, y = model.look.hair, model.head.texel_y
    thick, cut, long_cut = hair.thick, hair.cut, hair.long_cut
    if hat_line is not None:
        most = np.where(y > hat_line - 0.1, np.float32(0.05), np.float32(0.2))
        thick = np.minimum(thick, most)
        cut = np.where(y > hat_line + 0.03, np.float32(-1), cut)
        if long_cut is not None:
            long_cut = np.where(y > hat_line - 0.02, np.float32(-90), long_cut)  # degrees
    fray = 0.05 if hair.fringe == "none" else 0.07  # decimetres
    shell = model.add_shell(thick, cut, hair.texture, HAIR, ears=hair.covers_ears, fray=fray)
    if hat_line is None:
        _add_strays(model, *shell)
    if long_cut is not None:
        _add_long_hair(model, long_cut)
    if hair.bun is not None and hat_line is None:
        _add_bun(model, hair.bun)


def _add_strays(model: Model, points: np.ndarray, used: np.ndarray, layer: int) -> None:
    """Single hairs that stand off the shell: roots on it, bent ribbons that turn their side to the front."""
    head, hair = model.head, model.look.hair
    grows = np.flatnonzero((hair.cut[head.texel][used] > 0.1) & (head.vertices[used, 1] > 7.2))
    if not len(grows) or not len(hair.strays):
        return
    pick, length, lift, aside, bend, shade = hair.strays.T
    root = grows[(pick * len(grows)).astype(int)]
    start = points[root]
    outwards = start - [0, 7.3, 0.25]
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True) + 1e-9
    curly = hair.style in ("curly", "afro")
    reach = (0.07 + 0.17 * length) * (0.9 if hair.long_cut is not None else 1.0)
    if hair.long_cut is None:  # short at the sides and the nape
        reach *= 0.3 + 0.7 * smoothstep(7.2, 8.0, head.vertices[used[root], 1])
    away = outwards * (0.1 + (1.0 if curly else 0.4) * lift)[:, None]
    fall = np.stack([1.6 * (aside - 0.5), -(0.6 + 0 * lift) + 0.9 * curly, 0.4 * (shade - 0.5)], 1)
    middle = start + (0.7 * away + 0.45 * fall) * reach[:, None]
    end = middle + (away * (0.9 - bend[:, None]) + 0.6 * fall) * reach[:, None]
    ribbons = np.stack([start, middle, end], 1)  # [N, 3, 3]
    along = ribbons[:, 2] - ribbons[:, 0]
    side = np.stack([along[:, 1], -along[:, 0], np.zeros(len(along))], 1)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    width = side[:, None] * (_THIN / 2 * np.array([1.0, 0.9, 0.3]))[:, None]
    corners = np.concatenate([ribbons - width, ribbons + width], 1).reshape(-1, 3)
    a = 6 * np.arange(len(start))[:, None]
    triangles = np.concatenate([a + t for t in ([0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4])])
    model.add(corners, triangles, HAIR, layer, np.repeat(head.uv[used[root]], 6, 0))


def _add_long_hair(model: Model, cut: np.ndarray) -> None:
    head = model.head
    model.long_hair = model.add_layer(model.look.hair.texture, cut, 3.5)
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
        model.add_shell(thick, cut, texture * 0.85, HAIR, fray=0.15)
