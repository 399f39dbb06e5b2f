"""Diagnostics for the log: gradient norms and effective ranks of the codes."""

from collections.abc import Mapping

import torch

from facepcl.pretrain import distributed


def gradient_norms(losses: Mapping[str, torch.Tensor], maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Norm of the gradient of each unweighted loss at the trunk's maps `[B, C, H, W]`, `grad_norm_LOSS`."""
    norms = {}
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, maps, retain_graph=True, allow_unused=True)
        square = maps.new_zeros((), dtype=torch.float32)
        if gradient is not None:
            square = gradient.detach().float().square().sum()
        norms[f"grad_norm_{name}"] = distributed.all_reduce_sum(square).sqrt()
    return norms


@torch.no_grad()
def effective_ranks(codes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Effective rank of each code `[B, D]` over the images of a step, `rank_CODE`."""
    return {f"rank_{name}": effective_rank(distributed.all_gather(code)) for name, code in codes.items()}


def effective_rank(code: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the normalised singular values of the centred code `[B, D]`: 1 to B - 1 (Roy and
    Vetterli 2007)."""
    code = code.cpu().double()  # Apple's GPUs have no float64
    centred = code - code.mean(0)
    gram = centred @ centred.T if len(code) < code.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    normalised = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(normalised).sum().exp()


@torch.no_grad()
def branch_codes(encoder: torch.nn.Module, maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """The codes `[B, D]` of trunk maps: shared, and face and pose of an encoder with branches."""
    branches = {name: getattr(encoder, name, None) for name in ("face", "pose")}
    codes = {name: branch(maps).flatten(1) for name, branch in branches.items() if branch is not None}
    return {"shared": encoder.shared_code(maps), **codes}  # type: ignore[operator]
