"""Models that an embedder cannot use are refused in one sentence; wrapped ones are used."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from timm.utils import ModelEmaV3

import facepcl
from facepcl.errors import OptionError, WeightsError
from facepcl.utils import device

IMAGE = np.zeros((70, 70, 3), np.uint8)


def test_a_model_of_grey_images_is_refused():
    with pytest.raises(
        OptionError, match="pcl_facecycle does not accept RGB images of 64 x 64 pixels in float32"
    ):
        facepcl.FaceEmbedder(timm.create_model("pcl_facecycle", in_chans=1))


def test_a_module_that_does_not_say_how_its_images_are_prepared_is_refused():
    class Plain(torch.nn.Conv2d):
        def forward_features(self, x):
            return self(x)

    with pytest.raises(OptionError, match="Plain has no pretrained_cfg"):
        facepcl.FaceEmbedder(Plain(3, 8, 3))


def test_a_compiled_model_embeds_as_what_was_compiled():
    model = timm.create_model("pcl_facecycle")
    wanted = facepcl.FaceEmbedder(model, dtype="float32")([IMAGE])
    assert np.array_equal(facepcl.FaceEmbedder(torch.compile(model), dtype="float32")([IMAGE]), wanted)


@pytest.mark.parametrize("wrapper", [torch.nn.DataParallel, ModelEmaV3])
def test_a_wrapped_model_embeds_as_what_was_wrapped(wrapper):
    model = timm.create_model("pcl_facecycle")
    wanted = facepcl.FaceEmbedder(model, dtype="float32")([IMAGE])
    assert np.array_equal(facepcl.FaceEmbedder(wrapper(model), dtype="float32")([IMAGE]), wanted)


@pytest.mark.parametrize("lost", ["conv1.weight", "layer2.0.conv1.weight", "layer4.1.bn2.running_mean"])
def test_a_folder_of_timm_with_a_tensor_missing_is_refused_whatever_its_classifier(lost, tmp_path):
    save_for_hf(timm.create_model("resnet18", num_classes=3), tmp_path, safe_serialization=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"does not have the weights of its network \(.*{lost}"):
        facepcl.FaceEmbedder(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("name", ["pcl_facecycle", "pcl_resnet18", "resnet18"])
def test_a_model_without_pooling_has_its_whole_map_as_its_code(name):
    model = timm.create_model(name, global_pool="", num_classes=0)
    embedder = facepcl.FaceEmbedder(model, dtype="float32")
    assert embedder([IMAGE]).shape == (1, embedder.meta["dimension"])


@pytest.mark.filterwarnings("ignore")  # torch calls its own quantisation deprecated
def test_a_quantised_model_embeds_in_float32_and_its_weights_tell_it_from_others(monkeypatch):
    monkeypatch.setattr(device, "has_bfloat16_units", lambda: True)
    hashes = set()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1).eval()
        embedder = facepcl.FaceEmbedder(torch.ao.quantization.quantize_dynamic(plain, {torch.nn.Linear}))
        assert embedder.meta["dtype"] == "float32"
        assert embedder([IMAGE]).shape == (1, 192)
        hashes.add(embedder.meta["weights_sha256"])
    assert len(hashes) == 2


class Remembers(torch.nn.Module):
    def __init__(self, state):
        super().__init__()
        self.state = state

    def get_extra_state(self):
        return self.state


def test_a_state_dict_may_hold_plain_values_and_is_refused_with_other_objects():
    model = timm.create_model("pcl_facecycle")
    model.fc = Remembers({"levels": [1, torch.ones(2)], "kind": "int8"})
    hashes = {facepcl.FaceEmbedder(model).meta["weights_sha256"]}
    model.fc = Remembers({"levels": [2, torch.ones(2)], "kind": "int8"})
    hashes.add(facepcl.FaceEmbedder(model).meta["weights_sha256"])
    assert len(hashes) == 2
    model.fc = Remembers(object())
    with pytest.raises(
        OptionError, match=r"fc\._extra_state of its state_dict is an object of class object, and"
    ):
        facepcl.FaceEmbedder(model)
