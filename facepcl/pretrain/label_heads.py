"""Heads and losses for labels and identity (METHOD 10). They are released as linear layers
(`facepcl.models.heads`)."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from facepcl.models.branches import Branches
from facepcl.models.decoder import CODE_SIDE
from facepcl.models.heads import Heads, HeadSpec, head_input
from facepcl.pretrain.losses import supervised_contrast
from facepcl.pretrain.rng import WHOLE

IDENTITY_WIDTH = 256
IDENTITY_CODES = ("identity", "shared_identity")  # contrasted over the whole batch
POSE_SCALE = 45.0  # degrees per unit of the output
LABEL_SIDE = 2  # of the map that label heads pool

# The map that the head of a label reads, and the activation of the released head.
KINDS = {
    "au": ("face", "clamp"),
    "expression": ("face", "softmax"),
    "identity": ("shared", "unit"),
    "pose": ("pose", "none"),
}

Outputs = Mapping[str, tuple[str, ...] | int]  # by label: the names of the outputs, or their number


class LabelHead(nn.Module):
    """`[B, D]` -> `[B, out]`: BatchNorm, times 0.05, Linear.

    Without the factor, 2,048 inputs of unit variance move the output by O(1) in an Adam step at 1e-3.
    """

    SCALE = 0.05

    def __init__(self, inputs: int, out: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.linear = nn.Linear(inputs, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.SCALE * self.norm(x))

    @torch.no_grad()
    def start_from(self, weight: torch.Tensor, bias: torch.Tensor, inputs: torch.Tensor) -> None:
        """Compute what a linear layer does, on batches with the statistics of `inputs` `[N, D]`."""
        self.linear.weight.copy_(weight * inputs.std(0) / self.SCALE)
        self.linear.bias.copy_(bias + weight @ inputs.mean(0))

    def as_linear(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of this head in evaluation mode, folded into one linear layer, in float64."""
        return _fold(self.norm, self.linear.weight.double() * self.SCALE, self.linear.bias.double())


class IdentityHead(nn.Module):
    """`[B, D]` -> `[B, out]`, compared by cosine: BatchNorm, Linear, BatchNorm, both without affine.

    The output is invariant to the scale of the weights, so their initial standard deviation sets the relative
    step of Adam. With PyTorch's default that is 4 % per step, and nothing is learned.
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

    @torch.no_grad()
    def start_from(self, weight: torch.Tensor, bias: torch.Tensor, inputs: torch.Tensor) -> None:
        """As `LabelHead.start_from`; the second batch norm makes up for scale and bias."""
        weight = weight * inputs.std(0)
        self.linear.weight.copy_(self.DEVIATION * weight / weight.std())

    def as_linear(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LabelHead.as_linear`."""
        scale, shift = _as_affine(self.out)
        return _fold(self.norm, self.linear.weight.double() * scale[:, None], shift)


def _fold(
    norm: nn.BatchNorm1d, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold a batch norm in evaluation mode into the linear layer after it."""
    scale, shift = _as_affine(norm)
    return weight * scale, bias + weight @ shift


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
    """Heads for the labels in the data: face -> au, expression; pose -> pose; shared -> identity.

    `channels` are those of each branch's map. The identity head reads the encoder's shared code of a 4 x 4
    map, flattened or averaged to `shared_width` numbers, since users compare it.
    """

    def __init__(self, outputs: Outputs, channels: Mapping[str, int], shared_width: int):
        super().__init__()
        sides = {"identity": CODE_SIDE if shared_width > channels["shared"] else 1}
        self.specs = {
            label: HeadSpec(KINDS[label][0], sides.get(label, LABEL_SIDE), KINDS[label][1], names)
            for label, names in outputs.items()
        }
        self.heads = nn.ModuleDict()
        for label, spec in self.specs.items():
            head_class = IdentityHead if label == "identity" else LabelHead
            self.heads[label] = head_class(channels[spec.input] * spec.side**2, spec.width)

    def forward(self, maps: Branches) -> dict[str, torch.Tensor]:
        """Predict each label from maps `[B, C, H, W]`: without activations, angles in units of 45 degrees.
        Beside the identity embedding, `shared_identity` is the shared code that its head reads."""
        predictions = {label: head(head_input(maps, self.specs[label])) for label, head in self.heads.items()}
        if "identity" in predictions:
            predictions["shared_identity"] = head_input(maps, self.specs["identity"])
        return predictions

    def start_from(self, released: Heads, maps: Branches) -> None:
        """Take over the `released` heads that have the same description, for inputs like `maps`."""
        for label, spec in released.specs.items():
            if spec == self.specs.get(label):
                layer: Any = released.get_submodule(label)
                scale = POSE_SCALE if label == "pose" else 1.0
                inputs = head_input(maps, spec)
                head: Any = self.heads[label]
                head.start_from(*(p.to(inputs) / scale for p in (layer.weight, layer.bias)), inputs)

    def as_linear(self) -> Heads:
        """The heads to release: linear layers in float32, angles in degrees."""
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
    """The unweighted loss of each label: the mean over the images that have it (METHOD 10), of which the
    terms of the samples `part`.

    Args:
        predictions: Of `LabelHeads`, of the samples `part`; of `IDENTITY_CODES`, which compare images, of
            the whole batch.
        targets: Of the whole batch: `au` `[B, A]` in 0..1, `pose` `[B, 3]` yaw, pitch, roll in degrees (NaN
            unknown), `expression` and `identity` `[B]` (-1 unknown).
        part: A slice of the batch.
    """
    losses = {}
    if "au" in predictions:
        losses["au"] = _known_mean(F.mse_loss, predictions["au"], targets["au"], part)
    if "expression" in predictions:
        classes = targets["expression"]
        summed = F.cross_entropy(predictions["expression"], classes[part], ignore_index=-1, reduction="sum")
        losses["expression"] = summed / (classes >= 0).sum().clamp_min(1)
    if "identity" in predictions:
        losses["identity"] = supervised_contrast(predictions["identity"], targets["identity"], part=part)
    if "shared_identity" in predictions:
        centred = predictions["shared_identity"] - predictions["shared_identity"].mean(0)
        losses["shared_identity"] = supervised_contrast(centred, targets["identity"], part=part)
    if "pose" in predictions:
        smooth_l1 = partial(F.smooth_l1_loss, beta=0.1)
        losses["pose"] = _known_mean(smooth_l1, predictions["pose"], targets["pose"] / POSE_SCALE, part)
    return losses


def _known_mean(
    loss: Callable[..., torch.Tensor], prediction: torch.Tensor, target: torch.Tensor, part: slice
) -> torch.Tensor:
    """The terms of the samples `part` in the mean `loss` over the entries of `target` that are not NaN."""
    known = ~target.isnan()
    summed = loss(prediction[known[part]], target[part][known[part]], reduction="sum")
    return summed / known.sum().clamp_min(1)
