"""How a network is run: as it is, as a frozen trace, compiled, or under onnxruntime."""

import logging
import math
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import nn

from facepcl.errors import FacepclError, OptionError, first_cause
from facepcl.models.onnx import open_graph, to_onnx

_logger = logging.getLogger("facepcl")

ONNX = "onnx"
BACKENDS = ("auto", "eager", "trace", "compile", ONNX)
Run = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
# The same sums in another order: at most 3e-6 behind all layers of ours, of a ResNet-101 and of a ViT-S. A
# network without one of its activations is off by 0.03 and more, one that divides levels by 256 by 0.001.
FLOAT32_ROUNDING = 1e-4
BFLOAT16_ROUNDING = 0.02


def deviation(outputs: Iterable[torch.Tensor], wanted: Iterable[torch.Tensor]) -> float:
    """The largest difference of two tuples of tensors, as a share of the largest number of each tensor;
    infinite where a number is not finite."""
    shares = [
        float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-30))
        for a, b in zip(outputs, wanted, strict=True)
    ]
    return max(shares) if all(map(math.isfinite, shares)) else math.inf


def make_run(network: nn.Module, sample: torch.Tensor, backend: str, batch_size: int) -> tuple[Run, str]:
    """`network` (`[B, C, H, W]` -> a tuple of tensors) made ready to run without gradients, and how.

    "auto" is a frozen trace on a CPU, where it was never slower in our timings, if the network can be traced;
    else it is the network as it is. Raises OptionError if what was asked for does not work.
    """
    if backend == "eager" or (backend == "auto" and sample.device.type != "cpu"):
        return network, "eager"
    make = {"compile": _compiled, ONNX: _under_onnxruntime}.get(backend, _traced)
    try:
        return make(network, sample, batch_size), "trace" if backend == "auto" else backend
    except FacepclError:
        raise
    except Exception as error:  # tracers and compilers raise anything
        reason = first_cause(error)
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
        outputs = run(sample)  # another batch size than that of the trace: its shapes must not be fixed
    _check(outputs, wanted, BFLOAT16_ROUNDING if sample.dtype == torch.bfloat16 else FLOAT32_ROUNDING)
    return run


@torch.no_grad()
def _under_onnxruntime(network: nn.Module, sample: torch.Tensor, batch_size: int) -> Run:
    run = open_graph(to_onnx(network, sample).SerializeToString())
    for images in (sample, sample[:1]):  # the exporter takes it that there are two or more
        _check(run(images), network(images), FLOAT32_ROUNDING)
    return run


def _check(outputs: Iterable[torch.Tensor], wanted: Iterable[torch.Tensor], most: float) -> None:
    if (moved := deviation(outputs, wanted)) > most:
        raise RuntimeError(f"its numbers differ from the network's by {moved:.1e} of the largest")


def _compiled(network: nn.Module, sample: torch.Tensor, batch_size: int) -> Run:
    compiled = torch.compile(network, dynamic=False)

    def one_batch(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Pad a batch that is not full: each new size would be compiled again."""
        missing = batch_size - len(images)
        full = torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing else images
        full = full.contiguous(memory_format=torch.channels_last)  # so would be each new layout
        return tuple(maps[: len(images)] for maps in compiled(full))

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(map(torch.cat, zip(*map(one_batch, images.split(batch_size)), strict=True)))

    with torch.inference_mode():
        run(sample)
    return run
