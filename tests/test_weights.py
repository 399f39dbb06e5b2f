"""Weights that are missing, damaged, of another model or with a head: the traps of loading through timm."""

import json
import re
from functools import partial

import numpy as np
import pytest
import timm
import torch
from helpers.files import ROOT
from helpers.hub_clients import files_of
from timm.models import save_for_hf

import facepcl
from facepcl.errors import MissingPath, OptionError, WeightsError
from facepcl.models.io import load_tensors, save_encoder, save_tensors
from facepcl.models.registry import Row

MODELS = ("pcl_facecycle", "pcl_resnet18")
each_model = pytest.mark.parametrize("name", MODELS)


def image(name):
    size = timm.models.get_pretrained_cfg(name).input_size
    return torch.rand(2, *size, generator=torch.Generator().manual_seed(0))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture
def saved(tmp_path):
    """saved(name) -> a model with random weights and the file that holds them."""

    def save(name, **changes):
        torch.manual_seed(1)
        model = facepcl.create_model(name, **changes).eval()
        path = tmp_path / f"{name}.safetensors"
        save_tensors(model.state_dict(), path)
        return model, path

    return save


@each_model
@pytest.mark.parametrize("options", [{}, {"num_classes": 5}, {"in_chans": 1, "num_classes": 5}], ids=str)
def test_a_path_loads_the_whole_encoder(saved, name, options):
    model, path = saved(name)
    loaded = facepcl.create_model(name, pretrained=path, **options).eval()
    if "in_chans" not in options:
        for a, b in zip(loaded.forward_codes(image(name)), model.forward_codes(image(name)), strict=True):
            close(a, b)
    assert torch.equal(loaded.face[0].weight, model.face[0].weight)


@each_model
def test_features_only_loads_from_a_path(saved, name):
    model, path = saved(name)
    features = facepcl.create_model(name, pretrained=path, features_only=True, out_indices=(-1,)).eval()
    close(features(image(name))[0], model.forward_features(image(name)))


@each_model
@pytest.mark.parametrize(
    "options", [{"num_classes": 0}, {"num_classes": 5}, {"features_only": True}], ids=str
)
@pytest.mark.parametrize("change", ["missing", "unexpected", "wider"])
def test_a_missing_unexpected_or_wider_tensor_is_always_an_error(saved, name, options, change):
    model, path = saved(name)
    tensors = dict(model.state_dict())
    victim = next(k for k in reversed(tensors) if k.startswith("layer"))
    if change == "missing":
        del tensors[victim]
    elif change == "wider":
        tensors[victim] = torch.zeros(4097)
    else:
        tensors[victim := "layer9.weight"] = torch.zeros(2)
    save_tensors(tensors, path)
    with pytest.raises(WeightsError, match=f"does not fit {name}: .*{victim}"):
        facepcl.create_model(name, pretrained=path, **options)


@each_model
def test_a_file_without_branches_is_an_error_for_a_model_with_them(saved, name):
    trunk, path = saved(name, branches=False)
    with pytest.raises(WeightsError, match="branches=False"):
        facepcl.create_model(name, pretrained=path)
    close(facepcl.create_model(name, pretrained=path, branches=False).eval()(image(name)), trunk(image(name)))


@each_model
def test_a_fine_tuned_head_comes_back_from_its_file(saved, name):
    model, path = saved(name, num_classes=5)
    close(facepcl.create_model(name, pretrained=path, num_classes=5).eval()(image(name)), model(image(name)))


@each_model
@pytest.mark.parametrize("way", ["path", "folder", "repository", "timm's folder", "timm's repository"])
def test_a_classifier_for_other_classes_is_random_and_announced(saved, hub, tmp_path, caplog, name, way):
    model, path = saved(name, num_classes=7, branches=False)
    save_for_hf(model, tmp_path / "tuned", safe_serialization=True)
    hub.put("org/faces", files_of(tmp_path / "tuned"))
    create = timm.create_model if "timm" in way else partial(facepcl.create_model, branches=False)
    source = "hf-hub:org/faces" if "repository" in way else f"local-dir:{tmp_path / 'tuned'}"
    arguments = (name, path) if way == "path" else (source, True)
    for classes in (7, 0):
        create(*arguments, num_classes=classes)
    assert not caplog.text
    create(*arguments, num_classes=3)
    assert re.search(r"has a classifier for 7 classes; that for 3 is random", caplog.text)
    assert len(caplog.records) == 1


def test_so_is_that_of_another_timm_model_and_one_for_as_many_classes_is_kept(tmp_path, caplog):
    torch.manual_seed(0)
    model = facepcl.create_model("test_resnet", num_classes=7)
    name = f"local-dir:{save_encoder(model, tmp_path / 'encoder')}"
    for branches in (True, False):
        same = facepcl.create_model(name, num_classes=7, branches=branches)
        assert torch.equal(same.get_classifier().weight, model.get_classifier().weight)
        assert not caplog.text
        facepcl.create_model(name, num_classes=3, branches=branches)
        assert "encoder has a classifier for 7 classes; that for 3 is random" in caplog.text
        caplog.clear()


def test_both_classifiers_of_a_distilled_network_may_be_for_other_classes(tmp_path):
    model = facepcl.create_model("deit_tiny_distilled_patch16_224", num_classes=7, img_size=32, depth=1)
    folder = save_encoder(model, tmp_path / "encoder")
    assert facepcl.create_model(f"local-dir:{folder}", num_classes=3).trunk.head_dist.out_features == 3


def test_a_file_of_ones_own_is_not_described_as_the_released_weights(saved):
    _, path = saved("pcl_facecycle")
    cfg = facepcl.create_model("pcl_facecycle", pretrained=path).pretrained_cfg
    assert not {"tag", "license", "description"} & set(cfg)


@each_model
def test_float16_files_load_into_float32_models(saved, name):
    model, path = saved(name)
    save_tensors({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, path)
    loaded = facepcl.create_model(name, pretrained=path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@each_model
def test_a_channels_last_model_can_be_saved(name, tmp_path):
    model = facepcl.create_model(name).to(memory_format=torch.channels_last)
    save_tensors(model.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(
        load_tensors(tmp_path / "w.safetensors")["conv1.weight" if "resnet" in name else "conv1.0.weight"],
        model.state_dict()["conv1.weight" if "resnet" in name else "conv1.0.weight"],
    )


@pytest.mark.parametrize("create", [timm.create_model, facepcl.create_model])
def test_pretrained_without_weights_names_the_three_ways(create):
    with pytest.raises(
        WeightsError, match=r"no pretrained weights for pcl_resnet50; train .*convert .*hf-hub"
    ):
        create("pcl_resnet50", pretrained=True, pretrained_cfg_overlay={"file": None})


@each_model
def test_plain_timm_refuses_a_path_as_pretrained(saved, name):
    _, path = saved(name)
    with pytest.raises(OptionError, match=r"facepcl\.create_model"):
        timm.create_model(name, pretrained=str(path))


@pytest.mark.parametrize(
    ("name", "pretrained", "error", "said"),
    [
        ("pcl_vgg", None, OptionError, "Unknown model 'pcl_vgg'"),
        ("resnet18", "weights.safetensors", OptionError, "resnet18 takes True or False"),
        (
            "pcl_resnet50.nope",
            True,
            OptionError,
            r"Unknown tag of pcl_resnet50 'nope'\. Available: synth_labels",
        ),
        ("pcl_facecycle", "nowhere.safetensors", MissingPath, "nowhere.safetensors"),
        ("pcl_facecycle", "weights.pth", OptionError, "never from a pickle"),
        (
            "pcl_resnet5",
            None,
            OptionError,
            r"'pcl_resnet5'\. Did you mean 'pcl_resnet50'\? Available: pcl_face",
        ),
        ("pcl_resnet18.synth_label", True, OptionError, r"Did you mean 'synth_labels'\?"),
        ("org/faces", None, OptionError, r"Did you mean 'hf-hub:org/faces'\?"),
        ("https://huggingface.co/org/faces/tree/v1", None, OptionError, r"mean 'hf-hub:org/faces@v1'\?"),
        ("hub:org/faces", None, OptionError, r"Did you mean 'hf-hub:org/faces'\?"),
        ("tests", None, OptionError, r"Did you mean 'local-dir:tests'\?"),
        ("weights.safetensors", None, OptionError, "pretrained='weights.safetensors'"),
        ("hf_hub:nobody/nothing", None, WeightsError, "hf-hub:nobody/nothing could not be downloaded"),
        ("local-dir:nowhere", None, MissingPath, "nowhere"),
        ("hf-hub:nobody/nothing", None, WeightsError, "hf-hub:nobody/nothing could not be downloaded"),
    ],
)
def test_a_wrong_name_or_file_is_one_sentence(name, pretrained, error, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(error, match=said) as caught:
        facepcl.create_model(name, pretrained)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_an_error(saved):
    _, path = saved("pcl_facecycle")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        facepcl.create_model("pcl_facecycle", pretrained=path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>" + 4096 * b"x", "a web page"),
    ],
)
def test_what_a_download_left_in_the_place_of_weights_is_named(tmp_path, content, said):
    (path := tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"not a complete safetensors file \({said}"):
        facepcl.create_model("pcl_facecycle", pretrained=path)


def test_bundled_weights_of_another_sha256_are_refused(saved, monkeypatch):
    from facepcl.models import weights

    _, path = saved("pcl_facecycle")
    row = Row("pcl_facecycle", "x", "0" * 64, 1, "CC0-1.0", "", "", file=str(path))
    monkeypatch.setattr(weights, "read_index", lambda: (row,))
    with pytest.raises(WeightsError, match="damaged"):
        facepcl.create_model("pcl_facecycle", pretrained=path)


def test_the_trunk_of_resnet50_is_stock_resnet50(tmp_path):
    torch.manual_seed(0)
    model = facepcl.create_model("pcl_resnet50").eval()
    trunk = {k: v for k, v in model.state_dict().items() if not k.startswith(("face.", "pose."))}
    save_tensors(trunk, tmp_path / "trunk.safetensors")
    stock = timm.create_model(
        "resnet50",
        pretrained=True,
        num_classes=0,
        pretrained_cfg_overlay={"file": str(tmp_path / "trunk.safetensors"), "num_classes": 0},
    ).eval()
    x = image("pcl_resnet50")
    with torch.no_grad():
        assert torch.equal(stock(x), model(x))


@each_model
def test_a_folder_brings_back_the_encoder(name, tmp_path):
    torch.manual_seed(0)
    model = facepcl.create_model(name).eval()
    folder = save_encoder(model.to(memory_format=torch.channels_last), tmp_path / "encoder")
    x = image(name)
    for loaded in (
        facepcl.create_model(f"local-dir:{folder}"),
        facepcl.create_model(f"local-dir:{folder}", True),
    ):
        for a, b in zip(loaded.eval().forward_codes(x), model.forward_codes(x), strict=True):
            close(a, b)
        assert "state_dict" not in loaded.pretrained_cfg
    close(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x), model(x))
    random = facepcl.create_model(f"local-dir:{folder}", pretrained=False)
    assert not torch.equal(random.face[0].weight, model.face[0].weight)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pcl_resnet18", {"output_stride": 8}),
        ("pcl_resnet18", {"stem_type": "deep", "act_layer": "gelu", "in_chans": 1, "num_classes": 3}),
        ("pcl_resnet18", {"norm_layer": "groupnorm", "global_pool": "max", "replace_stem_pool": True}),
        ("pcl_resnet18", {"block_args": {"attn_layer": "se"}, "drop_path_rate": 0.1}),
        ("pcl_resnet50", {"layers": (1, 1, 1, 1), "cardinality": 2, "base_width": 32, "avg_down": True}),
        ("pcl_facecycle", {"global_pool": "catavgmax", "num_classes": 3, "in_chans": 1, "drop_rate": 0.1}),
    ],
    ids=str,
)
def test_arguments_that_change_the_network_come_back(name, options, tmp_path):
    torch.manual_seed(0)
    model = facepcl.create_model(name, **options).eval()
    folder = save_encoder(model, tmp_path / "encoder")
    x = torch.rand(2, options.get("in_chans", 3), 96, 96)
    for create in (facepcl.create_model, timm.create_model):
        assert torch.equal(create(f"local-dir:{folder}", pretrained=True).eval()(x), model(x))
    codes = facepcl.create_model(f"local-dir:{folder}").eval().forward_codes(x)
    assert torch.equal(codes.face, model.forward_codes(x).face)


def test_a_network_that_config_json_cannot_describe_is_not_saved(tmp_path):
    by_class = facepcl.create_model("pcl_resnet18", aa_layer=torch.nn.AvgPool2d)
    with pytest.raises(OptionError, match=r"config\.json cannot hold aa_layer=.*AvgPool2d"):
        save_encoder(by_class, tmp_path / "encoder")
    changed = facepcl.create_model("pcl_facecycle")
    changed.layer3_1[1] = torch.nn.ReLU()
    with pytest.raises(
        OptionError, match=r"layer3_1\.1 is ReLU\(\), and LeakyReLU\(negative_slope=0\.1\) in"
    ):
        save_encoder(changed, tmp_path / "encoder")
    with pytest.raises(OptionError, match="a DataParallel cannot be saved; give the model that create_model"):
        save_encoder(torch.nn.DataParallel(facepcl.create_model("pcl_facecycle")), tmp_path / "encoder")
    assert not list(tmp_path.iterdir())


def test_layers_that_differ_in_training_only_are_saved(tmp_path):
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(facepcl.create_model("pcl_resnet18")).eval()
    model.bn1.momentum = 0.01
    model.act1.inplace = False  # as tools that explain a network want it
    folder = save_encoder(torch.compile(model), tmp_path / "encoder")
    x = image("pcl_resnet18")
    assert torch.equal(facepcl.create_model(f"local-dir:{folder}").eval()(x), model(x))


@each_model
def test_a_folder_has_no_argument_that_transformers_passes_too(name, tmp_path):
    """As its TimmWrapperModel makes the network of a folder."""
    save_encoder(facepcl.create_model(name, num_classes=3), tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder/config.json").read_text())
    timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    assert config["num_classes"] == 3


def test_a_folder_that_transformers_saved_is_its_trunk(tmp_path):
    """It saves the trunk, takes num_classes from pretrained_cfg, and keeps the rest of our config.json."""
    model = facepcl.create_model("pcl_resnet18").eval()
    folder = save_encoder(model, tmp_path / "encoder")
    (folder / "branches.safetensors").unlink()
    with pytest.raises(MissingPath, match=r"branches\.safetensors"):
        facepcl.create_model(f"local-dir:{folder}")
    config = json.loads((folder / "config.json").read_text()) | {"transformers_version": "5.0"}
    del config["pretrained_cfg"]["num_classes"]
    (folder / "config.json").write_text(json.dumps(config))
    x = image("pcl_resnet18")
    assert torch.equal(facepcl.create_model(f"local-dir:{folder}").eval()(x), model(x))


@pytest.mark.parametrize("create", [timm.create_model, facepcl.create_model])
@pytest.mark.parametrize(("no", "yes"), [(False, True), (0, 1)])
def test_an_untrained_network_of_a_folder_is_announced_with_the_call_that_loads_it(
    create, no, yes, tmp_path, caplog
):
    name = f"local-dir:{save_encoder(facepcl.create_model('pcl_facecycle'), tmp_path / 'encoder')}"
    said = f'random weights, .* type create_model\\("{name}", pretrained=True\\)'
    create(name, pretrained=no)
    assert re.search(said, caplog.text)
    caplog.clear()
    create(name, pretrained=yes)
    assert not caplog.text


@each_model
def test_an_untrained_network_has_the_branches_that_its_folder_has(name, tmp_path):
    trunk = timm.create_model(name)
    save_for_hf(trunk, str(tmp_path / "of timm"), safe_serialization=True)
    save_encoder(trunk, tmp_path / "ours")
    for folder in ("of timm", "ours"):
        model = facepcl.create_model(f"local-dir:{tmp_path / folder}", pretrained=False)
        assert getattr(model, "face", None) is None


def test_a_folder_below_the_home_folder_is_found_by_a_tilde(encoders, monkeypatch):
    model, folder = encoders("pcl_facecycle")
    monkeypatch.setenv("HOME", str(folder.parent))
    loaded = facepcl.create_model("local-dir:~/encoder", pretrained=True)
    assert torch.equal(loaded.state_dict()["conv1.0.weight"], model.state_dict()["conv1.0.weight"])


@each_model
def test_a_model_fine_tuned_by_timm_comes_back_as_its_trunk(name, tmp_path):
    trunk = timm.create_model(name, num_classes=7)
    save_for_hf(trunk, str(tmp_path), safe_serialization=True)
    loaded = facepcl.create_model(f"local-dir:{tmp_path}")
    assert getattr(loaded, "face", None) is None
    assert loaded.num_classes == 7
    image = np.zeros((70, 70, 3), np.uint8)
    wanted = facepcl.FaceEmbedder(trunk, dtype="float32")([image])
    found = facepcl.FaceEmbedder(f"local-dir:{tmp_path}", dtype="float32")([image])
    assert np.array_equal(found, wanted)


def test_the_folder_of_a_run_names_the_one_of_its_weights(tmp_path):
    save_encoder(facepcl.create_model("pcl_facecycle"), tmp_path / "run/encoder")
    with pytest.raises(OptionError, match=r"run is the folder of a run; its weights are in .*run/encoder"):
        facepcl.create_model(f"local-dir:{tmp_path / 'run'}")


def test_a_decoder_comes_with_its_folder_or_not_at_all(tmp_path):
    from facepcl.models.decoder import Decoder

    model, decoder = facepcl.create_model("pcl_facecycle"), Decoder().eval()
    folder = save_encoder(model, tmp_path / "with", decoder)
    code = torch.nn.functional.normalize(torch.rand(2, 2048), dim=1)
    close(facepcl.create_decoder(f"local-dir:{folder}")(code), decoder(code))
    bare = save_encoder(model, tmp_path / "without")
    for name in (f"local-dir:{bare}", "pcl_facecycle"):
        with pytest.raises(WeightsError, match="without a decoder"):
            facepcl.create_decoder(name)
    assert facepcl.create_decoder("pcl_facecycle", pretrained=False)(code).shape == (2, 3, 64, 64)
