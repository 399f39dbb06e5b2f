"""What this machine is good for: its device, and whether bfloat16 pays (asked of a timing, never assumed)."""

import time

import torch
from torch import nn

from facepcl.errors import OptionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def find_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the accelerator if there is one. Raises OptionError."""
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return torch.device(next((kind for kind in there if there[kind]), "cpu"))
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
        raise OptionError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


def training_dtype(requested: str, network: nn.Module, images: torch.Tensor) -> torch.dtype:
    """float32 or bfloat16 for training `network` on batches like `images`; "auto" times a pass of each.

    Raises OptionError for another name.
    """
    if requested in DTYPES:
        return DTYPES[requested]
    if requested != "auto":
        raise OptionError(f"dtype {requested!r}: choose auto, {' or '.join(DTYPES)}")
    if images.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if images.device.type != "cpu":
        return torch.float32
    # without units for it bfloat16 can be hundreds of times slower, so few images must do
    seconds = {dtype: _pass_seconds(network, images[:8], dtype) for dtype in DTYPES.values()}
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.9 * seconds[torch.float32] else torch.float32


def _pass_seconds(network: nn.Module, images: torch.Tensor, dtype: torch.dtype) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = network(images).float().square().mean()
        torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        best = min(best, time.perf_counter() - start)
    return best
