"""The losses of PCL (METHOD 4.1 and 4.4), SimCLR (12), labels (10) and relative pose (14) in closed form.

They compute in float32 even under autocast, and in float64 for float64. A loss that compares samples takes
those of the whole batch; with a slice `part` it computes the terms of these samples only. The terms of all
slices add up to the loss, and so do their gradients.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import torch
import torch.nn.functional as F

from facepcl.models.branches import full_precision
from facepcl.pretrain.rng import WHOLE, by_sample, of_part

TEMPERATURE = 0.07
MIXING = 1.6  # both parameters of the Beta distribution of the mixing masks
EPSILON = 1e-12  # of F.normalize
IDENTITY_TEMPERATURE = 0.1  # of the supervised contrast (METHOD 10)

P = ParamSpec("P")


def _exact(loss: Callable[P, torch.Tensor]) -> Callable[P, torch.Tensor]:
    """Compute a loss outside autocast, half precision as float32: squared norms cancel in closed form."""

    @wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        device = next(a.device.type for a in args if isinstance(a, torch.Tensor))
        exact = [full_precision(a) if isinstance(a, torch.Tensor) else a for a in args]
        with torch.autocast(device, enabled=False):
            return loss(*exact, **kwargs)  # type: ignore[arg-type]

    return wrapper


def mixing(
    batch: int,
    slots: int,
    generator: torch.Generator,
    part: slice = WHOLE,
    views: int = 2,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw what mixes negatives (METHOD 4.4): masks ~ Beta(1.6, 1.6) `[views b, slots]` of the samples `part`
    of a `batch`, first views first, and one permutation `[slots]`."""

    def draw(own: torch.Generator) -> torch.Tensor:
        # torch.distributions.Beta uses it too, but without a generator
        concentration = torch.full((views, slots, 2), MIXING, device=own.device)
        return torch._sample_dirichlet(concentration, own)[..., 0]

    permutation = torch.randperm(slots, generator=generator).to(device)
    return by_sample(batch, draw, generator, part, device), permutation


def _mixed_norm(mask: torch.Tensor, a: torch.Tensor, cross: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|m a + (1 - m) b| from the squared norms `a`, `b` and the product `cross`."""
    other = 1 - mask
    square = mask**2 * a + 2 * mask * other * cross + other**2 * b
    return square.clamp_min(EPSILON**2).sqrt()  # cancels if the two are nearly opposite


@_exact
def face_contrast_logits(
    features: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor, part: slice = WHOLE
) -> torch.Tensor:
    """Logits `[2b, 2B - 1]` of the face contrast, the positive first (METHOD 4.4).

    `features` `[2B, D]`: B first views, then their B second views, not normalised; `mask` `[2b, 2B - 2]`;
    `permutation` `[2B - 2]` of the slots. Slot p of row i mixes the candidates n(i, p) and n(i,
    permutation[p]). Without a `[2b, 2B - 2, D]` tensor: n(i, p) is row p, p + 1 or p + 2, so there are nine
    products of two candidates per slot.
    """
    rows, slots = len(features), len(permutation)
    own = of_part(torch.arange(rows, device=features.device), part, 2)
    positive = (own + rows // 2) % rows
    skipped = torch.stack([own, positive]).sort(0).values
    slot = torch.arange(slots, device=features.device)
    # the distance of a candidate from its slot, since the row itself and its other view are skipped
    shift = (slot >= skipped[0][:, None]).long() + (slot + 1 >= skipped[1][:, None])
    candidates, mixed = slot + shift, (slot + shift)[:, permutation]

    gram = of_part(features, part, 2) @ features.T
    square = (features**2).sum(1)
    norm = square.clamp_min(EPSILON**2).sqrt()
    near = [features[by : by + slots] for by in range(3)]
    mixed_near = [rows[permutation] for rows in near]
    cross = torch.stack([(a * b).sum(1) for a in near for b in mixed_near])
    numerator = mask * gram.gather(1, candidates) + (1 - mask) * gram.gather(1, mixed)
    length = _mixed_norm(
        mask, square[candidates], cross.gather(0, 3 * shift + shift[:, permutation]), square[mixed]
    )
    negatives = numerator / (norm[own, None] * length)
    positives = gram.gather(1, positive[:, None])[:, 0] / (norm[own] * norm[positive])
    return torch.cat([positives[:, None], negatives], 1) / TEMPERATURE


@_exact
def pose_contrast_logits(
    features: torch.Tensor, negatives: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """Logits `[2B, K + 1]` of pose contrast, the positive first (METHOD 4.4).

    `features` `[2B, D]`: B first views, then B second views; `negatives` `[B, K, D]`, block i for both
    views of sample i; `mask` `[B, K]`; `permutation` `[K]`.
    """
    # a view for each use: their order sums the gradients, and with it decides the last bit
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


def _info_nce(logits: torch.Tensor, rows: int) -> torch.Tensor:
    return (logits.logsumexp(1) - logits[:, 0]).sum() / rows


def face_contrast(
    features: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor, part: slice = WHOLE
) -> torch.Tensor:
    """Face contrast of `[2B, D]` head outputs: InfoNCE with mixed negatives (METHOD 4.4). A scalar."""
    return _info_nce(face_contrast_logits(features, mask, permutation, part), len(features))


def pose_contrast(
    features: torch.Tensor, negatives: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """Pose contrast of `[2B, D]` head outputs against `[B, K, D]` mirrored ones (METHOD 4.4). A scalar."""
    return _info_nce(pose_contrast_logits(features, negatives, mask, permutation), len(features))


@_exact
def nt_xent(features: torch.Tensor, part: slice = WHOLE) -> torch.Tensor:
    """SimCLR's loss of `[2B, D]` head outputs, B first views, then B second views (METHOD 12). A scalar.

    Chen et al. 2020, eq. 1, at PCL's temperature and without mixing.
    """
    features = F.normalize(features, eps=EPSILON)
    row = torch.arange(len(features), device=features.device)
    own = of_part(row, part, 2)
    logits = of_part(features, part, 2) @ features.T / TEMPERATURE
    other_view = (own + len(row) // 2) % len(row)
    others = logits.masked_fill(row == own[:, None], -torch.inf)
    return F.cross_entropy(others, other_view, reduction="sum") / len(row)


@_exact
def orthogonality(x: torch.Tensor, y: torch.Tensor, part: slice = WHOLE) -> torch.Tensor:
    """Mean square of the D x D correlations between two codes `[N, D]` (METHOD 4.4). A scalar.

    |A' B|^2 = sum (A A') o (B B'), so two N x N Gram matrices replace the D x D product.
    """

    def unit_rows(code: torch.Tensor) -> torch.Tensor:
        centred = code - code.mean(0)
        return centred / (centred.detach().norm(dim=1, keepdim=True) + 1e-6)

    a, b = unit_rows(x), unit_rows(y)
    return ((a[part] @ a.T) * (b[part] @ b.T)).sum() / x.shape[1] ** 2


def reconstruction(images: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of the mean L1 distances of decoded images `[B, 3, H, W]` to their targets (METHOD 4.1)."""
    l1_loss = _exact(F.l1_loss)
    return torch.stack([l1_loss(image, target) for image, target in zip(images, targets, strict=True)]).sum()


@_exact
def relative_pose(
    predicted: torch.Tensor, turned: torch.Tensor, mirrored: torch.Tensor, count: int
) -> torch.Tensor:
    """Smooth L1 distance of the poses that two views of a face give it before it was turned (METHOD 14).

    Args:
        predicted: Yaw, pitch and roll of first views, then of second ones, `[2b, 3]`, in units of 20 degrees.
        turned: By how much each was turned, in the same units, `[2b, 3]`.
        mirrored: Whether it was then mirrored `[2b]`, which changes the signs of yaw and roll.
        count: Faces of the whole batch, of which these are b.
    """
    signs = 1 - 2 * mirrored[:, None] * predicted.new_tensor([1.0, 0.0, 1.0])
    first, second = (signs * predicted - turned).chunk(2)
    return F.smooth_l1_loss(first, second, beta=0.5, reduction="sum") / (3 * count)


@_exact
def supervised_contrast(features: torch.Tensor, labels: torch.Tensor, part: slice = WHOLE) -> torch.Tensor:
    """Supervised contrast of `[B, D]` features by integer `labels` `[B]`, -1 = unknown (METHOD 10). A scalar.

    Khosla et al. 2020, eq. 2, averaged over the anchors that have positives; zero if no two labels agree.
    """
    features = F.normalize(features)
    row = torch.arange(len(labels), device=features.device)
    itself, known = row[part, None] == row, labels >= 0
    same = (labels[part, None] == labels) & known & ~itself
    positives = same.sum(1)
    own = positives > 0
    logits = features[part][own] @ features.T / IDENTITY_TEMPERATURE
    log_probability = logits.masked_fill((itself | ~known)[own], -torch.inf).log_softmax(1)
    per_anchor = -log_probability.masked_fill(~same[own], 0.0).sum(1) / positives[own]
    count = labels[known].unique(return_counts=True)[1]
    return per_anchor.sum() / count[count > 1].sum().clamp_min(1)
