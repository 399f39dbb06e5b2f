"""3x3 convolutions on tiny maps as matrix products: on some CPUs a ResNet's last stage trains faster."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from facepcl.utils.device import least_seconds, training_pass

MAX_SIDE = 3  # of the output map; on larger ones the library's convolution is faster
REQUIRED = 0.95  # of the time of a pass


class _UnfoldedConv(nn.Conv2d):
    """A convolution that is a matrix product on tiny maps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.training and torch.is_grad_enabled() and x.device.type == "cpu"):
            return super().forward(x)
        return unfolded_conv(self, x) if _is_tiny(self, x) else super().forward(x)


def _is_tiny(layer: nn.Conv2d, x: torch.Tensor) -> bool:
    return max((x.shape[dim] - 1) // layer.stride[0] + 1 for dim in (2, 3)) <= MAX_SIDE


def unfolded_conv(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Apply a 3x3 `layer` with padding 1 to `[B, C, H, W]`; equal up to rounding."""
    stride, (height, width) = layer.stride[0], ((side - 1) // layer.stride[0] + 1 for side in x.shape[2:])
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    taps = [
        padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(3)
        for j in range(3)
    ]
    # channels last, the memory layout of the weights
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(torch.cat(taps, 3), weight, layer.bias).permute(0, 3, 1, 2)


@contextmanager
def unfolded_convs(network: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Compute the 3x3 convolutions of `network` as matrix products on maps of at most 3 x 3 within this
    context, while it trains on a CPU and if `enabled`. Its parameters stay as they are."""
    layers = [layer for layer in network.modules() if enabled and _can_unfold(layer)]
    for layer in layers:
        layer.__class__ = _UnfoldedConv
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Conv2d


def _can_unfold(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and (
        (layer.kernel_size, layer.padding, layer.dilation) == ((3, 3), (1, 1), (1, 1))
        and layer.groups == 1
        and layer.stride[0] == layer.stride[1]
        and layer.padding_mode == "zeros"
    )


def unfolding_pays(network: nn.Module, images: torch.Tensor, dtype: torch.dtype) -> bool:
    """Time forward and backward passes of `images` with and without matrix products."""
    if images.device.type != "cpu" or not _has_tiny_maps(network, images):
        return False

    def one_pass(unfolded: bool) -> None:
        with unfolded_convs(network, unfolded):
            training_pass(network, images, dtype)

    seconds = least_seconds({way: partial(one_pass, way) for way in (False, True)}, rounds=3)
    return seconds[True] < REQUIRED * seconds[False]


@torch.no_grad()
def _has_tiny_maps(network: nn.Module, images: torch.Tensor) -> bool:
    tiny: list[bool] = []

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        tiny.append(_is_tiny(layer, inputs[0]))

    hooks = [m.register_forward_pre_hook(hook) for m in network.modules() if _can_unfold(m)]
    network(images[:2])
    for handle in hooks:
        handle.remove()
    return any(tiny)
