"""A part of a batch: rows of its samples, and numbers by chance that they have in the whole batch as well."""

from collections.abc import Callable

import torch

WHOLE = slice(None)


def of_part(rows: torch.Tensor, part: slice, copies: int = 1) -> torch.Tensor:
    """`[copies B, ...]` -> `[copies b, ...]`: the rows of a part of the B samples."""
    return rows.unflatten(0, (copies, -1))[:, part].flatten(0, 1)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """Numbers `[count]` between `low` and `high`: few enough for every process to draw those of all."""
    return low + (high - low) * torch.rand(count, generator=generator)


def by_sample(
    count: int,
    draw: Callable[[torch.Generator], torch.Tensor],
    generator: torch.Generator,
    part: slice = WHOLE,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """What `draw` makes for each sample of a `part` of `count`, `[copies, ...]`, as `[copies b, ...]`: the b
    samples' first rows, then their second ones.

    Each sample has a seed of its own from `generator`. For a CUDA `device` a generator there draws: a core
    takes up to 100 ns a number.
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
    """Standard normal numbers by sample: of each of a `part` of `count` the `shape` `[copies, ...]`, as
    `[copies b, ...]`."""
    return by_sample(
        count, lambda own: torch.randn(shape, generator=own, device=own.device), generator, part, device
    )
