"""`--method`: what each of them trains, sees and leaves out, a few steps of each on the sample faces."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from helpers.training import assert_same, end_of, log_of, recorded

import facepcl
from facepcl.errors import DataError, OptionError, WeightsError
from facepcl.pretrain import augment as views
from facepcl.pretrain import dynamic_weights, run, substeps
from facepcl.pretrain.config import METHODS
from facepcl.pretrain.networks import Networks
from facepcl.pretrain.sampler import InMemory

UNLABELLED = [method for method in METHODS if method != "labels"]
VIEWS = {"pcl": 24, "pcl-no-orthogonal": 24, "pcl-no-pose": 16, "simclr": 8, "pcl-relative": 8}  # of a step
MODELS = ("pcl_facecycle", "pcl_resnet18")


def start_of(config):
    """All tensors before the first step."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return Networks(config.model, {}, config.tasks).state_dict()


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow if "orthogonal" in name else ()) for name in UNLABELLED],
)
def test_each_method_leaves_an_encoder_for_timm_and_facepcl(finished, method):
    encoder = f"{finished(method).out}/encoder"
    image = torch.rand(1, 3, 64, 64)
    plain = timm.create_model(f"local-dir:{encoder}", pretrained=True).eval()
    ours = facepcl.create_model(f"local-dir:{encoder}").eval()
    assert torch.equal(plain.forward_features(image), ours.forward_features(image))
    assert recorded(finished(method))["views_per_step"] == VIEWS[method]


def test_the_trunk_of_a_seed_starts_the_same_under_every_method(config):
    starts = [start_of(replace(config, method=method)) for method in METHODS]
    trunk = [name for name in starts[0] if name.startswith("encoder.") and ".face." not in name]
    trunk = [name for name in trunk if ".pose." not in name]
    assert len(trunk) > 30
    assert all(torch.equal(start[name], starts[0][name]) for start in starts for name in trunk)


def test_simclr_trains_the_trunk_and_one_head_and_nothing_else(finished):
    config = finished("simclr")
    before, after = start_of(config), end_of(config)
    assert after.keys() == before.keys()
    assert {name.partition(".")[0] for name in after} == {"encoder", "shared_head"}
    assert not [name for name in after if name.startswith(("encoder.face", "encoder.pose"))]
    assert not [name for name in after if name.endswith("weight") and torch.equal(before[name], after[name])]
    measured = {"grad_norm_shared", "rank_shared"}
    assert log_of(config)[0].keys() == {"step", "epoch", "lr", "views_per_s", "mfu", "shared"} | measured
    assert not Path(config.out, "samples").exists()  # there is no decoder to draw any


@pytest.mark.parametrize("model", MODELS)
def test_the_branches_that_simclr_did_not_train_are_not_in_its_encoder(config, finished, model):
    if model == "pcl_facecycle":
        encoder = Path(finished("simclr").out, "encoder")
    else:
        encoder = run(replace(config, method="simclr", model=model, size=64, steps=1))
    name = f"local-dir:{encoder}"
    assert {path.name for path in encoder.iterdir()} == {"config.json", "model.safetensors"}
    assert getattr(facepcl.create_model(name), "face", None) is None
    with pytest.raises(WeightsError, match="made without branches"):
        facepcl.create_model(name, branches=True)
    with pytest.raises(OptionError, match="has no branches, so branch 'face' does not exist; use 'shared'"):
        facepcl.FaceEmbedder(name, branch="face")
    code = facepcl.create_model(model, branches=True).eval().forward_codes(torch.zeros(1, 3, 64, 64)).shared
    assert facepcl.FaceEmbedder(name, size=64).meta["dimension"] == code.shape[1]


@pytest.mark.parametrize("model", MODELS)
def test_simclr_contrasts_the_code_that_users_embed_with(model):
    nets = Networks(model, {}, METHODS["simclr"]).eval()
    images = torch.rand(2, 3, nets.own_size, nets.own_size)
    whole = facepcl.create_model(model)
    whole.load_state_dict(nets.encoder.state_dict(), strict=False)
    torch.testing.assert_close(
        nets.shared_code(nets.trunk(images)), whole.eval().forward_codes(images).shared
    )


def test_pcl_without_the_pose_contrast_has_no_pose_head_and_no_pose_loss(finished):
    config = finished("pcl-no-pose")
    assert not [name for name in end_of(config) if name.startswith("pose_head")]
    assert all("pose" not in line and "face" in line for line in log_of(config))
    assert all("grad_norm_pose" not in line for line in log_of(config))


def test_pcl_without_the_pose_contrast_still_learns_a_pose_branch_by_disentangling(finished):
    config = finished("pcl-no-pose")
    name = "encoder.pose.0.weight"
    assert not torch.equal(start_of(config)[name], end_of(config)[name])


def test_a_method_without_a_pose_contrast_asks_for_no_images_for_it(config):
    few = replace(config, pose_batch=400)
    InMemory(replace(few, method="pcl-no-pose"), {})
    with pytest.raises(DataError, match="fewer than a batch of 400"):
        InMemory(few, {})


@pytest.mark.slow
def test_pcl_without_orthogonality_logs_it_and_trains_as_with_weight_0(config, finished):
    without = finished("pcl-no-orthogonal")
    assert all(line["orthogonality"] > 0 for line in log_of(without))
    run(replace(config, orthogonality=0.0))
    assert_same(end_of(without), end_of(config))


def test_a_weight_for_the_orthogonality_that_a_method_leaves_out_is_refused(config):
    with pytest.raises(OptionError, match=r"pcl-no-orthogonal .* leave out --orthogonality 2"):
        run(replace(config, method="pcl-no-orthogonal", orthogonality=2.0))


def test_the_whole_face_may_be_contrasted_and_edges_left_out(config, monkeypatch):
    edges = []
    monkeypatch.setattr(views, "quadrant_centres", lambda *_: pytest.fail("quadrants"))
    monkeypatch.setattr(views, "sobel", lambda images: edges.append(len(images)) or images)
    run(replace(config, face_crops="whole", edges=0.0, steps=1))
    assert edges == [0] * len(edges) != []


def test_simclr_may_see_the_views_of_pcl_relative(config, monkeypatch):
    monkeypatch.setattr(substeps.augment, "face_views", lambda *_: pytest.fail("other views"))
    run(replace(config, method="simclr", face_crops="aligned", steps=1))


def test_pcl_relative_trains_the_trunk_both_branches_and_three_heads(finished):
    config = finished("pcl-relative")
    before, after = start_of(config), end_of(config)
    heads = {name.partition(".")[0] for name in after}
    assert heads == {"encoder", "shared_head", "face_head", "turn_head"}
    for part in ("encoder.face", "encoder.pose", "turn_head.linear"):
        assert any(not torch.equal(before[name], after[name]) for name in after if name.startswith(part))
    assert {"shared", "face", "relative"} <= log_of(config)[0].keys()


def test_a_contrast_loss_that_is_alone_has_weight_1():
    assert dynamic_weights([], count=1) == (1.0,)
    assert dynamic_weights([[2.0], [1.0], [3.0]], count=1) == (1.0,)


def test_a_contrast_loss_that_was_0_is_no_end_of_a_run():
    softmax = torch.tensor([0.5, 0.0]).softmax(0)
    assert dynamic_weights([[1.0, 0.0], [1.0, 0.0]]) == pytest.approx((2 * softmax).tolist())
    assert dynamic_weights([[1.0, 1e-7], [1.0, 0.5]]) == (0.0, 2.0)
