"""What each line of a run's log says about the codes: gradient norms at the trunk and effective ranks."""

from dataclasses import replace

import pytest
import torch
from helpers.training import assert_same, end_of, log_of

from facepcl.pretrain import run
from facepcl.pretrain.config import METHODS
from facepcl.pretrain.diagnostics import branch_codes, effective_rank, gradient_norms
from facepcl.pretrain.networks import Networks

LOSSES = {
    "pcl": ("reconstruction", "orthogonality", "face", "pose"),
    "pcl-no-orthogonal": ("reconstruction", "orthogonality", "face", "pose"),
    "pcl-no-pose": ("reconstruction", "orthogonality", "face"),
    "simclr": ("shared",),
    "pcl-relative": ("shared", "face", "relative"),
    "labels": ("label_au", "label_expression", "label_identity", "label_shared_identity", "label_pose"),
}


def test_the_effective_rank_counts_equal_directions():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 5))[0].T
    signs = torch.tensor([[1.0, -1.0][(i >> k) & 1] for i in range(32) for k in range(5)]).view(32, 5)
    codes = signs @ basis + 3  # the mean does not count
    assert effective_rank(codes).item() == pytest.approx(5, abs=1e-3)  # float32
    assert effective_rank(torch.ones(8, 16)).item() == pytest.approx(1)


def test_the_effective_rank_is_that_of_the_singular_values():
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        code = torch.randn(shape)
        values = torch.linalg.svdvals(code.double() - code.double().mean(0))
        shares = values / values.sum()
        shares = shares[shares > 1e-12]
        expected = (-(shares * shares.log()).sum()).exp()
        torch.testing.assert_close(effective_rank(code), expected)


def test_a_gradient_norm_is_that_of_the_unweighted_loss_and_leaves_the_graph():
    maps = torch.randn(4, 3, 2, 2, requires_grad=True)
    losses = {"a": (2 * maps).sum(), "b": torch.zeros((), requires_grad=True) * 1}
    found = gradient_norms(losses, maps)
    assert found["grad_norm_a"].item() == pytest.approx(2 * 48**0.5)
    assert found["grad_norm_b"].item() == 0
    losses["a"].backward()
    assert maps.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_line_of_every_method_has_the_norms_and_the_ranks(finished, method):
    codes = ("shared",) if method == "simclr" else ("shared", "face", "pose")
    for line in log_of(finished(method)):
        assert {name for name in line if name.startswith("grad_norm_")} == {
            f"grad_norm_{name}" for name in LOSSES[method]
        }
        assert {name for name in line if name.startswith("rank_")} == {f"rank_{name}" for name in codes}
        assert all(1 <= line[f"rank_{name}"] < 8 for name in codes)
        assert all(line[f"grad_norm_{name}"] > 0 for name in LOSSES[method])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pcl", "labels"])
def test_looking_changes_no_weight(config, finished, method):
    seldom = replace(config, method=method, log_steps=100)
    run(seldom)
    assert_same(end_of(seldom), end_of(finished(method)))


@pytest.mark.parametrize("model", ["pcl_facecycle", "pcl_resnet18"])
def test_the_codes_are_those_that_users_embed_with(model):
    nets = Networks(model, {}).eval()
    images = torch.rand(2, 3, nets.own_size, nets.own_size)
    found = branch_codes(nets.encoder, nets.encoder.forward_features(images))
    for name, code in nets.encoder.forward_codes(images)._asdict().items():
        torch.testing.assert_close(found[name], code)
