"""The models as timm's users meet them; the whole of timm's own suite runs in test_timm_suite.py."""

import json
import math
import pickle
import re
from collections import Counter

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2

import facepcl
from facepcl.models.io import save_tensors

MODELS = ("pcl_facecycle", "pcl_resnet18", "pcl_resnet50")
SIZES = {"pcl_facecycle": 64, "pcl_resnet18": 96, "pcl_resnet50": 96}  # those of the weights
each_model = pytest.mark.parametrize("name", MODELS)


def image(name, batch=2, chans=3):
    _, height, width = timm.models.get_pretrained_cfg(name).input_size
    return torch.rand(batch, chans, height, width, generator=torch.Generator().manual_seed(0))


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_the_models_are_registered():
    assert timm.list_models("pcl_*") == sorted(MODELS)


@each_model
def test_input_size_mean_and_std_are_the_models_own(name):
    config = resolve_model_data_config(timm.create_model(name))
    size = SIZES[name]
    assert config == {
        "input_size": (3, size, size),
        "interpolation": "bicubic",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "crop_pct": 1.0,
        "crop_mode": "center",
    }


@each_model
def test_without_classes_the_pooled_trunk_comes_out(name):
    model = timm.create_model(name).eval()
    x = image(name)
    features = model.forward_features(x)
    close(model(x), features.mean((2, 3)))
    assert model(x).shape == (2, model.num_features)


@each_model
def test_forward_head_before_the_logits_is_what_no_classifier_gives(name):
    model = timm.create_model(name, num_classes=7, drop_rate=0.1).eval()
    x = image(name)
    assert model(x).shape == (2, 7)
    before = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(0)
    close(model(x), before)


@each_model
def test_dropout_acts_in_training_only(name):
    model = timm.create_model(name, drop_rate=0.5)
    features = model.forward_features(image(name))
    assert (model.train().forward_head(features) == 0).float().mean() > 0.3
    close(model.eval().forward_head(features), features.mean((2, 3)))


@each_model
def test_branches_come_behind_the_same_trunk(name):
    torch.manual_seed(0)
    full = facepcl.create_model(name).eval()
    trunk = timm.create_model(name).eval()
    trunk.load_state_dict(
        {k: v for k, v in full.state_dict().items() if not k.startswith(("face.", "pose."))}
    )
    x = image(name)
    with torch.no_grad():
        assert torch.equal(trunk(x), full(x))
        maps, codes = full.forward_branches(x), full.forward_codes(x)
    close(maps.shared, trunk.forward_features(x))
    side = 4 if name == "pcl_facecycle" else 3
    assert maps.face.shape == maps.pose.shape == (2, 128, side, side)
    assert codes.face.shape == codes.pose.shape == (2, 128 * side**2)
    assert torch.equal(codes.face, maps.face.flatten(1))
    assert codes.shared.shape == (2, {"pcl_facecycle": 2048, "pcl_resnet18": 512, "pcl_resnet50": 2048}[name])


@each_model
@pytest.mark.parametrize("indices", [(-1,), (0,), (1, 3)], ids=str)
@pytest.mark.parametrize("kind", ["cls", "getter", "hook", "fx"])
@torch.no_grad()
def test_features_only_gives_the_intermediates_and_has_no_branches(name, kind, indices):
    model, x = timm.create_model(name).eval(), image(name)
    intermediates = model.forward_intermediates(x, intermediates_only=True)
    options = {} if kind == "cls" else {"feature_cls": kind}
    extractor = facepcl.create_model(name, features_only=True, out_indices=indices, **options).eval()
    own = {key: re.sub(r"^(model|body|graph_module)\.", "", key) for key in extractor.state_dict()}
    assert not any(key.startswith(("face", "pose")) for key in own.values())
    extractor.load_state_dict({key: model.state_dict()[name] for key, name in own.items()})
    info = extractor.feature_info
    for index, feature in zip(indices, extractor(x), strict=True):
        close(feature, intermediates[index], 1e-4)
        assert feature.shape[1] == info.channels(index)
        assert feature.shape[2] == math.ceil(x.shape[2] / info.reduction(index))


@each_model
@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels_change_the_first_layer_only(name, channels, tmp_path):
    tensors = timm.create_model(name).state_dict()
    save_tensors(tensors, tmp_path / "w.safetensors")
    path = tmp_path / "w.safetensors"
    model = facepcl.create_model(name, pretrained=path, branches=False, in_chans=channels).eval()
    for key, tensor in model.state_dict().items():
        if key != f"{timm.models.get_pretrained_cfg(name).first_conv}.weight":
            assert torch.equal(tensor, tensors[key]), key
    assert model(image(name, chans=channels)).isfinite().all()


@each_model
@torch.no_grad()
def test_the_batch_does_not_matter_in_eval_mode(name):
    model, x = timm.create_model(name).eval(), image(name, 4)
    close(model(x), torch.cat([model(part) for part in x.split(1)]))


@pytest.mark.slow
@each_model
@torch.no_grad()
def test_export_with_a_dynamic_batch_and_compile(name):
    model, x = timm.create_model(name).eval(), image(name)
    wanted = model(x)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    close(exported(x), wanted)
    assert len(exported(image(name, 5))) == 5
    close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), wanted)


@each_model
def test_layer_decay_distinguishes_the_stages(name):
    model = timm.create_model(name, num_classes=3)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    scales = {group.get("lr_scale", 1.0) for group in optimizer.param_groups}
    assert len(scales) >= len(model.feature_info)


@each_model
def test_a_model_prints_nothing_and_changes_no_global_setting(name, capfd):
    before = torch.get_num_threads(), torch.get_default_dtype()
    timm.create_model(name).eval()(image(name))
    assert tuple(capfd.readouterr()) == ("", "")
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before


@each_model
def test_every_parameter_of_the_branches_gets_a_gradient(name):
    model = facepcl.create_model(name, num_classes=0).train()
    sum(maps.square().mean() for maps in model.forward_branches(image(name))).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


@each_model
def test_a_saved_config_has_no_path_of_this_machine(name, tmp_path):
    for tagged in {name, *timm.list_models(name, include_tags=True)}:
        save_for_hf(timm.create_model(tagged, num_classes=0), tmp_path, safe_serialization=True)
        saved = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
        assert not saved.keys() & {"file", "url", "hf_hub_id", "source"}
        assert not any(isinstance(value, str) and value.startswith("/") for value in saved.values())


def test_facecycle_levels():
    model = timm.create_model("pcl_facecycle", features_only=True)
    assert model.feature_info.channels() == [64, 128, 128, 128]
    assert model.feature_info.reduction() == [2, 4, 8, 16]


@pytest.mark.parametrize(("indices", "width"), [([0], 64), ([1], 128), ([3], 128)])
def test_a_pruned_facecycle_knows_its_width(indices, width):
    model = facepcl.create_model("pcl_facecycle", num_classes=5)
    x = image("pcl_facecycle")
    wanted = model.forward_intermediates(x, indices=indices, intermediates_only=True)[0]
    model.prune_intermediate_layers(indices)
    assert model.num_features == model.head_hidden_size == width
    assert model.face is None
    close(model.forward_features(x), wanted)
    model.reset_classifier(3, "avg")
    assert model(x).shape == (2, 3)


def test_a_pruned_resnet_loses_its_branches():
    model = facepcl.create_model("pcl_resnet18")
    model.prune_intermediate_layers([2])
    assert model.num_features == 128
    assert not any(k.startswith(("face", "pose", "layer4")) for k in model.state_dict())
    with pytest.raises(RuntimeError, match="pruned"):
        model.forward_branches(image("pcl_resnet18"))


def test_a_facecycle_without_branches_says_so():
    with pytest.raises(RuntimeError, match="branches=True"):
        timm.create_model("pcl_facecycle").forward_branches(image("pcl_facecycle"))


@each_model
def test_checkpointing_computes_inner_layers_twice_and_changes_no_output_and_no_gradient(name):
    model = timm.create_model(name).train()
    x = image(name)
    inner = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)][3]
    calls, outputs, gradients = [], [], []
    inner.register_forward_hook(lambda *args: calls.append(1))
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        outputs.append(model(x))
        outputs[-1].square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(calls) == 1 + 2
    close(*outputs, 1e-5)
    assert len(gradients[0]) == len(gradients[1])
    for without, with_it in zip(*gradients, strict=True):
        close(without, with_it, 1e-4)  # a ResNet's statistics in float32


@each_model
def test_a_model_from_the_meta_device_can_be_filled(name):
    model = facepcl.create_model(name, device="meta", num_classes=3).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    model.init_weights()
    assert all(t.isfinite().all() for t in model.state_dict().values())


@each_model
def test_dtype_and_device_reach_every_parameter(name):
    assert {
        p.dtype for p in facepcl.create_model(name, dtype=torch.bfloat16, num_classes=2).parameters()
    } == {torch.bfloat16}
    assert all(p.is_meta for p in facepcl.create_model(name, device="meta", num_classes=2).parameters())


@each_model
def test_bfloat16_and_channels_last_are_near(name):
    model, x = facepcl.create_model(name).eval(), image(name)
    with torch.no_grad():
        wanted = model.forward_codes(x).shared
        last = x.contiguous(memory_format=torch.channels_last)
        close(model.to(memory_format=torch.channels_last).forward_codes(last).shared, wanted, 1e-4)
        half = model.bfloat16().forward_codes(x.bfloat16()).shared.float()
    cosine = torch.nn.functional.cosine_similarity(half, wanted)
    assert cosine.min() > 0.99  # bfloat16 keeps three digits


@each_model
def test_script_and_pickle_equal_eager(name):
    model, x = facepcl.create_model(name).eval(), image(name)
    with torch.no_grad():
        wanted = model.forward_codes(x)
        for found in (
            torch.jit.script(model).forward_codes(x),
            pickle.loads(pickle.dumps(model)).forward_codes(x),
        ):
            for a, b in zip(found, wanted, strict=True):
                close(a, b)


@each_model
def test_each_activation_is_a_module_of_its_own(name):
    """DeepLift and other tools note what a module saw, and can do so once."""
    model, calls = facepcl.create_model(name).eval(), Counter()
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, *_: calls.update([module]))
    model.forward_codes(image(name))
    assert set(calls.values()) == {1}


@each_model
def test_a_model_with_branches_trains_under_distributed_data_parallel(name, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(facepcl.create_model(name, num_classes=2))
        for _ in range(3):
            model(image(name)).sum().backward()
        assert model.module.fc.weight.grad is not None
        assert model.module.face[0].weight.grad is None
    finally:
        torch.distributed.destroy_process_group()


@each_model
def test_unknown_arguments_are_refused(name):
    with pytest.raises(TypeError):
        timm.create_model(name, img_size=100)


@each_model
@pytest.mark.parametrize("size", [(32, 32), (33, 57), (100, 100)])
def test_any_size_of_32_pixels_or_more(name, size):
    codes = facepcl.create_model(name).eval().forward_codes(torch.rand(1, 3, *size))
    assert all(c.isfinite().all() for c in codes)
