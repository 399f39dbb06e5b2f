"""Each closed form against its definition, over a grid of sizes, with gradients (float64)."""

import pcl_reference as reference
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from facepcl import losses

TOLERANCE = 1e-10


def naive_face_contrast(features, mask, permutation):
    """METHOD 4.4 as it is written: the negatives of a view are all views of other images, mixed in pairs."""
    rows, batch = range(len(features)), len(features) // 2
    others = [features[[j for j in rows if j % batch != i % batch]] for i in rows]
    return reference.contrast(features, others, mask, permutation)


def naive_pose_contrast(features, negatives, mask, permutation):
    return reference.contrast(features, negatives.repeat(2, 1, 1), mask.repeat(2, 1), permutation)


def naive_nt_xent(features):
    rows = len(features)
    terms = []
    for i in range(rows):
        similar = [
            torch.exp(F.cosine_similarity(features[i], features[j], dim=0, eps=1e-12) / 0.07)
            for j in range(rows)
        ]
        others = sum(similar[j] for j in range(rows) if j != i)
        terms.append(-torch.log(similar[(i + rows // 2) % rows] / others))
    return torch.stack(terms).mean()


def naive_supervised_contrast(features, labels, temperature=0.1):
    keep = [i for i, label in enumerate(labels.tolist()) if label >= 0]
    unit = F.normalize(features)
    terms = []
    for i in keep:
        others = [j for j in keep if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            total = sum(torch.exp(unit[i] @ unit[j] / temperature) for j in others)
            terms.append(
                -sum(torch.log(torch.exp(unit[i] @ unit[j] / temperature) / total) for j in positives)
                / len(positives)
            )
    return torch.stack(terms).mean() if terms else features.sum() * 0


def same_value_and_gradient(closed, naive, *inputs):
    inputs = [x.requires_grad_() for x in inputs]
    a, b = closed(*inputs), naive(*inputs)
    torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)
    for x, y in zip(torch.autograd.grad(a, inputs), torch.autograd.grad(b, inputs), strict=True):
        torch.testing.assert_close(x, y, rtol=TOLERANCE, atol=TOLERANCE)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mixing(batch, slots, views=2):
    mask, permutation = losses.mixing(batch, slots, torch.Generator().manual_seed(1), views=views)
    return mask.double(), permutation


@pytest.mark.parametrize("batch", [2, 3, 8])
@pytest.mark.parametrize("width", [4, 33])
def test_face_contrast_is_its_definition(batch, width):
    mask, permutation = mixing(batch, 2 * batch - 2)
    same_value_and_gradient(
        lambda f: losses.face_contrast(f, mask, permutation),
        lambda f: naive_face_contrast(f, mask, permutation),
        normal(2 * batch, width),
    )


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("slots", [1, 7])
@pytest.mark.parametrize("width", [4, 33])
def test_pose_contrast_is_its_definition(batch, slots, width):
    mask, permutation = mixing(batch, slots, views=1)
    same_value_and_gradient(
        lambda f, n: losses.pose_contrast(f, n, mask, permutation),
        lambda f, n: naive_pose_contrast(f, n, mask, permutation),
        normal(2 * batch, width),
        normal(batch, slots, width, seed=1),
    )


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("width", [4, 33])
def test_nt_xent_is_its_definition(batch, width):
    same_value_and_gradient(losses.nt_xent, naive_nt_xent, normal(2 * batch, width))


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("width", [3, 40])
def test_orthogonality_is_its_definition(rows, width):
    same_value_and_gradient(
        losses.orthogonality, reference.orthogonality, normal(rows, width), normal(rows, width, seed=1)
    )


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (3, 3, 5, 4)])
@pytest.mark.parametrize("count", [1, 4])
def test_reconstruction_is_the_sum_of_mean_distances(shape, count):
    targets = [normal(*shape, seed=10 + i) for i in range(count)]
    same_value_and_gradient(
        lambda *images: losses.reconstruction(images, targets),
        lambda *images: sum((a - b).abs().mean() for a, b in zip(images, targets, strict=True)),
        *(normal(*shape, seed=i) for i in range(count)),
    )


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, -1, 0, 2, 2, 2, -1]])
def test_supervised_contrast_is_its_definition(labels):
    labels = torch.tensor(labels)
    same_value_and_gradient(
        lambda f: losses.supervised_contrast(f, labels),
        lambda f: naive_supervised_contrast(f, labels),
        normal(len(labels), 6),
    )


@pytest.mark.parametrize("labels", [[0, 1, 2], [-1, -1, -1]])
def test_supervised_contrast_without_a_pair_is_zero_with_a_gradient(labels):
    features = normal(3, 4).requires_grad_()
    loss = losses.supervised_contrast(features, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert features.grad.eq(0).all()


PARTS = (slice(0, 2), slice(2, 3), slice(3, 6))
LABELS = torch.tensor([0, 1, -1, 0, 1, 2])


@pytest.mark.parametrize(
    ("loss", "rows"),
    [
        (lambda f, part: losses.nt_xent(f, part), 12),
        (lambda f, part: losses.face_contrast(f, *mixing_of(part), part), 12),
        (lambda f, part: losses.orthogonality(f, f.flip(1), part), 6),
        (lambda f, part: losses.supervised_contrast(f, LABELS, part=part), 6),
    ],
    ids=["nt_xent", "face_contrast", "orthogonality", "supervised_contrast"],
)
def test_the_shares_of_all_parts_add_up_to_the_loss(loss, rows):
    same_value_and_gradient(
        lambda f: sum(loss(f, part) for part in PARTS),
        lambda f: loss(f, slice(None)),
        normal(rows, 33),
    )


def mixing_of(part):
    mask, permutation = losses.mixing(6, 10, torch.Generator().manual_seed(1), part)
    return mask.double(), permutation


def test_losses_leave_autocast_and_stay_float32():
    features = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    mask, permutation = losses.mixing(4, 6, torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = losses.face_contrast(features.bfloat16(), mask, permutation)
    assert found.dtype == torch.float32
    assert torch.equal(found, losses.face_contrast(features.bfloat16().float(), mask, permutation))


def test_nearly_opposite_negatives_stay_finite():
    """m f + (1 - m) (-f) cancels: the squared norm is clamped before the root."""
    features = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).repeat(8, 1)
    features[1::2] *= -1
    features.requires_grad_()
    losses.face_contrast(features, torch.full((8, 6), 0.5), torch.arange(6).roll(1)).backward()
    assert features.grad.isfinite().all()


class Largest(TorchDispatchMode):
    """The numbers in the largest tensor of any operation within."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_no_large_tensor_is_made():
    """No [2B, 2B - 2, D] and no D x D tensor, forward and backward."""
    batch, width = 16, 512
    features = torch.randn(2 * batch, width, requires_grad=True)
    codes = torch.randn(2, 8, width, requires_grad=True)
    mask, permutation = losses.mixing(batch, 2 * batch - 2, torch.Generator())
    with Largest() as largest:
        losses.face_contrast(features, mask, permutation).backward()
        losses.orthogonality(codes[0], codes[1]).backward()
    assert largest.numbers <= 2 * batch * width  # the features themselves are the largest


def test_a_part_makes_no_tensor_of_all_pairs():
    """A process of many pays for its own samples, not for the square of all."""
    batch, width, part = 64, 16, slice(3, 5)
    features = torch.randn(2 * batch, width, requires_grad=True)
    labels = torch.arange(batch).repeat(2)
    with Largest() as largest:
        mixed = losses.mixing(batch, 2 * batch - 2, torch.Generator(), part)
        losses.face_contrast(features, *mixed, part).backward()
        losses.nt_xent(features, part).backward()
        losses.orthogonality(features, features.flip(1), part).backward()
        losses.supervised_contrast(features, labels, part=part).backward()
    assert largest.numbers <= 2 * batch * width


def test_mixing_follows_the_distribution_and_the_generator():
    mask, permutation = losses.mixing(100, 200, torch.Generator().manual_seed(0))
    again, _ = losses.mixing(100, 200, torch.Generator().manual_seed(0))
    assert torch.equal(mask, again)
    assert sorted(permutation.tolist()) == list(range(200))
    # Beta(1.6, 1.6): mean 1/2, variance 1 / (4 (2 * 1.6 + 1)); 40,000 draws lie within 1 %
    assert mask.mean().item() == pytest.approx(0.5, rel=0.01)
    assert mask.var().item() == pytest.approx(1 / (4 * 4.2), rel=0.03)
