"""`--method`: what each of them trains, sees and leaves out, a few steps of each on the sample faces."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import facepcl
from facepcl.errors import DataError, OptionError, WeightsError
from facepcl.models.io import load_tensors
from facepcl.pretrain import Config, dynamic_weights, run, substeps
from facepcl.pretrain import augment as views
from facepcl.pretrain.config import METHODS
from facepcl.pretrain.networks import Networks

FACES = Path(__file__).resolve().parents[1] / "examples/faces"
UNLABELLED = [method for method in METHODS if method != "labels"]
VIEWS = {"pcl": 26, "pcl-no-orthogonal": 26, "pcl-no-pose": 16, "simclr": 8}  # of a step below
MODELS = ("pcl_facecycle", "pcl_resnet18")


@pytest.fixture
def config(tmp_path):
    """Two steps of PCL on the sample faces; float32, so that two runs are equal to the bit."""
    return Config(
        data=(str(FACES),),
        out=str(tmp_path / "run"),
        batch=4,
        pose_batch=2,
        pose_negatives=3,
        source_size=64,
        size=48,
        dtype="float32",
        device="cpu",
        steps=2,
        log_steps=1,
    )


def lines(config):
    return [json.loads(line) for line in Path(config.out, "log.jsonl").read_text().splitlines()]


def end_of(config):
    """All tensors of the last checkpoint."""
    return load_tensors(Path(config.out, f"checkpoint-{config.steps:08d}.safetensors"))


def start_of(config):
    """All tensors before the first step."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return Networks(config.model, {}, config.tasks).state_dict()


@pytest.mark.parametrize("method", UNLABELLED)
def test_each_method_leaves_an_encoder_for_timm_and_facepcl(config, method):
    encoder = run(replace(config, method=method))
    image = torch.rand(1, 3, 64, 64)
    plain = timm.create_model(f"local-dir:{encoder}", pretrained=True).eval()
    ours = facepcl.create_model(f"local-dir:{encoder}").eval()
    assert torch.equal(plain.forward_features(image), ours.forward_features(image))


@pytest.mark.parametrize("method", UNLABELLED)
def test_the_recorded_views_of_a_step_are_those_that_enter_the_encoder(config, method):
    seen = 0

    def count(layer, inputs, _):
        nonlocal seen
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (7, 7):  # the first of the encoder
            seen += len(inputs[0])

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        run(replace(config, method=method, steps=1))
    finally:
        handle.remove()
    recorded = json.loads(Path(config.out, "config.json").read_text())
    assert recorded["views_per_step"] == seen == VIEWS[method]


def test_the_trunk_of_a_seed_starts_the_same_under_every_method(config):
    starts = [start_of(replace(config, method=method)) for method in METHODS]
    trunk = [name for name in starts[0] if name.startswith("encoder.") and ".face." not in name]
    trunk = [name for name in trunk if ".pose." not in name]
    assert len(trunk) > 30
    assert all(torch.equal(start[name], starts[0][name]) for start in starts for name in trunk)


def test_simclr_trains_the_trunk_and_one_head_and_nothing_else(config):
    config = replace(config, method="simclr")
    run(config)
    before, after = start_of(config), end_of(config)
    assert after.keys() == before.keys()
    assert {name.partition(".")[0] for name in after} == {"encoder", "shared_head"}
    assert not [name for name in after if name.startswith(("encoder.face", "encoder.pose"))]
    assert not [name for name in after if name.endswith("weight") and torch.equal(before[name], after[name])]
    measured = {"grad_norm_shared", "rank_shared"}
    assert lines(config)[0].keys() == {"step", "epoch", "lr", "views_per_s", "mfu", "shared"} | measured
    assert not Path(config.out, "samples").exists()  # there is no decoder to draw any


@pytest.mark.parametrize("model", MODELS)
def test_the_branches_that_simclr_did_not_train_are_not_in_its_encoder(config, model):
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
    torch.testing.assert_close(nets.shared_code(images), whole.eval().forward_codes(images).shared)


def test_pcl_without_the_pose_contrast_has_no_pose_head_and_no_pose_loss(config):
    config = replace(config, method="pcl-no-pose")
    run(config)
    assert not [name for name in end_of(config) if name.startswith("pose_head")]
    assert all("pose" not in line and "face" in line for line in lines(config))
    assert all("grad_norm_pose" not in line for line in lines(config))


def test_pcl_without_the_pose_contrast_still_learns_a_pose_branch_by_disentangling(config):
    config = replace(config, method="pcl-no-pose")
    run(config)
    name = "encoder.pose.0.weight"
    assert not torch.equal(start_of(config)[name], end_of(config)[name])


def test_a_method_without_a_pose_contrast_asks_for_no_images_for_it(config):
    few = replace(config, pose_batch=400, steps=1)
    run(replace(few, method="pcl-no-pose"))
    with pytest.raises(DataError, match="fewer than a batch of 400"):
        run(replace(few, out=config.out + "-pcl"))


def test_pcl_without_orthogonality_logs_it_and_trains_as_with_weight_0(config):
    config = replace(config, method="pcl-no-orthogonal", orthogonality=1.0)
    zero = replace(config, method="pcl", orthogonality=0.0, out=config.out + "-zero")
    run(config)
    run(zero)
    assert all(line["orthogonality"] > 0 for line in lines(config))
    without, with_zero = end_of(config), end_of(zero)
    assert all(torch.equal(without[name], with_zero[name]) for name in with_zero)


def test_a_weight_for_the_orthogonality_that_a_method_leaves_out_is_refused(config):
    with pytest.raises(OptionError, match=r"pcl-no-orthogonal .* leave out --orthogonality 2"):
        run(replace(config, method="pcl-no-orthogonal", orthogonality=2.0))


def test_the_whole_face_may_be_contrasted_and_edges_left_out(config, monkeypatch):
    edges = []
    monkeypatch.setattr(views, "quadrant_centres", lambda *_: pytest.fail("quadrants"))
    monkeypatch.setattr(views, "sobel", lambda images: edges.append(len(images)) or images)
    run(replace(config, face_crops="whole", edges=0.0))
    assert edges == [0] * len(edges) != []


def test_a_stopped_run_of_simclr_goes_on_as_if_it_had_not_been(config, monkeypatch):
    config = replace(config, method="simclr", steps=4)
    whole = replace(config, out=config.out + "-whole")
    run(whole)
    real, calls = substeps.contrast_shared, []

    def press(*arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(substeps, "contrast_shared", press)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert Path(config.out, "checkpoint-00000002.safetensors").is_file()
    run(config)
    assert len(calls) == 4
    stopped = end_of(config)
    assert all(torch.equal(stopped[name], value) for name, value in end_of(whole).items())


def test_a_contrast_loss_that_is_alone_has_weight_1():
    assert dynamic_weights([], count=1) == (1.0,)
    assert dynamic_weights([[2.0], [1.0], [3.0]], count=1) == (1.0,)


def test_a_contrast_loss_that_was_0_is_no_end_of_a_run():
    softmax = torch.tensor([0.5, 0.0]).softmax(0)
    assert dynamic_weights([[1.0, 0.0], [1.0, 0.0]]) == pytest.approx((2 * softmax).tolist())
    assert dynamic_weights([[1.0, 1e-7], [1.0, 0.5]]) == (0.0, 2.0)
