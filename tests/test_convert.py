"""`facepcl convert`: checkpoints of the original PCL and of others become folders; nothing in them is run."""

import argparse
import json
import re

import numpy as np
import pytest
import timm
import torch
from helpers.files import no_room_beyond
from helpers.hub_clients import assert_same_codes
from timm.data import IMAGENET_DEFAULT_MEAN

import facepcl
from facepcl.cli import main
from facepcl.errors import MissingPath, OptionError, WeightsError
from facepcl.hub.card import card_of
from facepcl.hub.torch_checkpoint import read_checkpoint, recognise
from facepcl.models.decoder import Decoder, ProjectionHead
from facepcl.models.io import load_tensors, save_encoder, save_tensors

BRANCH_NAMES = {"face.": "layer3_2_exp.", "pose.": "layer3_2_pose."}


@pytest.fixture(scope="module")
def original():
    """The four networks of a training checkpoint of the original, and its state dict."""
    torch.manual_seed(0)
    encoder = facepcl.create_model("pcl_facecycle").eval()
    state = {}
    for key, value in encoder.state_dict().items():
        branch = next((b for b in BRANCH_NAMES if key.startswith(b)), "")
        state[f"encoder.{BRANCH_NAMES.get(branch, '')}{key[len(branch) :]}"] = value
    nets = {"exp_fc": ProjectionHead(), "pose_fc": ProjectionHead(), "decoder": Decoder().eval()}
    for name, net in nets.items():
        state |= {f"{name}.{key}": value for key, value in net.state_dict().items()}
    return {"encoder": encoder, **nets}, state


def save(content, path, **options):
    torch.save(content, path, **options)
    return path


def encoder_alone(state):
    return {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}


@pytest.mark.parametrize("prefix", ["module.", ""], ids=["DataParallel", "plain"])
def test_a_training_checkpoint_becomes_encoder_decoder_and_heads(original, tmp_path, prefix):
    nets, state = original
    checkpoint = {"epoch": 500, "state_dict": {prefix + key: value for key, value in state.items()}}
    folder = facepcl.hub.convert(save(checkpoint, tmp_path / "500.pth"), tmp_path / "out")
    assert_same_codes(facepcl.create_model(f"local-dir:{folder}"), nets["encoder"])
    code = torch.nn.functional.normalize(torch.rand(2, 2048), dim=1)
    torch.testing.assert_close(facepcl.create_decoder(f"local-dir:{folder}")(code), nets["decoder"](code))
    heads = load_tensors(folder / "original_heads.safetensors")
    assert torch.equal(heads["face_head.0.weight"], nets["exp_fc"][0].weight)
    assert torch.equal(heads["pose_head.3.running_var"], nets["pose_fc"][3].running_var)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["500.pth", "out"]


def test_an_encoder_alone_comes_from_pickle_or_safetensors(original, tmp_path):
    nets, state = original
    encoder = encoder_alone(state)
    save_tensors(encoder, tmp_path / "encoder.safetensors")
    for path in (save(encoder, tmp_path / "encoder.pth"), tmp_path / "encoder.safetensors"):
        folder = facepcl.hub.convert(path, tmp_path / f"from{path.suffix}")
        assert_same_codes(facepcl.create_model(f"local-dir:{folder}"), nets["encoder"])
        assert not (folder / "original_heads.safetensors").exists()


@pytest.mark.parametrize("probe", ["expression", "pose"])
def test_the_linear_layer_of_a_probe_goes_beside_its_encoder(original, tmp_path, probe):
    nets, state = original
    layers = {
        "expression": torch.nn.ModuleDict({"linear_classifier": torch.nn.Linear(6272, 7)}),
        "pose": torch.nn.Sequential(torch.nn.BatchNorm1d(32768), torch.nn.Linear(32768, 3)),
    }[probe].state_dict()
    name = {"expression": "linear_classifier.weight", "pose": "pose_probe.1.weight"}[probe]
    old = {"expression": "linear_classifier.weight", "pose": "1.weight"}[probe]
    path = save({"state_dict": encoder_alone(state) | layers}, tmp_path / "probe.pth")
    folder = facepcl.hub.convert(path, tmp_path / "out")
    assert_same_codes(facepcl.create_model(f"local-dir:{folder}"), nets["encoder"])
    assert torch.equal(load_tensors(folder / "original_heads.safetensors")[name], layers[old])


def test_the_files_of_the_original_authors_have_the_layout_that_convert_reads(original_state, tmp_path):
    """Every key of a released training checkpoint has its place, filled as the reference values are."""
    folder = facepcl.hub.convert(save({"state_dict": original_state}, tmp_path / "1.pth"), tmp_path / "out")
    found = sum(len(load_tensors(path)) for path in folder.glob("*.safetensors"))
    assert found == len(original_state)


def test_facecycles_own_file_is_refused(original, tmp_path):
    encoder = encoder_alone(original[1]) | {"layer3_1.2.weight": torch.zeros(256, 256, 3, 3)}
    path = save({"codegeneration": encoder}, tmp_path / "facecycle.pth")
    with pytest.raises(WeightsError, match=r"FaceCycle's encoder, not PCL's.*256 channels.*128"):
        facepcl.hub.convert(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder.layer2_2.0.bias": None}, "layer2_2.0.bias is missing"),
        ({"encoder.layer9.weight": torch.zeros(1)}, "layer9.weight is not known"),
        ({"decoder.fc.bias": None}, "the decoder in .*: fc.bias is missing"),
        ({"encoder.conv1.0.weight": torch.zeros(64, 3, 5, 5)}, r"\[64, 3, 5, 5\], not \[64, 3, 7, 7\]"),
    ],
    ids=["missing", "unknown", "missing in the decoder", "shape"],
)
def test_what_is_not_recognised_is_named(original, tmp_path, change, said):
    state = {k: v for k, v in (original[1] | change).items() if v is not None}
    with pytest.raises(WeightsError, match=said):
        facepcl.hub.convert(save(state, tmp_path / "x.pth"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_torch_whose_safe_reading_is_not_safe_reads_no_pickle(original, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1+cpu"))
    path = save(encoder_alone(original[1]), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"safe from torch 2\.6 on, and this is torch 2\.5\.1"):
        facepcl.hub.convert(path, tmp_path / "out")
    save_tensors(encoder_alone(original[1]), tmp_path / "x.safetensors")
    assert facepcl.hub.convert(tmp_path / "x.safetensors", tmp_path / "out")


@pytest.mark.parametrize("what", ["cut off", "text", "empty", "list", "no weights"])
def test_a_file_that_is_no_checkpoint_is_one_sentence(original, tmp_path, what):
    path = save({"state_dict": original[1]}, tmp_path / "x.pth")
    if what == "list":
        save([1, 2], path)
    elif what == "no weights":
        save({"epoch": 3}, path)
    else:
        path.write_bytes({"cut off": path.read_bytes()[:5000], "text": b"hello there", "empty": b""}[what])
    with pytest.raises(WeightsError, match=r"x\.pth") as caught:
        facepcl.hub.convert(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_resnet_of_others_becomes_a_trunk_that_says_its_own_normalisation(tmp_path):
    torch.manual_seed(0)
    others = timm.create_model("resnet18", num_classes=1000).eval()  # names as torchvision's
    path = save(
        {"state_dict": {f"module.{k}": v for k, v in others.state_dict().items()}}, tmp_path / "r.pth"
    )
    folder = facepcl.hub.convert(path, tmp_path / "out", arch="resnet18", size=112)
    x = torch.rand(1, 3, 112, 112)
    for create in (facepcl.create_model, timm.create_model):  # timm without a word of facepcl's
        model = create(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(model(x), others.forward_head(others.forward_features(x), pre_logits=True))
        config = timm.data.resolve_model_data_config(model)
        assert tuple(config["mean"]) == IMAGENET_DEFAULT_MEAN
        assert tuple(config["input_size"]) == (3, 112, 112)
    assert json.loads((folder / "config.json").read_text())["architecture"] == "resnet18"
    other = facepcl.hub.convert(path, tmp_path / "b", arch="resnet18", mean=np.full(3, 0.5), std=(0.25,) * 3)
    cfg = json.loads((other / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["mean"], cfg["std"], cfg["input_size"]) == ([0.5] * 3, [0.25] * 3, [3, 224, 224])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "assuming --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --size 224, as for ImageNet"),
        ({"size": 112, "mean": (0.5,) * 3}, "assuming --std 0.229 0.224 0.225, as for ImageNet"),
        ({"size": 112, "mean": (0,) * 3, "std": (1,) * 3}, None),
    ],
    ids=["none", "two", "all"],
)
def test_a_normalisation_that_is_assumed_is_said_with_that_of_our_weights(tmp_path, caplog, options, said):
    path = save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "r.pth")
    facepcl.hub.convert(path, tmp_path / "out", arch="resnet18", **options)
    assert (said in caplog.text) if said else not caplog.text


def test_the_assumption_names_the_options_for_weights_fine_tuned_from_ours(tmp_path, caplog):
    ours = facepcl.create_model("pcl_resnet18", pretrained=True, branches=False, num_classes=7)
    save_tensors(ours.state_dict(), tmp_path / "expression.safetensors")
    facepcl.hub.convert(tmp_path / "expression.safetensors", tmp_path / "out", arch="resnet18")
    options = re.search(r"from pcl_resnet18 take (--mean .*)", caplog.text)[1].split()
    out = str(tmp_path / "as told")
    assert (
        main(["convert", str(tmp_path / "expression.safetensors"), out, "--arch", "resnet18", *options]) == 0
    )
    found = timm.data.resolve_model_data_config(facepcl.create_model(f"local-dir:{out}"))
    assert json.dumps(found) == json.dumps(timm.data.resolve_model_data_config(ours))


def wrapped(tensors, prefix):
    return {prefix + key: value for key, value in tensors.items()}


WRAPPERS = {
    "Lightning": lambda net: {"state_dict": wrapped(net, "model."), "hyper_parameters": {"lr": 0.1}},
    "DDP and compiled": lambda net: wrapped(net, "module._orig_mod."),
    "transformers": lambda net: wrapped(net, "timm_model."),
    "lightly": lambda net: {"state_dict": wrapped(net, "model.backbone.") | {"head.weight": torch.ones(2)}},
    "MoCo": lambda net: {
        "state_dict": wrapped(net, "module.encoder_q.")
        | wrapped(others(net), "module.encoder_k.")
        | {"module.queue": torch.ones(2)}
    },
    "BYOL": lambda net: wrapped(net, "online_network.net.") | wrapped(others(net), "target_network.net."),
    "DINO": lambda net: {
        "student": wrapped(others(net), "module.backbone."),
        "teacher": wrapped(net, "backbone.") | {"head.mlp.0.weight": torch.ones(2)},
        "epoch": 1,
    },
    "timm": lambda net: {
        "state_dict": others(net),
        "state_dict_ema": net,
        "args": argparse.Namespace(model="resnet18", lr=0.1),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
    },
    "net": lambda net: {"net": net},
    "model_state": lambda net: {"model_state": net},
    "model_state_dict": lambda net: {"model_state_dict": net, "loss": 0.2},
}


def others(net):
    return {key: value + 1 for key, value in net.items()}


SAID = {
    "timm": "read state_dict_ema; left out state_dict, optimizer, fc.weight, fc.bias; train a new ",
    "DINO": "read teacher.backbone; left out student.module, teacher.head, fc.weight",
    "MoCo": "read state_dict.module.encoder_q; left out state_dict.module.encoder_k, state_dict.module.q",
}


def assert_same_network(found, net):
    assert {key: value for key, value in net.items() if not key.startswith("fc.")}.keys() == found.keys()
    assert all(torch.equal(value, net[key]) for key, value in found.items())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_network_is_found_under_whatever_names_a_program_saved_it(tmp_path, wrapper):
    net = timm.create_model("pcl_facecycle", num_classes=7).state_dict()
    folder = facepcl.hub.convert(save(WRAPPERS[wrapper](net), tmp_path / "x.pth"), tmp_path / "out")
    assert_same_network(load_tensors(folder / "model.safetensors"), net)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_so_is_a_resnet_and_what_is_read_and_what_is_left_out_is_said(tmp_path, wrapper):
    net = timm.create_model("resnet18", num_classes=7).state_dict()
    path = save(WRAPPERS[wrapper](net), tmp_path / "x.pth")
    parts = recognise(read_checkpoint(path), "resnet18", path)
    assert_same_network(parts.encoder, net)
    assert SAID.get(wrapper, "") in parts.note


def test_two_networks_of_one_rank_are_not_chosen_from(tmp_path):
    net = timm.create_model("resnet18").state_dict()
    path = save({"generator": net, "critic": others(net)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="holds several networks, generator and critic; save only the one"):
        facepcl.hub.convert(path, tmp_path / "out", arch="resnet18")


def test_a_resnet_of_ours_keeps_its_branches_and_its_own_normalisation(tmp_path):
    torch.manual_seed(0)
    model = facepcl.create_model("pcl_resnet18", num_classes=3).eval()
    path = save({"state_dict": wrapped(model.state_dict(), "module.")}, tmp_path / "x.pth")
    loaded = facepcl.create_model(f"local-dir:{facepcl.hub.convert(path, tmp_path / 'out', arch='resnet18')}")
    assert_same_codes(loaded, model)
    found, wanted = map(timm.data.resolve_model_data_config, (loaded, model))
    assert json.dumps(found) == json.dumps(wanted)


def test_a_tensor_that_claims_more_numbers_than_its_file_has_is_not_copied(original, tmp_path):
    claim = {"exp_fc.extra": torch.ones(1).expand(10**6, 10**7)}  # 40 TB
    content = {"state_dict": original[1] | claim}
    content["cycle"] = content
    folder = facepcl.hub.convert(save(content, tmp_path / "x.pth"), tmp_path / "out")
    assert "face_head.extra" not in load_tensors(folder / "original_heads.safetensors")


@pytest.mark.parametrize(
    ("model", "arch", "said"),
    [
        ("resnet34", "resnet18", "looks like a resnet34, not a resnet18"),
        ("wide_resnet50_2", "resnet50", "looks like a wider or grouped resnet50, not a resnet50"),
        ("pcl_facecycle", "resnet18", "looks like a pcl_facecycle, not a resnet18; leave out --arch"),
        ("mobilenetv3_small_050", "resnet18", "holds .*; expected the weights of resnet18"),
    ],
)
def test_another_architecture_is_named(model, arch, said):
    with pytest.raises(WeightsError, match=said):
        recognise(wrapped(timm.create_model(model, device="meta").state_dict(), "model."), arch, "x.pth")


def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing(original, tmp_path):
    path = save(original[1], tmp_path / "x.pth")
    for room in (1_000_000, 20_000_000):  # the encoder has no room; the heads have none
        with no_room_beyond(room), pytest.raises(WeightsError, match="could not be written") as caught:
            facepcl.hub.convert(path, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert [file.name for file in tmp_path.iterdir()] == ["x.pth"]


def test_torchvisions_names_are_read():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.resnet50().state_dict()
    found = recognise(theirs, "resnet50", "r.pth").encoder
    wanted = timm.create_model("resnet50", num_classes=0, device="meta").state_dict()
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in wanted.items()
    }


def test_the_command_says_what_it_left_out_and_where_the_folder_is(tmp_path, capsys, caplog):
    path = save(timm.create_model("resnet18", num_classes=3).state_dict(), tmp_path / "r.pth")
    with caplog.at_level("INFO", "facepcl"):
        assert main(["convert", str(path), str(tmp_path / "out"), "--arch", "resnet18"]) == 0
    assert "left out fc.weight, fc.bias" in caplog.text
    said, call = capsys.readouterr().out.rstrip().split("; load it with ")
    assert said == f"wrote {tmp_path / 'out'}"
    loaded = eval(call, {"facepcl": facepcl}).state_dict()  # as printed
    assert torch.equal(loaded["conv1.weight"], torch.load(path)["conv1.weight"])


def test_the_card_says_where_weights_come_from_and_that_no_licence_is_known(original, tmp_path):
    from huggingface_hub import ModelCard

    from facepcl.utils.files import sha256_file

    path = save(original[1], tmp_path / "500.pth")
    unknown = (facepcl.hub.convert(path, tmp_path / "a") / "README.md").read_text()
    assert ModelCard(unknown).data.license == "unknown"
    assert f"converted from 500.pth, sha256 {sha256_file(path)}" in unknown
    assert "Licence of the weights: unknown; ask their author" in unknown
    given = (facepcl.hub.convert(path, tmp_path / "b", license="CC-BY-NC-4.0") / "README.md").read_text()
    assert ModelCard(given).data.license == "cc-by-nc-4.0"
    again = card_of(tmp_path / "b", "hf-hub:org/original")
    assert (ModelCard(again).data.license, "converted from 500.pth" in again) == ("cc-by-nc-4.0", True)


def test_weights_of_ones_own_do_not_take_the_licence_of_the_released_ones(tmp_path):
    folder = save_encoder(facepcl.create_model("pcl_facecycle"), tmp_path / "encoder")
    cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert not {"license", "description", "tag"} & set(cfg)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"checkpoint": "nowhere.pth"}, MissingPath, "nowhere.pth: there is no such file"),
        ({"arch": "resnet34"}, OptionError, "--arch must be resnet18 or resnet50, not resnet34"),
        ({"mean": (0.5, 0.5, 0.5)}, OptionError, "--mean, --std and --size belong to --arch"),
        ({"arch": "resnet18", "std": (0.5, 0.5, 0)}, OptionError, "--std takes numbers above 0"),
        ({"arch": "resnet18", "std": (58, 57, 57)}, OptionError, "for pixels up to 255 divide them by 255"),
        ({"arch": "resnet18", "mean": (123, 117, 104)}, OptionError, "--mean takes numbers from 0 to 1"),
        ({"arch": "resnet18", "mean": (float("nan"),) * 3}, OptionError, "--mean takes numbers from 0 to 1"),
        ({"arch": "resnet18", "size": 100_000}, OptionError, "--size must be 32 to 4096 pixels, not 100000"),
        ({"out": "there"}, OptionError, "there already exists"),
        ({}, OptionError, r"looks like a ResNet \(resnet18\): name it with --arch resnet18"),
    ],
    ids=str,
)
def test_wrong_options_are_one_sentence(tmp_path, monkeypatch, options, error, said):
    monkeypatch.chdir(tmp_path)
    save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "r.pth")
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    options = {"checkpoint": "r.pth", "out": "out", **options}
    with pytest.raises(error, match=said):
        facepcl.hub.convert(**options)
    assert (tmp_path / "there/file").exists()
