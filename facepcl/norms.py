"""Running statistics of batch norms, estimated anew before an encoder is released (METHOD 8)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from facepcl import views

IMAGES, BATCH = 2048, 64


@torch.no_grad()
def refresh_norms(encoder: Any, sample: Callable[[int], torch.Tensor], size: int) -> None:
    """Set every BatchNorm2d's running statistics to their mean over clean whole images, of which
    `sample` gives about so many, as uint8 `[N, 3, S, S]`.

    While training they are an average over noisy images, crops and views. Does nothing to an encoder
    without any.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    encoder.train()
    device = next(encoder.parameters()).device
    for block in sample(IMAGES).split(BATCH):
        if len(block) > 1:
            encoder.forward_features(views.to_float(views.resize(block.to(device), size)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
