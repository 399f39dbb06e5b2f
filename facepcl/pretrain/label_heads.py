"""Training of the heads that read labels and identity (METHOD 10); as linear layers they travel with the
encoder (`facepcl.models.heads`)."""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from facepcl.models.branches import Branches
from facepcl.models.decoder import CODE_SIDE
from facepcl.models.heads import Heads, HeadSpec, head_input
from facepcl.pretrain.losses import supervised_contrast
from facepcl.pretrain.rng import WHOLE

IDENTITY_WIDTH = 256
POSE_SCALE = 45.0  # degrees that count as 1
LABEL_SIDE = 2  # of the map that label heads read

# Which map the head of a label reads, and what follows its linear layer when it is released.
KINDS = {
    "au": ("face", "clamp"),
    "expression": ("face", "softmax"),
    "identity": ("shared", "unit"),
    "pose": ("pose", "none"),
}

Outputs = Mapping[str, tuple[str, ...] | int]  # names of what a head predicts, or their number


class LabelHead(nn.Module):
    """`[B, D]` -> `[B, out]`: BatchNorm, times 0.05, Linear.

    Unscaled, 2,048 inputs of unit variance would move the output by O(1) in one step of Adam at 1e-3.
    """

    SCALE = 0.05

    def __init__(self, inputs: int, out: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.linear = nn.Linear(inputs, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.SCALE * self.norm(x))

    def as_linear(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias, in float64, of the linear layer that this is in evaluation mode."""
        scale, shift = _as_affine(self.norm)
        weight = self.linear.weight.double() * self.SCALE
        return weight * scale, self.linear.bias.double() + weight @ shift


class IdentityHead(nn.Module):
    """`[B, D]` -> `[B, out]`, compared by cosine: BatchNorm, Linear, BatchNorm, neither of the norms affine.

    The output does not depend on the scale of the weights; their standard deviation says how far a step of
    Adam turns them. PyTorch's own would be 4 % a step, and nothing is learned.
    """

    DEVIATION = 0.1

    def __init__(self, inputs: int, out: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs, affine=False)
        self.linear = nn.Linear(inputs, out, bias=False)
        self.out = nn.BatchNorm1d(out, affine=False)
        nn.init.normal_(self.linear.weight, std=self.DEVIATION)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.linear(self.norm(x)))

    def as_linear(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias, in float64, of the linear layer that this is in evaluation mode."""
        (scale, shift), (out_scale, out_shift) = _as_affine(self.norm), _as_affine(self.out)
        weight = self.linear.weight.double() * out_scale[:, None]
        return weight * scale, out_shift + weight @ shift


def _as_affine(norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of a batch norm in evaluation mode, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


class LabelHeads(nn.Module):
    """Heads for the labels that the data has: face -> au, expression; pose -> pose; shared -> identity.

    Args:
        outputs: What is predicted, by label: names of the action units and of the classes, the three angles,
            the width of the identity.
        channels: Channels of the map of each branch, by its name.
        shared_width: Length of the encoder's shared code at a side of 4. The identity head reads that code,
            which is what is compared: the map flattened, or averaged.
    """

    def __init__(self, outputs: Outputs, channels: Mapping[str, int], shared_width: int):
        super().__init__()
        sides = {"identity": CODE_SIDE if shared_width > channels["shared"] else 1}
        self.specs = {
            label: HeadSpec(KINDS[label][0], sides.get(label, LABEL_SIDE), KINDS[label][1], named)
            for label, named in outputs.items()
        }
        self.heads = nn.ModuleDict()
        for label, spec in self.specs.items():
            kind = IdentityHead if label == "identity" else LabelHead
            self.heads[label] = kind(channels[spec.input] * spec.side**2, spec.width)

    def forward(self, maps: Branches) -> dict[str, torch.Tensor]:
        """Predictions of each label from the maps `[B, C, H, W]`, without activations, angles over 45
        degrees."""
        return {label: head(head_input(maps, self.specs[label])) for label, head in self.heads.items()}

    def as_linear(self) -> Heads:
        """The heads as they travel with the encoder: linear layers in float32, angles in degrees."""
        state: dict[str, torch.Tensor] = {}
        for label, head in copy.deepcopy(self.heads).cpu().items():  # Apple's GPUs have no float64
            weight, bias = head.as_linear()  # type: ignore[operator]
            scale = POSE_SCALE if label == "pose" else 1.0
            state |= {f"{label}.weight": scale * weight, f"{label}.bias": scale * bias}
        heads = Heads(self.specs, {label: state[f"{label}.weight"].shape[1] for label in self.specs})
        heads.load_state_dict(state)
        return heads.eval()


def label_losses(
    predictions: dict[str, torch.Tensor], targets: dict[str, torch.Tensor], part: slice = WHOLE
) -> dict[str, torch.Tensor]:
    """Unweighted loss of each label, over the images that carry it (METHOD 10): the share of a `part` of
    the batch.

    Targets are those of the whole batch: `au` `[B, A]` in 0..1 (NaN rows unknown), `expression` and
    `identity` `[B]` (-1 unknown), `pose` `[B, 3]` yaw, pitch, roll in degrees (NaN unknown). So are the
    predictions of `identity`, which compares images; the others are those of the part.
    """
    found = {}
    if "au" in predictions:
        found["au"] = _known_mean(F.mse_loss, predictions["au"], targets["au"], part)
    if "expression" in predictions:
        count = (targets["expression"] >= 0).sum().clamp_min(1)
        total = F.cross_entropy(
            predictions["expression"], targets["expression"][part], ignore_index=-1, reduction="sum"
        )
        found["expression"] = total / count
    if "identity" in predictions:
        found["identity"] = supervised_contrast(predictions["identity"], targets["identity"], part=part)
    if "pose" in predictions:
        smooth_l1 = partial(F.smooth_l1_loss, beta=0.1)
        found["pose"] = _known_mean(smooth_l1, predictions["pose"], targets["pose"] / POSE_SCALE, part)
    return found


def _known_mean(
    loss: Callable[..., torch.Tensor], prediction: torch.Tensor, target: torch.Tensor, part: slice
) -> torch.Tensor:
    """The share of a part in the mean `loss` over the entries of `target` that are not NaN; 0 if there are
    none."""
    known = ~target.isnan()
    own = loss(prediction[known[part]], target[part][known[part]], reduction="sum")
    return own / known.sum().clamp_min(1)
