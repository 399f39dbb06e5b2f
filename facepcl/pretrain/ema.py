"""`--ema`: the averages of the weights over the last steps, which are released in place of the weights."""

import copy

import torch
from torch import nn

from facepcl.pretrain.networks import Networks


class Average(nn.Module):
    """A copy of the encoder, and of decoder and label heads where there are any, that follows them."""

    def __init__(self, nets: Networks, decay: float):
        super().__init__()
        self.decay = decay
        self.encoder = copy.deepcopy(nets.encoder)
        for name in ("decoder", "label_heads"):
            if hasattr(nets, name):
                setattr(self, name, copy.deepcopy(getattr(nets, name)))
        self.requires_grad_(False)

    @torch.no_grad()
    def follow(self, nets: Networks, step: int) -> None:
        """Move towards the weights after `step` steps; faster in the first ones, which start from chance."""
        new = 1 - min(self.decay, step / (step + 10))
        weights = nets.state_dict()
        for name, mean in self.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(weights[name], new)
            else:
                mean.copy_(weights[name])
