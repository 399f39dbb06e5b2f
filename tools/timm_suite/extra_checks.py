"""What facepcl's models need on the Hub and in use, and timm's own tests do not check.

The plugin gives every test the name of each model. Weights are random and come from files made here.
"""

import contextlib
import copy
import io
import json
import math
import pickle
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2

from facepcl.errors import OptionError, WeightsError


def config(name):
    return timm.models.get_pretrained_cfg(name)


def images(name, batch=2, channels=3, size=None):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, channels, *(size or config(name).input_size[1:]), generator=generator)


def headless(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **options).eval()


def save(tensors, path):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def load(name, path, **options):
    """A model with the weights of a file, as `pretrained=True` loads them."""
    overlay = {"file": str(path), "num_classes": 0, "hf_hub_id": None, "url": None}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options).eval()


def close(found, wanted, tolerance=1e-4):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_a_file_of_weights_is_loaded_whole(model_name, tmp_path):
    source = headless(model_name)
    path = save(source.state_dict(), tmp_path / "model.safetensors")
    for options in ({"num_classes": 0}, {}):
        model = load(model_name, path, **options)
        close(model.forward_features(images(model_name)), source.forward_features(images(model_name)))


@pytest.mark.parametrize(
    "options",
    [{"num_classes": 0}, {"num_classes": 5}, {"features_only": True}, {"num_classes": 5, "in_chans": 1}],
    ids=str,
)
def test_a_missing_tensor_is_an_error(model_name, options, tmp_path):
    """With another `num_classes`, timm loads the whole file non-strictly."""
    tensors = headless(model_name).state_dict()
    convolutions = sorted(name for name, tensor in tensors.items() if tensor.ndim == 4)
    missing = convolutions[len(convolutions) // 2]
    del tensors[missing]
    path = save(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=f"missing {re.escape(missing)}"):
        load(model_name, path, **options)


@pytest.mark.parametrize("classes", [0, 5])
def test_an_unexpected_tensor_is_an_error(model_name, classes, tmp_path):
    """With 5 classes, timm only logs a warning."""
    tensors = headless(model_name).state_dict() | {"not_of_this_model": torch.zeros(2)}
    path = save(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="not_of_this_model"):
        load(model_name, path, num_classes=classes)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels_change_the_first_layer_only(model_name, channels, tmp_path):
    tensors = headless(model_name).state_dict()
    path = save(tensors, tmp_path / "model.safetensors")
    model = load(model_name, path, in_chans=channels, num_classes=0)
    for name, tensor in model.state_dict().items():
        if name != f"{config(model_name).first_conv}.weight":
            assert torch.equal(tensor, tensors[name]), name
    assert model(images(model_name, channels=channels)).isfinite().all()


def test_a_path_as_pretrained_is_an_error(model_name):
    """timm takes any true value for True, and would load other weights."""
    with pytest.raises(OptionError, match="True or False"):
        timm.create_model(model_name, pretrained="no_such_file.safetensors")


def test_a_hub_folder_loads_as_it_was_saved(model_name, tmp_path):
    source = headless(model_name)
    timm.models.save_for_hf(source, tmp_path, safe_serialization=True)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["architecture"], saved["num_classes"]) == (model_name, 0)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    close(model(images(model_name)), source(images(model_name)), 1e-6)
    assert tuple(timm.data.resolve_model_data_config(model)["mean"]) == tuple(config(model_name).mean)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3).eval()
    close(model.forward_features(images(model_name)), source.forward_features(images(model_name)), 1e-6)


def test_a_saved_config_has_no_path_of_this_machine(model_name, tmp_path):
    for name in {model_name, *timm.list_models(model_name, include_tags=True)}:
        timm.models.save_for_hf(timm.create_model(name, num_classes=0), tmp_path, safe_serialization=True)
        saved = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
        assert not saved.keys() & {"file", "url", "hf_hub_id", "source"}
        assert not any(isinstance(value, str) and value.startswith("/") for value in saved.values())


@torch.no_grad()
def test_images_have_any_size_from_32_pixels(model_name):
    model = headless(model_name)
    shape = model(images(model_name)).shape
    for size in ((32, 32), (100, 100), (48, 72), (33, 57)):
        assert model(images(model_name, size=size)).shape == shape, size


@torch.no_grad()
@pytest.mark.parametrize("indices", [(-1,), (0,), (1, 3)], ids=str)
@pytest.mark.parametrize("kind", [None, "getter", "hook", "fx"])
def test_features_only_are_the_intermediates(model_name, kind, indices):
    model, x = headless(model_name), images(model_name)
    intermediates = model.forward_intermediates(x, intermediates_only=True)
    options = {"feature_cls": kind} if kind else {}
    extractor = timm.create_model(model_name, features_only=True, out_indices=indices, **options).eval()
    names = {name: re.sub(r"^(model|body|graph_module)\.", "", name) for name in extractor.state_dict()}
    extractor.load_state_dict({name: model.state_dict()[own] for name, own in names.items()})
    info = extractor.feature_info
    for index, feature in zip(indices, extractor(x), strict=True):
        close(feature, intermediates[index])
        assert feature.shape[1] == info.channels(index)
        assert feature.shape[2] == math.ceil(x.shape[2] / info.reduction(index))


@torch.no_grad()
def test_the_batch_does_not_matter_in_eval_mode(model_name):
    model, x = headless(model_name), images(model_name, 4)
    close(model(x), torch.cat([model(image) for image in x.split(1)]), 1e-5)


@torch.no_grad()
def test_copies_pickles_and_channels_last_are_equal(model_name):
    model, x = headless(model_name), images(model_name)
    wanted = model(x)
    close(copy.deepcopy(model)(x), wanted, 1e-6)
    close(pickle.loads(pickle.dumps(model))(x), wanted, 1e-6)
    last = torch.channels_last
    close(model.to(memory_format=last)(x.contiguous(memory_format=last)), wanted)


@torch.no_grad()
def test_export_with_a_dynamic_batch_and_compile(model_name):
    model, x = headless(model_name), images(model_name)
    wanted = model(x)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    close(exported(x), wanted)
    assert len(exported(images(model_name, 5))) == 5
    close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), wanted)


@torch.no_grad()
def test_a_model_made_on_the_meta_device_can_be_filled(model_name):
    model = timm.create_model(model_name, num_classes=3, device="meta").to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.fill_(float("nan"))
    source = timm.create_model(model_name, num_classes=3).eval()
    model.load_state_dict(source.state_dict())
    close(model.eval()(images(model_name)), source(images(model_name)), 1e-6)


def test_layer_decay_distinguishes_the_stages(model_name):
    model = timm.create_model(model_name, num_classes=3)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    scales = {group.get("lr_scale", 1.0) for group in optimizer.param_groups}
    assert len(scales) >= len(model.feature_info)


def test_a_model_prints_nothing_and_changes_no_global_setting(model_name):
    output, errors = io.StringIO(), io.StringIO()
    before = torch.get_num_threads(), torch.get_default_dtype()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        headless(model_name)(images(model_name))
    assert output.getvalue() == errors.getvalue() == ""
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before


@torch.no_grad()
def test_branches_leave_the_backbone_unchanged(model_name, tmp_path):
    whole, x = headless(model_name, branches=True), images(model_name)
    added = whole.state_dict().keys() - headless(model_name).state_dict().keys()
    assert {name.partition(".")[0] for name in added} == {"face", "pose"}
    path = save(whole.state_dict(), tmp_path / "whole.safetensors")
    backbone = load(model_name, path, num_classes=0)
    assert torch.equal(backbone(x), whole(x))
    maps, codes = whole.forward_branches(x), whole.forward_codes(x)
    assert maps._fields == codes._fields == ("shared", "face", "pose")
    assert {m.ndim for m in maps} == {4}
    assert {c.ndim for c in codes} == {2}
    close(maps.shared, backbone.forward_features(x), 1e-6)
    path = save(backbone.state_dict(), tmp_path / "backbone.safetensors")
    with pytest.raises(WeightsError, match=r"missing face\."):
        load(model_name, path, num_classes=0, branches=True)


class Branches(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return tuple(self.model.forward_branches(x))


@torch.no_grad()
def test_branches_can_be_scripted_exported_and_saved(model_name, tmp_path):
    model, x = headless(model_name, branches=True), images(model_name)
    wanted = tuple(model.forward_branches(x))
    close(tuple(torch.jit.script(model).forward_branches(x)), wanted)
    close(tuple(torch.export.export(Branches(model), (x,)).module()(x)), wanted)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    close(tuple(loaded.forward_branches(x)), wanted, 1e-6)


def test_every_parameter_of_the_branches_gets_a_gradient(model_name):
    model = headless(model_name, branches=True).train()
    sum(maps.square().mean() for maps in model.forward_branches(images(model_name))).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
