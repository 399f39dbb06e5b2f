"""What this machine is good for: its device, and whether bfloat16 pays (a timing decides)."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from facepcl.errors import OptionError, check_known, first_cause

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
K = TypeVar("K")
BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86 and Arm, as torch.cpu names them


def find_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the accelerator if there is one. Raises OptionError."""
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return torch.device(next((kind for kind in there if there[kind]), "cpu"))
    try:
        number = torch.zeros(1, device=name)
        number.cpu()  # "meta" holds none
        return number.device
    except (RuntimeError, AssertionError, ImportError) as error:  # any of them for one that is not there
        raise OptionError(f"device {name!r} cannot be used: {first_cause(error)}") from error


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Raise torch.OutOfMemoryError for memory of the CPU, too, for which torch raises RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise torch.OutOfMemoryError(str(error).rpartition("DefaultCPUAllocator: ")[2]) from error
        raise


def training_dtype(requested: str, network: nn.Module, images: torch.Tensor) -> torch.dtype:
    """float32 or bfloat16 for training `network` on batches like `images`; "auto" times a pass of each.

    Raises OptionError for another name.
    """

    return _choose_dtype(requested, images.device, partial(training_pass, network, images[:8]))


def training_pass(network: nn.Module, images: torch.Tensor, dtype: torch.dtype) -> None:
    """Compute the gradients of `network` for some loss."""
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        loss = network(images).float().square().mean()
    torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)


def inference_dtype(requested: str, network: nn.Module, images: torch.Tensor) -> torch.dtype:
    """float32 or bfloat16 for `network` without gradients; "auto" asks for units, then times a pass of each.

    Raises OptionError for another name.
    """
    if requested == "auto" and images.device.type == "cpu" and not has_bfloat16_units():
        return torch.float32

    @torch.inference_mode()
    def one_pass(dtype: torch.dtype) -> None:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            network(images[:8])

    return _choose_dtype(requested, images.device, one_pass)


def has_bfloat16_units() -> bool:
    """Whether the processor multiplies bfloat16 itself; releases of torch that cannot tell say no."""
    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(units.get(unit, False) for unit in BFLOAT16_UNITS)


def _choose_dtype(
    requested: str, device: torch.device, one_pass: Callable[[torch.dtype], None]
) -> torch.dtype:
    check_known("dtype", requested, ("auto", *DTYPES))
    if requested != "auto":
        return DTYPES[requested]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    one_pass(torch.float32)
    try:
        one_pass(torch.bfloat16)
    except RuntimeError:
        return torch.float32  # a layer that knows no bfloat16, such as a quantised one
    # without units for it bfloat16 can be hundreds of times slower, so few images must do
    seconds = least_seconds({dtype: partial(one_pass, dtype) for dtype in DTYPES.values()}, rounds=2)
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.9 * seconds[torch.float32] else torch.float32


def least_seconds(ways: Mapping[K, Callable[[], object]], rounds: int) -> dict[K, float]:
    """The shortest time that each of the `ways` takes. They take turns, so that a machine busy with other
    things is so to all."""
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, work in ways.items():
            start = time.perf_counter()
            work()
            least[way] = min(least[way], time.perf_counter() - start)
    return least


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Floating-point operations a second of the fastest of some matrix products of `dtype` on `device`, with
    the threads that torch has."""
    side = 4096 if device.type == "cuda" else 1024
    matrix = torch.full((side, side), 1 / side, device=device, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # a GPU is waited for
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
