"""Any model of timm as an encoder with branches: made, trained, saved, loaded, and used by every command."""

import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
from helpers.files import FACES, changed_encoder
from helpers.training import label_faces
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2

import facepcl
from facepcl.cli import main
from facepcl.errors import OptionError, WeightsError
from facepcl.models.io import save_encoder, size_cfg
from facepcl.pretrain.networks import Networks

# a convolutional network, one with layer norms, one with gates, a transformer
ARCHITECTURES = ("mobilenetv4_conv_small_050", "convnext_atto", "regnety_002", "vit_tiny_patch16_224")
SMALL = ARCHITECTURES[0]
# small models with maps of other kinds: tokens with registers, windows, channels last, hybrids, state spaces
FAMILIES = (
    *(
        "cait_xxs24_224",
        "convit_tiny",
        "davit_tiny",
        "efficientformer_l1",
        "efficientvit_m0",
        "eva02_tiny_patch14_224",
    ),
    *(
        "fastvit_s12",
        "gcvit_xxtiny",
        "hgnet_tiny",
        "levit_384_s8",
        "mobilevit_xxs",
        "mvitv2_tiny",
        "nest_tiny",
    ),
    *(
        "pvt_v2_b0",
        "starnet_s050",
        "swinv2_tiny_window8_256",
        "test_convnext",
        "test_efficientnet",
        "test_mambaout",
    ),
    *(
        "test_maxvit",
        "test_nfnet",
        "test_vit",
        "tiny_vit_5m_224",
        "visformer_tiny",
        "vitamin_small_224",
        "xcit_nano_12_p8_224",
    ),
)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32, sums in another order


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_model_with_a_feature_map_has_branches_that_come_back(name, tmp_path):
    torch.manual_seed(0)
    model = facepcl.create_model(name, num_classes=0).eval()
    images = torch.rand(2, 3, 96, 96)
    codes = model.forward_codes(images)
    assert codes.shared.shape == (2, model.num_features)
    assert codes.face.shape == codes.pose.shape == (2, 128 * (96 // model.feature_info[-1]["reduction"]) ** 2)
    folder = save_encoder(model, tmp_path / "encoder")
    again = facepcl.create_model(f"local-dir:{folder}").eval()
    for found, wanted in zip(again.forward_codes(images), codes, strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_the_trunk_of_a_folder_loads_in_timm_alone(tmp_path):
    torch.manual_seed(0)
    model = facepcl.create_model(SMALL, num_classes=0).eval()
    folder = save_encoder(model, tmp_path / "encoder")
    images = torch.rand(1, 3, 64, 64)
    for trunk in (
        timm.create_model(f"local-dir:{folder}", pretrained=True),
        facepcl.create_model(f"local-dir:{folder}", branches=False),
    ):
        assert type(trunk) is type(model.trunk)
        torch.testing.assert_close(trunk.eval()(images), model(images), **CLOSE)


def test_a_folder_takes_a_classifier_for_fine_tuning(tmp_path):
    folder = save_encoder(facepcl.create_model(SMALL, num_classes=0), tmp_path / "encoder")
    model = facepcl.create_model(f"local-dir:{folder}", num_classes=3)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_it_is_fine_tuned_by_timms_methods():
    model = facepcl.create_model(SMALL, num_classes=5)
    assert (model.num_classes, model.get_classifier().out_features) == (5, 5)
    model.reset_classifier(3)
    model.set_grad_checkpointing()
    assert model.num_classes == 3
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    assert model.get_classifier().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("save", [save_encoder, partial(save_for_hf, safe_serialization=True)])
def test_a_folder_of_ours_or_timms_comes_back_with_another_classifier_and_input(save, tmp_path):
    torch.manual_seed(0)
    model = facepcl.create_model(SMALL, num_classes=3).eval()
    save(model, tmp_path / "tuned")
    name, images = f"local-dir:{tmp_path / 'tuned'}", torch.rand(2, 3, 64, 64)
    again = facepcl.create_model(name).eval()
    torch.testing.assert_close(again(images), model(images), **CLOSE)
    torch.testing.assert_close(again.forward_codes(images).pose, model.forward_codes(images).pose, **CLOSE)
    assert facepcl.create_model(name, num_classes=7, in_chans=1)(images[:, :1]).shape == (2, 7)
    trunk = facepcl.create_model(name, branches=False).eval()
    torch.testing.assert_close(trunk(images), model(images), **CLOSE)
    stages = facepcl.create_model(name, features_only=True).eval()
    torch.testing.assert_close(stages(images)[-1], model.forward_intermediates(images)[1][-1], **CLOSE)


@pytest.mark.parametrize(
    "options", [{"in_chans": 1}, {"in_chans": 4}, {"dtype": torch.bfloat16}, {"device": "meta"}], ids=str
)
def test_it_is_made_with_timms_options(options):
    model = facepcl.create_model(SMALL, **options)
    wanted = timm.create_model(SMALL, **options)
    placed = {(parameter.dtype, parameter.device) for parameter in model.parameters()}
    assert placed == {(parameter.dtype, parameter.device) for parameter in wanted.parameters()}
    assert next(model.parameters()).shape == next(wanted.parameters()).shape


def test_timms_optimizers_treat_its_trunk_as_they_treat_the_trunk_alone():
    """Position embeddings without weight decay, and learning rates by depth."""
    name = "vit_tiny_patch16_224"
    model, alone = facepcl.create_model(name, num_classes=3), timm.create_model(name, num_classes=3)

    def settings(network):
        names = {id(parameter): key for key, parameter in network.named_parameters()}
        groups = create_optimizer_v2(network, "adamw", 1e-3, 0.05, layer_decay=0.7).param_groups
        return {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}

    found = settings(model)
    for key, wanted in settings(alone).items():
        assert found[f"trunk.{key}"] == wanted
    assert found["face.0.weight"] == found["pose.2.weight"] == (1.0, 0.05)


def test_it_gives_its_trunks_intermediate_maps():
    model = facepcl.create_model("convnext_atto", num_classes=0)
    maps = model.forward_intermediates(torch.rand(1, 3, 64, 64), intermediates_only=True)
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]


def test_weights_of_another_network_are_refused(tmp_path):
    folder = save_encoder(facepcl.create_model(SMALL, num_classes=0), tmp_path / "encoder")
    other = {"architecture": "regnety_002"}
    changed = changed_encoder(folder, tmp_path / "changed", {**other, "facepcl": other})
    with pytest.raises(WeightsError, match=r"in its weights and .* in the network that config\.json"):
        facepcl.create_model(f"local-dir:{changed}")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_timm_learn_through_their_branches(name):
    model = facepcl.create_model(name, num_classes=0).train()
    side = model.pretrained_cfg["input_size"][1]
    maps = model.forward_branches(torch.rand(2, 3, side, side))
    assert maps.shared.shape[:2] == (2, model.num_features)
    sum(branch.square().mean() for branch in maps).backward()
    assert all(
        parameter.grad is not None for branch in (model.face, model.pose) for parameter in branch.parameters()
    )
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.trunk.parameters())


TRAINED_SHORTLY = "--model test_maxvit --method simclr --preset small --batch 4 --steps 1 --workers 1"


@pytest.mark.parametrize("sizes", ["--size 64", "--resolution-schedule 160+64:0.5,160"])
def test_a_size_that_the_model_does_not_accept_is_said_before_the_first_step(sizes, tmp_path, capsys):
    options = f"{TRAINED_SHORTLY} {sizes}".split()
    assert main(["pretrain", str(FACES[0].parent), "--out", str(tmp_path / "run"), *options]) == 2
    assert "test_maxvit does not accept RGB images of 64 x 64 pixels" in capsys.readouterr().err
    assert not (tmp_path / "run/log.jsonl").exists()


def test_a_model_of_one_size_is_trained_at_that(tmp_path):
    options = TRAINED_SHORTLY.split()
    assert main(["pretrain", str(FACES[0].parent), "--out", str(tmp_path), *options]) == 0
    config = json.loads((tmp_path / "encoder/config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 160, 160]


# lists of tokens; the class token alone
@pytest.mark.parametrize("name", ["crossvit_tiny_240", "pit_ti_224"])
def test_a_model_without_a_feature_map_is_refused(name):
    with pytest.raises(OptionError, match="no feature map for branches"):
        facepcl.create_model(name, num_classes=0)


def test_views_have_maps_of_4_x_4_where_the_model_accepts_them():
    assert Networks("vit_tiny_patch16_224", {}, ("shared",)).own_size == 64
    assert Networks("convit_tiny", {}, ("shared",)).own_size == 224


def test_the_side_of_the_last_map_is_recorded_as_it_is():
    assert size_cfg(facepcl.create_model("convnext_atto", num_classes=0), 100)["pool_size"] == (3, 3)


def test_an_encoder_trained_without_branches_comes_back_and_starts_another_run(tmp_path):
    options = (
        f"--model {SMALL} --method simclr --size 64 --batch 4 --steps 1 --workers 1 --preset small".split()
    )
    assert main(["pretrain", str(FACES[0].parent), "--out", str(tmp_path / "run"), *options]) == 0
    folder = f"local-dir:{tmp_path}/run/encoder"
    trunk = facepcl.create_model(folder, num_classes=0)
    assert type(trunk) is type(timm.create_model(SMALL))
    nets = Networks(SMALL, {}, ("relative",))
    nets.start_from(folder)
    for name, value in trunk.state_dict().items():
        assert torch.equal(nets.encoder.state_dict()[f"trunk.{name}"], value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The encoder of a run that learned from labels for two steps."""
    folder = tmp_path_factory.mktemp("run")
    label_faces(faces := folder / "faces")
    options = f"--model {SMALL} --method labels --size 64 --batch 6 --steps 2 --workers 1"
    assert main(["pretrain", str(faces), "--out", str(folder / "run"), *options.split()]) == 0
    return f"local-dir:{folder}/run/encoder"


@pytest.mark.slow
def test_a_trained_one_is_embedded_analyzed_probed_exported_and_pushed(trained, hub, tmp_path):
    """What its commands are for is tested with the models of facepcl."""
    faces = list(map(str, FACES[:6]))
    out = tmp_path / "faces.parquet"
    assert main(["analyze", *faces, "--crops", "--model", trained, "-o", str(out)]) == 0
    assert facepcl.read_embeddings(out).vectors.shape == (6, 256)
    assert main(["export", trained, str(tmp_path / "encoder.pt2")]) == 0
    assert main(["push", trained.removeprefix("local-dir:"), "org/faces"]) == 0
    there, here = (
        facepcl.FaceEmbedder(n, "face", dtype="float32")(faces) for n in ("hf-hub:org/faces", trained)
    )
    np.testing.assert_allclose(there, here, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pcl", "simclr"])
def test_a_run_continues_from_the_encoder_of_another(trained, tmp_path, method):
    options = f"--model {SMALL} --init {trained} --method {method} --size 64 --batch 4 --steps 1 --workers 1"
    assert main(["pretrain", str(FACES[0].parent), "--out", str(tmp_path / "run"), *options.split()]) == 0
    names = trained, f"local-dir:{tmp_path}/run/encoder"
    before, after = (timm.create_model(name, pretrained=True).state_dict() for name in names)
    moved = [(after[key] - before[key]).abs().max() for key in before if key.endswith("conv_stem.weight")]
    assert 0 < max(moved) < 0.1  # one step of Adam
