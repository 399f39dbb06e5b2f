"""`--init`: a run that starts from weights."""

import shutil
from dataclasses import replace

import pytest
import torch

from facepcl.errors import WeightsError
from facepcl.models.io import load_tensors, save_tensors
from facepcl.pretrain import Config, run

SMALL = {
    "batch": 2,
    "pose_batch": 2,
    "pose_negatives": 1,
    "source_size": 64,
    "dtype": "float32",
    "steps": 3,
    "log_steps": 1,
}


@pytest.fixture
def config(faces_folder, tmp_path):
    return Config(data=(str(faces_folder),), out=str(tmp_path / "run"), **SMALL)


def test_a_run_starts_from_the_weights_it_is_given(config, tmp_path):
    first = run(replace(config, out=str(tmp_path / "first")))
    for init in (f"local-dir:{first}", f"{first}/model.safetensors"):
        run(replace(config, out=str(tmp_path / "second"), init=init, lr=0.0, seed=1))
        trained = load_tensors(tmp_path / "second/checkpoint-00000003.safetensors")
        weights = load_tensors(first / "model.safetensors")
        assert all(torch.equal(trained[f"encoder.{name}"], weights[name]) for name in weights)
        decoder = load_tensors(first / "decoder.safetensors")["fc.weight"]
        assert torch.equal(trained["decoder.fc.weight"], decoder) == init.startswith("local-dir:")
        shutil.rmtree(tmp_path / "second")


def test_a_file_without_branches_leaves_them_as_they_begin(config, tmp_path):
    first = run(replace(config, method="simclr", out=str(tmp_path / "first"), steps=1))
    run(replace(config, init=f"{first}/model.safetensors", lr=0.0, steps=1))
    trained = load_tensors(tmp_path / "run/checkpoint-00000001.safetensors")
    weights = load_tensors(first / "model.safetensors")
    assert all(torch.equal(trained[f"encoder.{name}"], weights[name]) for name in weights)
    assert not any("face." in name for name in weights)


@pytest.mark.parametrize("damage", ["cut off", "of another"])
def test_a_damaged_decoder_is_no_reason_to_begin_without_one(config, tmp_path, damage):
    first = run(replace(config, out=str(tmp_path / "first"), steps=1))
    decoder = first / "decoder.safetensors"
    if damage == "cut off":
        decoder.write_bytes(decoder.read_bytes()[:1000])
    else:
        save_tensors({"fc.weight": torch.zeros(1)}, decoder)
    with pytest.raises(WeightsError, match=r"decoder\.safetensors is not"):
        run(replace(config, init=f"local-dir:{first}"))


def test_a_run_started_from_weights_goes_on_without_them(config, tmp_path):
    first = run(replace(config, out=str(tmp_path / "first")))
    config = replace(config, init=f"local-dir:{first}")
    encoder = run(config)
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(encoder)
    assert run(config) == encoder
