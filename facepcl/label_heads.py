"""Training-only heads that read labels from the two branches (METHOD 10)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from facepcl.chance import WHOLE, full_precision
from facepcl.losses import supervised_contrast

IDENTITY_WIDTH = 128
POSE_SCALE = 45.0  # degrees that count as 1


class LabelHead(nn.Module):
    """Branch map `[B, C, H, W]` -> `[B, out]`: area pooling to 2 x 2, BatchNorm, times 0.05, Linear.

    Unscaled, 2,048 inputs of unit variance would move the output by O(1) in one step of Adam at 1e-3.
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(4 * channels)
        self.linear = nn.Linear(4 * channels, out)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.linear(0.05 * self.norm(full_precision(F.adaptive_avg_pool2d(maps, 2).flatten(1))))


class LabelHeads(nn.Module):
    """Heads for the labels that the data has: face -> au, expression, identity; pose -> pose.

    `outputs` maps each label to the number of its values: action units, classes, 128, 3 angles.
    """

    def __init__(self, outputs: dict[str, int], channels: int = 128):
        super().__init__()
        self.heads = nn.ModuleDict({label: LabelHead(channels, count) for label, count in outputs.items()})

    def forward(self, face: torch.Tensor, pose: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predictions of each label from the branch maps `[B, C, H, W]`."""
        return {label: head(pose if label == "pose" else face) for label, head in self.heads.items()}


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
