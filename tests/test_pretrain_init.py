"""`--init`: a run that starts from weights."""

import shutil
from dataclasses import replace

import pytest
import torch
from helpers.training import end_of

from facepcl.errors import WeightsError
from facepcl.models.io import load_tensors, save_tensors
from facepcl.pretrain import run


@pytest.fixture
def first(finished, tmp_path):
    """A copy of the encoder that a run of PCL left."""
    return shutil.copytree(f"{finished('pcl').out}/encoder", tmp_path / "first")


@pytest.mark.parametrize("file", [False, True])
def test_a_run_starts_from_the_weights_it_is_given(config, first, file):
    init = f"{first}/model.safetensors" if file else f"local-dir:{first}"
    config = replace(config, init=init, lr=0.0, seed=1, steps=1)
    run(config)
    trained, weights = end_of(config), load_tensors(first / "model.safetensors")
    assert all(torch.equal(trained[f"encoder.{name}"], weights[name]) for name in weights)
    decoder = load_tensors(first / "decoder.safetensors")["fc.weight"]
    assert torch.equal(trained["decoder.fc.weight"], decoder) != file


@pytest.mark.slow
def test_a_file_without_branches_leaves_them_as_they_begin(config, finished):
    init = f"{finished('simclr').out}/encoder/model.safetensors"
    config = replace(config, init=init, lr=0.0, steps=1)
    run(config)
    trained, weights = end_of(config), load_tensors(init)
    assert all(torch.equal(trained[f"encoder.{name}"], weights[name]) for name in weights)
    assert not any("face." in name for name in weights)


@pytest.mark.parametrize("damage", ["cut off", "of another"])
def test_a_damaged_decoder_is_no_reason_to_begin_without_one(config, first, damage):
    decoder = first / "decoder.safetensors"
    if damage == "cut off":
        decoder.write_bytes(decoder.read_bytes()[:1000])
    else:
        save_tensors({"fc.weight": torch.zeros(1)}, decoder)
    with pytest.raises(WeightsError, match=r"decoder\.safetensors is not"):
        run(replace(config, init=f"local-dir:{first}"))


def test_a_run_started_from_weights_goes_on_without_them(config, first):
    config = replace(config, method="simclr", init=f"local-dir:{first}")
    encoder = run(config)
    shutil.rmtree(first)
    shutil.rmtree(encoder)
    assert run(config) == encoder
