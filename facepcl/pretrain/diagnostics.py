"""What a log line says about the codes of an encoder while it trains: gradient norms and effective ranks."""

from collections.abc import Mapping

import torch

from facepcl.models.branches import Branches
from facepcl.pretrain import distributed


def gradient_norms(losses: Mapping[str, torch.Tensor], maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Norm of the gradient of each unweighted loss at the trunk's maps, `grad_norm_LOSS`.

    Args:
        losses: Scalars that depend on `maps`; of several processes, each one's share.
        maps: `[B, C, H, W]`, of several processes their own.
    """
    found = {}
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, maps, retain_graph=True, allow_unused=True)
        square = maps.new_zeros((), dtype=torch.float32)
        if gradient is not None:
            square = gradient.detach().float().square().sum()
        found[f"grad_norm_{name}"] = distributed.total(square).sqrt()
    return found


@torch.no_grad()
def effective_ranks(codes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Effective rank of each code `[B, D]` over the images of a step, `rank_CODE`."""
    return {f"rank_{name}": effective_rank(distributed.gather(code)) for name, code in codes.items()}


def effective_rank(code: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the singular values of the centred code `[B, D]`, as shares of their sum.

    At least 1 and at most B - 1 (Roy and Vetterli 2007); 1 for a code that is the same for all images.
    """
    code = code.cpu().double()  # Apple's GPUs have no float64
    centred = code - code.mean(0)
    gram = centred @ centred.T if len(code) < code.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


@torch.no_grad()
def codes_of(encoder: torch.nn.Module, maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """The codes `[B, D]` of trunk maps: shared, and of an encoder with branches face and pose."""
    branches = {name: getattr(encoder, name, None) for name in Branches._fields[1:]}
    found = {name: branch(maps).flatten(1) for name, branch in branches.items() if branch is not None}
    return {"shared": encoder.shared_code(maps), **found}  # type: ignore[operator]
