"""Closed-form losses beside the naive ones, forward and backward, float32, one thread, in one run.

python benchmarks/losses.py
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import describe
from torch.utils.benchmark import Timer

from facepcl import losses


def naive_face_contrast(
    features: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """What the original does: every mixed negative is made, [2B, 2B - 2, D], then normalised."""
    rows = len(features)
    index = torch.arange(rows)
    positive = (index + rows // 2) % rows
    candidates = index.expand(rows, rows)[(index != index[:, None]) & (index != positive[:, None])].view(
        rows, -1
    )
    negatives = features[candidates]
    mixed = F.normalize(
        mask[..., None] * negatives + (1 - mask[..., None]) * negatives[:, permutation], dim=2
    )
    unit = F.normalize(features)
    logits = torch.cat([(unit * unit[positive]).sum(1, keepdim=True), (mixed * unit[:, None]).sum(2)], 1)
    return F.cross_entropy(logits / losses.TEMPERATURE, torch.zeros(rows, dtype=torch.long))


def naive_orthogonality(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The D x D product of the two normalised codes."""

    def unit(code: torch.Tensor) -> torch.Tensor:
        centred = code - code.mean(0)
        return centred / (centred.detach().norm(dim=1, keepdim=True) + 1e-6)

    return (unit(x).T @ unit(y)).square().mean()


def naive_pose_contrast(
    features: torch.Tensor, negatives: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """Every mixed negative is made, [B, K, D], then normalised."""
    batch = len(features) // 2
    mixed = F.normalize(
        mask[..., None] * negatives + (1 - mask[..., None]) * negatives[:, permutation], dim=2
    )
    unit = F.normalize(features)
    positive = (unit * unit.roll(batch, 0)).sum(1, keepdim=True)
    logits = torch.cat([positive, torch.einsum("nd,nkd->nk", unit, mixed.repeat(2, 1, 1))], 1)
    return F.cross_entropy(logits / losses.TEMPERATURE, torch.zeros(2 * batch, dtype=torch.long))


def peak_bytes(step: Callable[[], None]) -> int:
    """The largest number of bytes that torch holds at a time beyond what it held before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def compare(
    name: str, closed: Callable, naive: Callable, inputs: list[torch.Tensor], *rest: torch.Tensor
) -> None:
    def step(loss: Callable) -> Callable[[], None]:
        def run() -> None:
            torch.autograd.grad(loss(*inputs, *rest), inputs)

        return run

    torch.testing.assert_close(closed(*inputs, *rest), naive(*inputs, *rest), rtol=1e-4, atol=1e-7)
    timers = [Timer("run()", globals={"run": step(loss)}) for loss in (closed, naive)]
    time_closed, time_naive = (min(timer.blocked_autorange(min_run_time=2).times) for timer in timers)
    bytes_closed, bytes_naive = peak_bytes(step(closed)), peak_bytes(step(naive))
    times = f"{1e3 * time_naive:.1f} ms | {1e3 * time_closed:.2f} ms | {time_naive / time_closed:.1f}"
    memory = (
        f"{bytes_naive / 2**20:.0f} MiB | {bytes_closed / 2**20:.1f} MiB | {bytes_naive / bytes_closed:.1f}"
    )
    print(f"| {name} | {times} | {memory} |")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    print(describe(), "\n")
    print("| loss | naive | closed | times faster | naive memory | closed memory | times less |")
    print("|---|---|---|---|---|---|---|")
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    mixing = losses.mixing(256, 510, generator)
    compare(
        "face contrast, B 256, D 512", losses.face_contrast, naive_face_contrast, [normal(512, 512)], *mixing
    )
    mixing = losses.mixing(10, 100, generator, views=1)
    inputs = [normal(20, 512), normal(10, 100, 512)]
    compare("pose contrast, B 10, K 100, D 512", losses.pose_contrast, naive_pose_contrast, inputs, *mixing)
    inputs = [normal(256, 2048), normal(256, 2048)]
    compare("orthogonality, 256 x 2048", losses.orthogonality, naive_orthogonality, inputs)


if __name__ == "__main__":
    main()
