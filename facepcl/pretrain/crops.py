"""Which part of an image a view shows: quadrants, as PCL has them, or squares anywhere, at any angle."""

import torch
import torch.nn.functional as F

from facepcl.pretrain.rng import uniform

CROP = 0.2  # half the side of a quadrant crop, in sides of the image
AREA = (0.25, 1.0)  # of a whole-face crop, in areas of the largest square


def crop_ranges(size: int) -> tuple[int, int, int, int]:
    """Inclusive ranges of a crop's centre along a side of `size`: (low, high) of the first and second
    half."""
    half = int(CROP * size)
    return half, size // 2 - half, size // 2 + half, size - half


def crop_around(images: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Crops of 0.4 sides around `centres` `[B, 2]` (x, y) of uint8 images `[B, 3, H, W]`."""
    height, width = images.shape[-2:]
    half_h, half_w = int(CROP * height), int(CROP * width)
    rows = centres[:, 1, None] + torch.arange(-half_h, half_h)
    columns = centres[:, 0, None] + torch.arange(-half_w, half_w)
    index = torch.arange(len(images))
    return images.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def quadrant_centres(count: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Centres `[2, count, 2]` (x, y) of two crops in two different quadrants of each image (METHOD 5)."""
    quadrants = torch.rand(count, 4, generator=generator).argsort(1)[:, :2].T  # an ordered pair of four
    halves = torch.stack([quadrants % 2, quadrants // 2], -1)  # right?, lower?
    draws = torch.rand(2, count, 2, generator=generator)
    bounds = torch.tensor([crop_ranges(width), crop_ranges(height)])  # [x or y, 4]
    low = torch.where(halves == 0, bounds[:, 0], bounds[:, 2])
    high = torch.where(halves == 0, bounds[:, 1], bounds[:, 3])
    return low + (draws * (high - low + 1)).long()


def whole_squares(
    count: int, height: int, width: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random squares of an image, of 25 to 100 % of the largest one: centres `[count, 2]` (x, y), half sides
    `[count]` in pixels, and which of them are mirrored `[count]`: every other one by chance."""
    half = uniform(count, *AREA, generator).sqrt() * min(height, width) / 2
    room = torch.tensor([width, height]) - 2 * half[:, None]
    centres = half[:, None] + torch.rand(count, 2, generator=generator) * room
    return centres, half, torch.rand(count, generator=generator) < 0.5


def crop_squares(
    images: torch.Tensor,
    centre: torch.Tensor,
    half: torch.Tensor,
    angle: torch.Tensor,
    mirrored: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Turned squares of uint8 images `[B, 3, H, W]` -> float `[B, 3, size, size]` in [0, 1]; outside, the
    edge goes on.

    `centre` `[B, 2]` and `half` `[B]` in pixels; `angle` `[B]` in radians: the image's direction,
    clockwise, that becomes horizontal. Sampled at twice the size and halved, so that shrinking does not
    alias.
    """
    height, width = images.shape[-2:]
    cos, sin = angle.cos() * half, angle.sin() * half
    flip = torch.where(mirrored, -1.0, 1.0)
    rows = torch.stack([cos * flip, -sin, centre[:, 0], sin * flip, cos, centre[:, 1]], 1).view(-1, 2, 3)
    scale = torch.tensor([2 / width, 2 / height]).view(1, 2, 1)
    theta = rows * scale - torch.tensor([[0.0, 0.0, 1.0]])
    grid = F.affine_grid(theta, [len(images), 3, 2 * size, 2 * size], align_corners=False).to(images.device)
    return F.avg_pool2d(
        F.grid_sample(
            images.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False
        ),
        2,
    )
