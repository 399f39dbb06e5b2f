"""The released encoder: `--ema`, and batch norm statistics computed over clean images."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from facepcl.pretrain.augment import resize, to_float
from facepcl.pretrain.networks import Networks, network_input

IMAGES, BATCH = 2048, 64  # over which the statistics are computed


class EMA(nn.Module):
    """Exponential moving average of encoder, decoder and label heads."""

    def __init__(self, nets: Networks, decay: float):
        super().__init__()
        self.decay = decay
        for name in ("encoder", "decoder", "label_heads"):
            if hasattr(nets, name):
                setattr(self, name, copy.deepcopy(getattr(nets, name)))
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, nets: Networks, step: int) -> None:
        """Move towards the weights after `step` steps; faster in the first ones, so as to forget the random
        initialisation. timm's ModelEmaV3 has another warm-up."""
        weight = 1 - min(self.decay, step / (step + 10))
        state = nets.state_dict()
        for name, mean in self.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(state[name], weight)
            else:
                mean.copy_(state[name])


@torch.no_grad()
def update_batch_norms(
    networks: Any, sample: Callable[[int], torch.Tensor], size: int, is_frozen: bool = False
) -> None:
    """Recompute the running statistics of the batch norms of the encoder, unless it `is_frozen`, then of the
    label heads (METHOD 8).

    Those of training come from noisy images, crops and views. `sample(n)` gives about `n` clean images, uint8
    `[N, 3, S, S]`.
    """
    encoder, heads = networks.encoder, getattr(networks, "label_heads", None)
    device = next(encoder.parameters()).device

    def batches() -> Iterator[torch.Tensor]:
        images = sample(IMAGES)
        # of almost equal lengths, as update_bn averages over them
        for block in images.tensor_split(math.ceil(len(images) / BATCH)) if len(images) > 1 else ():
            yield network_input(encoder, to_float(resize(block.to(device), size)))

    if not is_frozen:
        update_bn(batches(), encoder.train())
    if heads is not None:
        encoder.eval()
        # in a list, of which update_bn takes the first element
        update_bn(([encoder.forward_branches(batch)] for batch in batches()), heads)
