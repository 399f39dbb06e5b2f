"""What a probe's encoder may be besides weights: a random initialisation, raw pixels, gradient histograms."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

from facepcl.errors import OptionError, require
from facepcl.models.factory import FAMILY, create_model

RANDOM = "random:"
SIDE = 64  # pixels of what the baselines see, as our encoders do


def load_encoder(name: str, seed: int) -> str | nn.Module:
    """`random:NAME` (weights drawn with `seed`), `pixels` or `hog` as a module; other names as they are.

    Raises OptionError for a random model that does not exist, MissingExtra for hog.
    """
    if name in BASELINES:
        return BASELINES[name]()
    if not name.startswith(RANDOM):
        return name
    architecture = name.removeprefix(RANDOM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture in timm.list_models(FAMILY):
            return create_model(architecture, pretrained=False)
        if not timm.is_model(architecture):
            raise OptionError(f"there is no model {architecture!r} to draw random weights for")
        return timm.create_model(architecture, pretrained=False, num_classes=0)


class _Baseline(nn.Module):
    """Takes RGB `[B, 3, 64, 64]` in [0, 1] and gives a map, as the trunk of a model does."""

    def __init__(self, architecture: str, settings: list[int]):
        super().__init__()
        # what it computes is all that its weights' hash can tell it by
        self.register_buffer("settings", torch.tensor(settings, dtype=torch.float32))
        self.pretrained_cfg: dict[str, Any] = {
            "architecture": architecture,
            "input_size": (3, SIDE, SIDE),
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        }

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = True) -> torch.Tensor:
        return maps.flatten(1)


class Pixels(_Baseline):
    """Grey pixels, halved: `[B, 1, 32, 32]`."""

    def __init__(self) -> None:
        super().__init__("pixels", [SIDE // 2])

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x.mean(1, keepdim=True), 2)


class Hog(_Baseline):
    """Histograms of oriented gradients of the grey image, scikit-image's with 8 orientations, cells of 8 px
    and blocks of 2 x 2 cells: `[B, 1568]`."""

    ORIENTATIONS, CELL, BLOCK = 8, 8, 2

    def __init__(self) -> None:
        super().__init__("hog", [self.ORIENTATIONS, self.CELL, self.BLOCK])
        self._hog = require("skimage.feature", "probe").hog

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        cell, block = (self.CELL, self.CELL), (self.BLOCK, self.BLOCK)
        grey = (255 * x).round().double().mean(1).cpu().numpy()  # the bytes again: it has a scale
        rows = [self._hog(g, self.ORIENTATIONS, cell, block) for g in grey]
        return torch.stack([torch.from_numpy(row) for row in rows]).float().to(x.device)


BASELINES = {"pixels": Pixels, "hog": Hog}
