"""3x3 convolutions on tiny maps as matrix products: same results and gradients, nothing left behind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import facepcl
from facepcl.models.io import load_tensors
from facepcl.pretrain import Config, loop, run, unfolded
from facepcl.pretrain.unfolded import unfolded_convs, unfolding_pays


@pytest.fixture
def config(faces_folder, tmp_path):
    return Config(
        data=(str(faces_folder),),
        out=str(tmp_path / "run"),
        model="pcl_resnet18",
        method="simclr",
        batch=3,
        size=64,
        source_size=64,
        device="cpu",
        steps=2,
    )


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_convolution(side, stride, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 4, 3, stride, padding=1, bias=bias).double()
    images = torch.randn(3, 6, side, side, dtype=torch.float64, requires_grad=True)
    results = []
    for found in (layer(images), unfolded.unfolded_conv(layer, images)):
        gradients = torch.autograd.grad(found.square().sum(), [images, *layer.parameters()])
        results.append((found, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def used(network, images, monkeypatch):
    """Sides of the maps that are unfolded in a pass."""
    seen, real = [], unfolded.unfolded_conv

    def note(layer, x):
        seen.append(x.shape[-1])
        return real(layer, x)

    monkeypatch.setattr(unfolded, "unfolded_conv", note)
    with unfolded_convs(network):
        network(images)
    return seen


def test_only_tiny_maps_are_unfolded_and_only_in_training(monkeypatch):
    network = facepcl.create_model("pcl_resnet18")
    images = torch.rand(2, 3, 64, 64)
    # the last stage: 4 x 4 in, 2 x 2 out and among themselves
    assert used(network.train(), images, monkeypatch) == [4, 2, 2, 2]
    assert used(network.eval(), images, monkeypatch) == []
    with torch.no_grad():
        assert used(network.train(), images, monkeypatch) == []


def test_names_and_classes_are_as_before_afterwards():
    network = facepcl.create_model("pcl_resnet18")
    kinds = [type(layer) for layer in network.modules()]
    names = list(network.state_dict())
    with unfolded_convs(network):
        assert list(network.state_dict()) == names
    assert [type(layer) for layer in network.modules()] == kinds


def test_it_does_not_pay_without_tiny_maps(monkeypatch):
    monkeypatch.setattr(unfolded, "training_pass", lambda *_: pytest.fail("timed"))
    network = facepcl.create_model("pcl_facecycle")
    assert not unfolding_pays(network, torch.rand(2, 3, 64, 64), torch.float32)


@pytest.mark.parametrize(("with_it", "pays"), [(0.9, True), (0.99, False)])
def test_a_timing_decides(monkeypatch, with_it, pays):
    plain = []

    def timed(ways, rounds):
        for work in ways.values():
            work()
        return {way: with_it if way else 1.0 for way in ways}

    def note(network, *_):
        plain.append(type(network.layer4[0].conv2) is nn.Conv2d)

    monkeypatch.setattr(unfolded, "least_seconds", timed)
    monkeypatch.setattr(unfolded, "training_pass", note)
    network = facepcl.create_model("pcl_resnet18")
    assert unfolding_pays(network, torch.rand(2, 3, 64, 64), torch.float32) is pays
    assert plain == [True, False]


def test_a_run_with_a_dtype_of_its_own_is_decided_by_its_seed_alone(config, monkeypatch):
    monkeypatch.setattr(loop, "unfolding_pays", lambda *_: pytest.fail("timed"))
    run(replace(config, dtype="float32", steps=1))


@pytest.mark.slow
def test_a_run_records_the_choice_and_goes_on_with_it(config, monkeypatch):
    monkeypatch.setattr(loop, "training_dtype", lambda *_: torch.float32)
    monkeypatch.setattr(loop, "unfolding_pays", lambda *_: True)
    weights = load_tensors(run(config) / "model.safetensors")
    recorded = json.loads(Path(config.out, "config.json").read_text())
    assert recorded["unfold"] is True
    monkeypatch.setattr(loop, "unfolding_pays", lambda *_: pytest.fail("asked again"))
    run(config)
    monkeypatch.setattr(loop, "unfolding_pays", lambda *_: False)
    plain = load_tensors(run(replace(config, out=config.out + "-plain")) / "model.safetensors")
    # Adam's first steps have the size of the learning rate whatever the gradient is
    for name, value in plain.items():
        torch.testing.assert_close(weights[name].float(), value.float(), atol=5e-4, rtol=1e-3)
