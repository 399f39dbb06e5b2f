"""The three feature maps of PCL: shared trunk, face branch, pose branch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

SLOPE = 0.1  # of every LeakyReLU (METHOD 1)


class Branches(NamedTuple):
    """Shared, face and pose, as maps `[B, C, H, W]` or as codes `[B, D]`."""

    shared: torch.Tensor
    face: torch.Tensor
    pose: torch.Tensor


class BranchOutputs:
    """What encoders with branches have in common: `face` and `pose` read the trunk's last map."""

    __constants__ = ("without_branches",)
    without_branches = "this model has no branches: it was pruned"

    if TYPE_CHECKING:  # torch.jit.script takes annotations here for attributes
        face: nn.Sequential | None
        pose: nn.Sequential | None
        forward_features: Callable[[torch.Tensor], torch.Tensor]

    @torch.jit.export
    def forward_branches(self, x: torch.Tensor) -> Branches:
        """The trunk's map `[B, C, H, W]` and those of the face and pose branches, `[B, 128, H, W]`.

        Raises RuntimeError if the model was made without branches, or pruned: they go with its last stage.
        """
        if self.face is None or self.pose is None:
            raise RuntimeError(self.without_branches)
        shared = self.forward_features(x)
        return Branches(shared, self.face(shared), self.pose(shared))

    def shared_code(self, maps: torch.Tensor) -> torch.Tensor:
        """The trunk's map `[B, C, H, W]` as a code: the mean over positions."""
        return maps.mean((2, 3))

    @torch.jit.export
    def forward_codes(self, x: torch.Tensor) -> Branches:
        """Shared: the `shared_code` of its map; face and pose: the flattened map `[B, 128 H W]`."""
        maps = self.forward_branches(x)
        return Branches(self.shared_code(maps.shared), maps.face.flatten(1), maps.pose.flatten(1))


def make_branch(channels: int, **dd: Any) -> nn.Sequential:
    """Trunk map `[B, channels, H, W]` -> branch map `[B, 128, H, W]`."""
    branch = nn.Sequential(
        nn.Conv2d(channels, 128, 1, **dd),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(128, 128, 3, padding=1, **dd),
        nn.LeakyReLU(SLOPE),
    )
    init_convs(branch)
    return branch


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
