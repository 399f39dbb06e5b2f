"""How a network is run: as it is, as a frozen trace, or compiled."""

import logging
import warnings
from collections.abc import Callable

import torch
from torch import nn

from facepcl.errors import OptionError

_logger = logging.getLogger("facepcl")

BACKENDS = ("auto", "eager", "trace", "compile")
Run = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


def make_run(network: nn.Module, sample: torch.Tensor, backend: str, batch_size: int) -> tuple[Run, str]:
    """`network` (`[B, C, H, W]` -> a tuple of tensors) made ready to run without gradients, and how.

    "auto" is a frozen trace on a CPU, where it was never slower in our timings, if the network can be traced;
    else it is the network as it is. Raises OptionError if what was asked for does not work.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend {backend!r}: choose {', '.join(BACKENDS)}")
    if backend == "eager" or (backend == "auto" and sample.device.type != "cpu"):
        return network, "eager"
    make = _compiled if backend == "compile" else _traced
    try:
        return make(network, sample, batch_size), "trace" if backend == "auto" else backend
    except Exception as error:  # tracers and compilers raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if backend == "auto":
            _logger.debug("no trace of this network (%s); it runs as it is", reason)
            return network, "eager"
        raise OptionError(
            f"backend {backend!r} does not work for this network here ({reason}); use 'auto'"
        ) from error


@torch.no_grad()
def _traced(network: nn.Module, sample: torch.Tensor, batch_size: int) -> Run:
    wanted = network(sample)
    with warnings.catch_warnings():
        # torch calls its jit deprecated; nothing else runs as fast and starts as fast
        warnings.simplefilter("ignore")
        run = torch.jit.freeze(torch.jit.trace(network, sample[:1], check_trace=False))
        found = run(sample)  # another batch size than that of the trace: its shapes must not be fixed
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.02, atol=0.02 * float(b.abs().max()))
    return run


def _compiled(network: nn.Module, sample: torch.Tensor, batch_size: int) -> Run:
    compiled = torch.compile(network, dynamic=False)

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Batches that are not full are filled up: each new size would be compiled anew."""
        missing = batch_size - len(images)
        full = torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing else images
        full = full.contiguous(memory_format=torch.channels_last)  # so would be each new layout
        return tuple(maps[: len(images)] for maps in compiled(full))

    with torch.inference_mode():
        run(sample)
    return run
