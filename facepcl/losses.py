"""The losses of PCL (METHOD 4.1 and 4.4) and SimCLR (METHOD 12) in closed form, in float32 even under
autocast, float64 for float64."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import torch
import torch.nn.functional as F

TEMPERATURE = 0.07
MIXING = 1.6  # both parameters of the Beta distribution of the mixing masks
EPSILON = 1e-12  # of F.normalize

P = ParamSpec("P")


def full_precision(x: torch.Tensor) -> torch.Tensor:
    """Half precision taken up to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _exact(loss: Callable[P, torch.Tensor]) -> Callable[P, torch.Tensor]:
    """Leave autocast and take half precision up to float32: squared norms cancel in closed form."""

    @wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        device = next(a.device.type for a in args if isinstance(a, torch.Tensor))
        exact = [full_precision(a) if isinstance(a, torch.Tensor) else a for a in args]
        with torch.autocast(device, enabled=False):
            return loss(*exact, **kwargs)  # type: ignore[arg-type]

    return wrapper


def mixing(
    rows: int, slots: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask ~ Beta(1.6, 1.6) `[rows, slots]` and one permutation `[slots]` that mix negatives (METHOD 4.4).

    For a CUDA `device` a generator there, seeded by this one, draws: a core takes 100 ns a number, which is
    26 ms for the paper's batch of 256.
    """
    if torch.device(device).type == "cuda" and generator.device.type == "cpu":
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = torch.Generator(device).manual_seed(seed)
    # _sample_dirichlet is what torch.distributions.Beta draws from, but it takes the generator
    concentration = torch.full((rows, slots, 2), MIXING, device=generator.device)
    mask = torch._sample_dirichlet(concentration, generator)[..., 0]
    permutation = torch.randperm(slots, generator=generator, device=generator.device)
    return mask.to(device), permutation.to(device)


def _mixed_norm(mask: torch.Tensor, a: torch.Tensor, cross: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|m a + (1 - m) b| from the squared norms `a`, `b` and the product `cross`."""
    other = 1 - mask
    square = mask**2 * a + 2 * mask * other * cross + other**2 * b
    return square.clamp_min(EPSILON**2).sqrt()  # it can cancel when the two are nearly opposite


@_exact
def face_contrast_logits(
    features: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """Logits `[2B, 2B - 1]` of face contrast, the positive first (METHOD 4.4).

    `features` `[2B, D]`: B first views, then their B second views, not normalised; `mask` `[2B, 2B - 2]`;
    `permutation` `[2B - 2]` of the slots. Slot p of row i mixes the candidates n(i, p) and n(i,
    permutation[p]); all their products stand in the Gram matrix, so that no `[2B, 2B - 2, D]` tensor is
    made.
    """
    gram = features @ features.T
    rows = len(gram)
    index = torch.arange(rows, device=gram.device)
    positive = (index + rows // 2) % rows
    candidates = index.expand(rows, rows)[(index != index[:, None]) & (index != positive[:, None])].view(
        rows, -1
    )
    mixed = candidates[:, permutation]
    square = gram.diagonal()
    norm = square.clamp_min(EPSILON**2).sqrt()
    numerator = mask * gram.gather(1, candidates) + (1 - mask) * gram.gather(1, mixed)
    length = _mixed_norm(mask, square[candidates], gram[candidates, mixed], square[mixed])
    negatives = numerator / (norm[:, None] * length)
    positives = gram[index, positive] / (norm * norm[positive])
    return torch.cat([positives[:, None], negatives], 1) / TEMPERATURE


@_exact
def pose_contrast_logits(
    features: torch.Tensor, negatives: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """Logits `[2B, K + 1]` of pose contrast, the positive first (METHOD 4.4).

    `features` `[2B, D]`: B first views, then B second views; `negatives` `[B, K, D]`, block i for both
    views of sample i; `mask` `[B, K]`; `permutation` `[K]`.
    """
    first, second = features.view(2, -1, features.shape[1])
    shuffled = negatives[:, permutation]
    square = (negatives**2).sum(2)
    length = _mixed_norm(mask, square, (negatives * shuffled).sum(2), square[:, permutation])
    products = torch.einsum("vbd,bkd->vbk", features.view(2, *first.shape), negatives)
    numerator = mask * products + (1 - mask) * products[..., permutation]
    norm = features.view(2, *first.shape).norm(dim=2).clamp_min(EPSILON)
    cosine = (numerator / (norm[..., None] * length)).flatten(0, 1)
    positive = (first * second).sum(1) / (norm[0] * norm[1])
    return torch.cat([positive.repeat(2)[:, None], cosine], 1) / TEMPERATURE


def _info_nce(logits: torch.Tensor) -> torch.Tensor:
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def face_contrast(features: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Face contrast of `[2B, D]` head outputs: InfoNCE with mixed negatives (METHOD 4.4). A scalar."""
    return _info_nce(face_contrast_logits(features, mask, permutation))


def pose_contrast(
    features: torch.Tensor, negatives: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """Pose contrast of `[2B, D]` head outputs against `[B, K, D]` mirrored ones (METHOD 4.4). A scalar."""
    return _info_nce(pose_contrast_logits(features, negatives, mask, permutation))


@_exact
def nt_xent(features: torch.Tensor) -> torch.Tensor:
    """SimCLR's loss of `[2B, D]` head outputs, B first views, then B second views (METHOD 12). A scalar.

    The mean over the 2B rows of -log softmax of their other view among all the other rows (Chen et al. 2020,
    eq. 1), at PCL's temperature and without mixing.
    """
    features = F.normalize(features, eps=EPSILON)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    logits = (features @ features.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    other_view = torch.arange(len(features), device=features.device).roll(len(features) // 2)
    return F.cross_entropy(logits, other_view)


@_exact
def orthogonality(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean square of the D x D correlations between two codes `[N, D]` (METHOD 4.4). A scalar.

    |A' B|^2 = sum (A A') o (B B'), so two N x N Gram matrices replace the D x D product.
    """

    def unit_rows(code: torch.Tensor) -> torch.Tensor:
        centred = code - code.mean(0)
        return centred / (centred.detach().norm(dim=1, keepdim=True) + 1e-6)

    a, b = unit_rows(x), unit_rows(y)
    return ((a @ a.T) * (b @ b.T)).sum() / x.shape[1] ** 2


@_exact
def _l1(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.l1_loss(image, target)


def reconstruction(images: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of the L1 distances (each a mean) of decoded images `[B, 3, H, W]` to their targets (METHOD
    4.1)."""
    return torch.stack([_l1(image, target) for image, target in zip(images, targets, strict=True)]).sum()


@_exact
def supervised_contrast(
    features: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """Supervised contrast of `[B, D]` features by integer `labels` `[B]`, -1 = unknown (METHOD 10). A scalar.

    The mean over the anchors that have positives of -log softmax of their positives (Khosla et al. 2020,
    eq. 2); zero if no two labels agree.
    """
    features = F.normalize(features[labels >= 0])
    labels = labels[labels >= 0]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    same = (labels == labels[:, None]) & ~itself
    log_probability = logits.log_softmax(1).masked_fill(~same, 0.0)
    positives = same.sum(1)
    anchors = positives > 0
    per_anchor = -log_probability.sum(1)[anchors] / positives[anchors]
    return per_anchor.sum() / max(int(anchors.sum()), 1)
