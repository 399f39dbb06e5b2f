"""Baseline encoders: random initialisation, raw pixels, histograms of gradients."""

from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

from facepcl.errors import require
from facepcl.models.factory import create_model, unknown_model
from facepcl.models.registry import MODELS

RANDOM = "random:"
SIDE = 64  # pixels, as for our encoders


def load_encoder(name: str, seed: int) -> str | nn.Module:
    """`random:NAME` (weights drawn with `seed`), `pixels` or `hog` as a module; other names unchanged.

    Raises OptionError for an unknown random model, MissingExtra for hog.
    """
    if name in BASELINES:
        return BASELINES[name]()
    if not name.startswith(RANDOM):
        return name
    architecture = name.removeprefix(RANDOM)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        if architecture in MODELS:
            return create_model(architecture, pretrained=False)
        if not timm.is_model(architecture):
            raise unknown_model(architecture, timm.list_models())
        return timm.create_model(architecture, pretrained=False, num_classes=0)


class Baseline(nn.Module):
    """RGB `[B, 3, 64, 64]` in [0, 1] to fixed `features`, shaped like a trunk of timm."""

    def __init__(
        self, architecture: str, settings: list[int], features: Callable[[torch.Tensor], torch.Tensor]
    ):
        super().__init__()
        self.forward_features = features
        # the hash of the weights must identify what is computed
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


def pixels() -> Baseline:
    """Grey pixels at half size: `[B, 1, 32, 32]`."""
    return Baseline("pixels", [SIDE // 2], lambda x: F.avg_pool2d(x.mean(1, keepdim=True), 2))


def hog() -> Baseline:
    """Histograms of oriented gradients of the grey image by scikit-image, with 8 orientations, cells of 8 px
    and blocks of 2 x 2 cells: `[B, 1568]`."""
    orientations, cell, block = 8, 8, 2
    histograms = require("skimage.feature", "probe").hog

    def features(x: torch.Tensor) -> torch.Tensor:
        grey = (255 * x).round().double().mean(1).cpu().numpy()  # in bytes: it depends on the scale
        rows = [histograms(image, orientations, (cell, cell), (block, block)) for image in grey]
        return torch.stack([torch.from_numpy(row) for row in rows]).float().to(x.device)

    return Baseline("hog", [orientations, cell, block], features)


BASELINES = {"pixels": pixels, "hog": hog}
