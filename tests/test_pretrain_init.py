"""`--init`: a run that starts from weights."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.files import FACES
from helpers.training import end_of, label_faces
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import facepcl
from facepcl import FaceEmbedder
from facepcl.errors import OptionError, WeightsError
from facepcl.models.io import load_tensors, save_encoder, save_tensors
from facepcl.pretrain import Config, loop, networks, run
from facepcl.pretrain.networks import Networks


@pytest.fixture
def first(finished, tmp_path):
    """A copy of the encoder that a run of PCL left."""
    return shutil.copytree(f"{finished('pcl').out}/encoder", tmp_path / "first")


@pytest.mark.parametrize("file", [False, True])
def test_networks_start_from_the_weights_they_are_given(first, file):
    nets = Networks("pcl_facecycle", {})
    nets.start_from(f"{first}/model.safetensors" if file else f"local-dir:{first}")
    found, weights = nets.state_dict(), load_tensors(first / "model.safetensors")
    assert all(torch.equal(found[f"encoder.{name}"], weights[name]) for name in weights)
    decoder = load_tensors(first / "decoder.safetensors")["fc.weight"]
    assert torch.equal(found["decoder.fc.weight"], decoder) != file


@pytest.mark.slow
def test_a_file_without_branches_leaves_them_as_they_begin(config, finished):
    init = f"{finished('simclr').out}/encoder/model.safetensors"
    config = replace(config, init=init, lr=0.0, steps=1)
    run(config)
    trained, weights = end_of(config), load_tensors(init)
    assert all(torch.equal(trained[f"encoder.{name}"], weights[name]) for name in weights)
    assert not any("face." in name for name in weights)


@pytest.fixture
def resnet(tmp_path):
    """A ResNet-18 whose weights expect ImageNet's normalisation."""
    model = facepcl.create_model("pcl_resnet18", num_classes=0)
    model.pretrained_cfg |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return save_encoder(model, tmp_path / "resnet")


def codes(folder):
    return FaceEmbedder(f"local-dir:{folder}", dtype="float32")(FACES[:4])


def test_a_frozen_encoder_gives_the_codes_it_gave_before_also_by_a_run_that_goes_on(resnet, tmp_path):
    label_faces(faces := tmp_path / "faces")
    config = Config((str(faces),), str(tmp_path / "run"), model="pcl_resnet18", method="labels", freeze=True)
    config = replace(config, init=f"local-dir:{resnet}", batch=6, steps=2, size=96)
    before, after = codes(resnet), codes(encoder := run(config))
    np.testing.assert_array_equal(after, before)
    shutil.rmtree(encoder)
    np.testing.assert_array_equal(codes(run(config)), before)


def test_heads_begin_as_the_released_ones_of_the_weights(finished, tmp_path):
    previous = finished("labels")
    config = replace(previous, out=str(tmp_path / "run"), init=f"local-dir:{previous.out}/encoder", lr=0.0)
    found, known = (load_tensors(f"{c}/heads.safetensors") for c in (run(config), f"{previous.out}/encoder"))
    assert {"identity.weight", "pose.weight"} <= known.keys()
    for name in (name for name in known if name.endswith("weight")):
        # not equal: views of twelve images tell the statistics of the inputs roughly; of random heads it is 0
        assert F.cosine_similarity(found[name].flatten(), known[name].flatten(), dim=0) > 0.5


def test_timing_dtypes_leaves_the_weights_statistics_alone(resnet, tmp_path):
    """Heads of `--init` start from them, before the first step."""
    label_faces(faces := tmp_path / "faces")
    (out := tmp_path / "run").mkdir()
    config = Config((str(faces),), str(out), model="pcl_resnet18", method="labels", dtype="auto")
    training = loop._start(replace(config, init=f"local-dir:{resnet}", batch=6, steps=2), progress=False)
    weights = load_tensors(resnet / "model.safetensors")
    assert torch.equal(training.nets.encoder.bn1.running_mean, weights["bn1.running_mean"])


def test_weights_of_another_width_are_one_sentence(tmp_path):
    model = facepcl.create_model("pcl_resnet18", in_chans=1, num_classes=0)
    init = f"local-dir:{save_encoder(model, tmp_path / 'grey')}"
    with pytest.raises(OptionError, match=r"does not fit --model .*: conv1.weight is \[64, 1, 7, 7\]"):
        Networks("pcl_resnet18", {}).start_from(init)


def test_what_a_run_sees_is_normalised_as_its_weights_expect():
    images = torch.rand(2, 3, 64, 64)
    nets = Networks("pcl_resnet18", {}, ("shared",))
    nets.encoder.pretrained_cfg |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    normal = torch.stack([(images[:, i] - (0.5, 0.4, 0.3)[i]) / (0.2, 0.3, 0.4)[i] for i in range(3)], 1)
    torch.testing.assert_close(nets.eval().trunk(images), nets.encoder.forward_features(normal))


def test_pcl_starts_from_weights_of_timm(monkeypatch):
    def downloaded(name, *options, **others):
        return facepcl.create_model(name.partition(".")[0], False, **others)

    nets = Networks("test_resnet", {})
    monkeypatch.setattr(networks, "create_model", downloaded)
    nets.start_from("test_resnet.r160_in1k")


@pytest.mark.parametrize("damage", ["cut off", "of another"])
def test_a_damaged_decoder_is_no_reason_to_begin_without_one(config, first, damage):
    decoder = first / "decoder.safetensors"
    if damage == "cut off":
        decoder.write_bytes(decoder.read_bytes()[:1000])
    else:
        save_tensors({"fc.weight": torch.zeros(1)}, decoder)
    with pytest.raises(WeightsError, match=r"decoder\.safetensors is not"):
        run(replace(config, init=f"local-dir:{first}"))


def test_a_run_starts_from_weights_and_goes_on_without_them(config, first):
    config = replace(config, method="simclr", init=f"local-dir:{first}", lr=0.0)
    encoder, weights = run(config), load_tensors(first / "model.safetensors")
    trained = {name: tensor for name, tensor in end_of(config).items() if name.startswith("encoder.")}
    assert all(torch.equal(tensor, weights[name[len("encoder.") :]]) for name, tensor in trained.items())
    shutil.rmtree(first)
    shutil.rmtree(encoder)
    assert run(config) == encoder
