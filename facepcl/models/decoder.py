"""Training-only parts of PCL: the decoder (METHOD 2) and the projection heads (METHOD 3)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

CODE_SIDE = 4
CODE = 2048  # numbers of a code that decoder and heads take: 128 x 4 x 4


def resize_maps(maps: torch.Tensor, side: int = CODE_SIDE) -> torch.Tensor:
    """Maps `[B, C, h, w]` at another `side`, that of decoder and heads, `[B, C, side, side]` (METHOD 11)."""
    if maps.shape[-2:] == (side, side):
        return maps
    if min(maps.shape[-2:]) < side:
        return F.interpolate(maps, (side, side), mode="bilinear")
    if windows := _equal_windows(maps.shape[-2], maps.shape[-1], side):
        return F.avg_pool2d(maps, *windows)
    return F.interpolate(maps, (side, side), mode="area")


def _equal_windows(height: int, width: int, side: int) -> tuple[int, int] | None:
    """Size and stride of the windows that "area" averages, where those are all alike: 3 x 3 to 2 x 2 is a
    pooling then, and not the picking of numbers that OpenCV's classic engine cannot read."""
    starts = [i * height // side for i in range(side)]
    sizes = {-(-(i + 1) * height // side) - start for i, start in enumerate(starts)}
    strides = {b - a for a, b in pairwise(starts)} or {1}
    alike = height == width and len(sizes) == len(strides) == 1
    return (sizes.pop(), strides.pop()) if alike else None


class Decoder(nn.Module):
    """A code `[B, 2048]`, of unit length, -> an image `[B, 3, 64, 64]` in [-1, 1] (METHOD 2).

    The keys are those of the original; the tanh is the original's too, though targets lie in [0, 1] (Q4).
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(CODE, 512)
        layers: list[nn.Module] = []
        widths = (512, 256, 256, 256, 256, 128)
        for c_in, c_out in pairwise(widths):
            layers += [*self._enlarge(c_in, c_out), nn.BatchNorm2d(c_out)]
        self.model = nn.Sequential(*layers, *self._enlarge(128, 3), nn.Tanh())

    @staticmethod
    def _enlarge(c_in: int, c_out: int) -> tuple[nn.Module, ...]:
        return (
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(c_in, c_out, 3, padding=1),
        )

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        return self.model(self.fc(code)[:, :, None, None])


class ProjectionHead(nn.Sequential):
    """A code `[B, 2048]` -> `[B, 512]` for a contrast loss: Linear, ReLU, Linear, BatchNorm (METHOD 3)."""

    def __init__(self, code: int = CODE):
        super().__init__(nn.Linear(code, code), nn.ReLU(), nn.Linear(code, 512), nn.BatchNorm1d(512))
