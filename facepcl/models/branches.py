"""The three feature maps of PCL: shared trunk, face branch, pose branch."""

from typing import NamedTuple

import torch
from torch import nn

SLOPE = 0.1  # of every LeakyReLU (METHOD 1)


class Branches(NamedTuple):
    """Shared, face and pose, as maps `[B, C, H, W]` or as codes `[B, D]`."""

    shared: torch.Tensor
    face: torch.Tensor
    pose: torch.Tensor


def is_branch(key: str) -> bool:
    """Whether a state-dict key belongs to a branch and not to the trunk."""
    return key.startswith(("face.", "pose."))


def leave_to_forward_branches(model: nn.Module) -> None:
    """Tell DistributedDataParallel that `forward` of `model` uses no branch: it would wait for their
    gradients for ever, and raises at the second step."""
    names = [name for name, _ in model.named_parameters() if is_branch(name)]
    if names:
        model._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]


def full_precision(x: torch.Tensor) -> torch.Tensor:
    """Half precision taken up to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def init_convs(network: nn.Module) -> None:
    """Fill every convolution of `network`: weight ~ N(0, 2 / (k k C_out)), bias 0 (METHOD 1)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
