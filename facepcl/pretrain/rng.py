"""Seeded random numbers that do not depend on the number of processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import numpy as np
import torch

WHOLE = slice(None)


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of all random numbers of one iteration."""
    return torch.Generator().manual_seed(_mixed(seed, step))


@contextmanager
def seeded_dropout(device: torch.device, *seeds: int) -> Iterator[None]:
    """Within this context, layers of a network that drop at random, which take no generator, draw what
    `seeds` determine."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        seed = _mixed(*seeds)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type != "cpu":
            module = torch.get_device_module(device.type)
            stack.callback(module.set_rng_state, module.get_rng_state())
            module.manual_seed(seed)
        yield


@lru_cache(maxsize=16)
def permutation(count: int, *seeds: int) -> torch.Tensor:
    """A permutation of 0 .. count - 1, determined by `seeds`."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_mixed(*seeds)))


def of_part(rows: torch.Tensor, part: slice, copies: int = 1) -> torch.Tensor:
    """The rows `[copies b, ...]` of the samples `part`, out of `[copies B, ...]`."""
    return rows.unflatten(0, (copies, -1))[:, part].flatten(0, 1)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """Uniform numbers `[count]`: few enough for every process to draw those of the whole batch."""
    return low + (high - low) * torch.rand(count, generator=generator)


def by_sample(
    count: int,
    draw: Callable[[torch.Generator], torch.Tensor],
    generator: torch.Generator,
    part: slice = WHOLE,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Draw `[copies, ...]` for each sample of a slice `part` of a batch of `count`, as `[copies b, ...]`.

    Each sample has its own seed from `generator`. On CUDA a generator of the device draws: a core takes up to
    100 ns per number.
    """
    seeds = torch.randint(2**62, (count,), generator=generator)[part].tolist()
    own = torch.Generator(device if torch.device(device).type == "cuda" else "cpu")
    return torch.stack([draw(own.manual_seed(seed)) for seed in seeds], 1).flatten(0, 1).to(device)


def noise(
    count: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    part: slice = WHOLE,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Standard normal numbers by sample, of `shape` `[copies, ...]` each: `[copies b, ...]`."""

    def draw(own: torch.Generator) -> torch.Tensor:
        return torch.randn(shape, generator=own, device=own.device)

    return by_sample(count, draw, generator, part, device)
