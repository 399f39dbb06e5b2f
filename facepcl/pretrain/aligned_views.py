"""Views of aligned face crops, their heads turned by known angles (METHOD 14)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from facepcl.images.geometry import HALF_SIDE
from facepcl.pretrain.augment import apply_chain, draw_chain, to_float
from facepcl.pretrain.rng import WHOLE, uniform

HALF, SD_SHIFT, SD_ROLL = (0.65, 1.1), 0.08, 8.0  # in halves of the crop's side; degrees
PITCH = 0.7  # the largest pitch, as a fraction of the largest yaw
HEAD = tuple(axis / HALF_SIDE for axis in (1.35, 1.75, 1.15))  # semi-axes, in halves of the crop's side


class AlignedViews(NamedTuple):
    """Views `[b, 3, S, S]` in [0, 1]; the yaw, pitch and roll in degrees by which each head was turned
    `[b, 3]`; and whether the result was then mirrored `[b]`."""

    images: torch.Tensor
    turned: torch.Tensor
    mirrored: torch.Tensor


def aligned_views(
    images: torch.Tensor,
    size: int,
    generator: torch.Generator,
    part: slice = WHOLE,
    count: int | None = None,
    turn: float = 20.0,
) -> AlignedViews:
    """One view of each aligned crop: scaled, shifted, turned as an ellipsoid is, mirrored or not, with the
    colours and blur of METHOD 5.

    Args:
        images: uint8 `[b, 3, H, W]`, aligned as for embedding.
        size: Side of the views in pixels.
        generator: A CPU generator.
        part: The slice of a batch that `images` are; their views do not depend on it.
        count: Images of the whole batch.
        turn: The largest yaw in degrees.
    """
    count = len(images) if count is None else count
    half, shift = uniform(count, *HALF, generator), SD_SHIFT * torch.randn(count, 2, generator=generator)
    yaw, pitch = (uniform(count, -most, most, generator) for most in (turn, PITCH * turn))
    turned = torch.stack([yaw, pitch, SD_ROLL * torch.randn(count, generator=generator)], 1)
    mirrored = torch.rand(count, generator=generator) < 0.5
    chain = draw_chain(count, generator, edges=0.0).of(part, 1)
    half, shift, turned, mirrored = (draws[part] for draws in (half, shift, turned, mirrored))
    # sampled at twice the size and halved, against aliasing
    grid = _sources(2 * size, half, shift, turned.deg2rad(), mirrored).to(images.device)
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    levels = F.avg_pool2d(sampled, 2).round().to(torch.uint8)
    return AlignedViews(to_float(apply_chain(levels, chain)), turned, mirrored)


def _sources(
    size: int, half: torch.Tensor, shift: torch.Tensor, turned: torch.Tensor, mirrored: torch.Tensor
) -> torch.Tensor:
    """Where in its crop (-1 to 1) each pixel of a view comes from, `[b, size, size, 2]`.

    The head is the front of an ellipsoid around the vertical axis through the crop's centre; what lies beside
    it turns like its rim. Positive angles are those of METHOD 10.
    """
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    x, y = line.view(1, 1, -1) * half.view(-1, 1, 1), line.view(1, -1, 1) * half.view(-1, 1, 1)
    yaw, pitch, roll = turned.view(-1, 3, 1, 1).unbind(1)
    x = torch.where(mirrored.view(-1, 1, 1), -x, x)
    x, y = roll.cos() * x + roll.sin() * y, roll.cos() * y - roll.sin() * x
    x, y = x + shift[:, 0].view(-1, 1, 1), y + shift[:, 1].view(-1, 1, 1)
    depth = HEAD[2] * ((1 - (x / HEAD[0]) ** 2 - (y / HEAD[1]) ** 2).clamp_min(0).sqrt() - 1)
    x, depth = yaw.cos() * x - yaw.sin() * depth, yaw.sin() * x + yaw.cos() * depth
    y = pitch.cos() * y + pitch.sin() * depth
    return torch.stack([x, y], 3)
