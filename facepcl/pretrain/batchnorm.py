"""Running statistics of batch norms, estimated again before an encoder is released (METHOD 8)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from facepcl.pretrain import augment

IMAGES, BATCH = 2048, 64


@torch.no_grad()
def refresh_norms(networks: Any, sample: Callable[[int], torch.Tensor], size: int) -> None:
    """Set the running statistics of the encoder's and then of the label heads' batch norms to their means
    over clean images, of which `sample` gives about so many, as uint8 `[N, 3, S, S]`.

    While training they are averages over noisy images, crops and views. Does nothing to networks without
    batch norms there.
    """
    encoder, heads = networks.encoder, getattr(networks, "label_heads", None)
    device = next(encoder.parameters()).device

    def batches() -> Iterator[torch.Tensor]:
        for block in sample(IMAGES).split(BATCH):
            if len(block) > 1:
                yield augment.to_float(augment.resize(block.to(device), size))

    with _collecting(encoder, nn.BatchNorm2d) as norms:
        for images in batches() if norms else ():
            encoder.forward_features(images)
    if heads is None:
        return
    encoder.eval()
    with _collecting(heads, nn.BatchNorm1d):
        for images in batches():
            heads(encoder.forward_branches(images))


@contextmanager
def _collecting(network: nn.Module, kind: type[nn.BatchNorm1d | nn.BatchNorm2d]) -> Iterator[list[Any]]:
    """Within it batch norms of a `kind` collect plain means over the batches."""
    norms = [layer for layer in network.modules() if isinstance(layer, kind)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    try:
        yield norms
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
