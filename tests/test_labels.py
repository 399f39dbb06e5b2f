"""`--method labels`: which maps its heads train, their views, and the heads that travel with the encoder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.training import LANDMARKS, end_of, generator, label_faces, small_config

import facepcl
from facepcl.errors import OptionError, WeightsError
from facepcl.models.decoder import resize_maps
from facepcl.models.factory import find_decoder, find_heads
from facepcl.models.io import load_tensors, save_encoder, save_tensors
from facepcl.pretrain import label_views, run, substeps
from facepcl.pretrain.label_heads import POSE_SCALE, IdentityHead, LabelHead, label_losses
from facepcl.pretrain.label_views import MILD, STRONG, strong_probability
from facepcl.pretrain.losses import supervised_contrast
from facepcl.pretrain.networks import Networks, network_input
from facepcl.pretrain.release import update_batch_norms
from facepcl.pretrain.sampler import InMemory

OUTPUTS = {
    "au": ("AU4", "AU12"),
    "expression": ("happy", "sad"),
    "identity": 8,
    "pose": ("yaw", "pitch", "roll"),
}
POSE = {"input": "pose", "side": 2, "activation": "none", "outputs": 3}
SIDES = {"pcl_facecycle": 64, "pcl_resnet18": 96}  # pixels that the bundled weights take
MODELS = tuple(SIDES)


@pytest.fixture
def config(config):
    return replace(config, method="labels", size=48)


# --- which head reads which code


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("label", "trained"),
    [
        ("au", "face"),
        ("expression", "face"),
        ("pose", "pose"),
        ("identity", "shared"),
        ("shared_identity", "shared"),
    ],
)
def test_the_loss_of_a_label_reaches_the_code_it_is_read_from_and_no_other(config, model, label, trained):
    torch.manual_seed(0)
    nets = Networks(model, OUTPUTS, config.tasks).train()
    maps = nets.encoder.forward_branches(torch.rand(4, 3, 64, 64))
    for value in maps:
        value.retain_grad()
    targets = {
        "au": torch.rand(4, 2),
        "expression": torch.tensor([0, 1, 0, 1]),
        "identity": torch.tensor([0, 0, 1, 1]),
        "pose": 10 * torch.randn(4, 3),
    }
    label_losses(nets.label_heads(maps), targets)[label].backward()
    branches = {name: nets.encoder.get_submodule(name)[0].weight for name in ("face", "pose")}
    reached = {name for name, weight in branches.items() if weight.grad is not None}
    assert reached == {trained} - {"shared"}
    assert maps.shared.grad.abs().sum() > 0  # the trunk learns from all of them


def test_the_step_is_the_weighted_sum_of_the_labels_losses(config):
    config = replace(config, weight_au=2.0, weight_expression=3.0, weight_identity=5.0, weight_pose=7.0)
    source = InMemory(config, {})
    torch.manual_seed(0)
    nets = Networks(config.model, source.label_outputs, config.tasks).train()
    steps = substeps.Tasks(config, source, nets, 48, torch.float32)
    (loss,) = steps.of_step(0, 1 / 6, {})
    parts = loss.parts
    identity = 5 * 3 / 6  # half of the rise, which ends after a third of the run
    expected = 2 * parts["label_au"] + 3 * parts["label_expression"] + 7 * parts["label_pose"]
    expected += identity * (parts["label_identity"] + parts["label_shared_identity"] / 2)
    torch.testing.assert_close(loss.total, expected)


@pytest.mark.parametrize(("model", "side"), [("pcl_facecycle", 4), ("pcl_resnet18", 1)])
def test_identity_is_read_from_the_code_that_is_compared(model, side):
    """The map at 4 x 4, flattened, of the FaceCycle; the mean of the map of a ResNet."""
    nets = Networks(model, OUTPUTS, ("labels",)).eval()
    maps = nets.encoder.forward_branches(torch.rand(3, 3, nets.own_size, nets.own_size))
    head = nets.label_heads.heads["identity"]
    found = nets.label_heads(maps)["identity"]
    torch.testing.assert_close(found, head(nets.encoder.shared_code(maps.shared)))
    assert nets.label_heads.specs["identity"].side == side


@pytest.mark.parametrize("model", MODELS)
def test_identity_is_contrasted_on_the_shared_code_about_its_mean_too(model):
    """As verification compares it, so that the code itself, not only the embedding, tells people apart."""
    nets = Networks(model, OUTPUTS, ("labels",)).eval()
    maps = nets.encoder.forward_branches(torch.rand(4, 3, nets.own_size, nets.own_size))
    people = torch.tensor([0, 0, 1, 1])
    unknown = {"au": torch.full((4, 2), torch.nan), "pose": torch.full((4, 3), torch.nan)}
    unknown["expression"] = torch.full((4,), -1)
    code = nets.encoder.shared_code(maps.shared).flatten(1)
    expected = supervised_contrast(code - code.mean(0), people)
    losses = label_losses(nets.label_heads(maps), {"identity": people, **unknown})
    torch.testing.assert_close(losses["shared_identity"], expected)


def test_an_identity_head_does_not_depend_on_the_scale_of_its_weights():
    torch.manual_seed(0)
    head, x = IdentityHead(32, 8).train(), torch.randn(16, 32)
    before = F.normalize(head(x))
    with torch.no_grad():
        head.linear.weight.mul_(7)
    # the batch norm's epsilon is all that is left
    torch.testing.assert_close(F.normalize(head(x)), before, atol=1e-4, rtol=0)


# --- the heads as linear layers


@pytest.mark.parametrize("kind", [LabelHead, IdentityHead])
def test_a_trained_head_is_a_linear_layer_in_evaluation(kind):
    torch.manual_seed(0)
    head = kind(32, 5).double()
    for _ in range(5):
        head(3 + 2 * torch.randn(64, 32, dtype=torch.float64))  # running statistics that are not 0 and 1
    x = torch.randn(7, 32, dtype=torch.float64)
    weight, bias = head.eval().as_linear()
    torch.testing.assert_close(F.linear(x, weight, bias), head(x))


@pytest.mark.parametrize("kind", [LabelHead, IdentityHead])
def test_a_head_that_starts_from_a_linear_layer_computes_it(kind):
    """On inputs of the same statistics; that of identity with outputs of mean 0 and variance 1."""
    inputs, layer = 3 + 2 * torch.randn(4000, 8, generator=generator()), torch.nn.Linear(8, 5)
    head, wanted = kind(8, 5), layer(inputs)
    head.start_from(layer.weight, layer.bias, inputs)
    if kind is IdentityHead:
        wanted = (wanted - wanted.mean(0)) / wanted.std(0)
    # batch norm divides by 4000, not by 3999
    torch.testing.assert_close(head(inputs), wanted, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """The configuration of a run of a ResNet that has released its average."""
    folder = tmp_path_factory.mktemp("averaged")
    changes = {"method": "labels", "model": "pcl_resnet18", "size": 64, "ema": 0.9}
    config = small_config(label_faces(folder / "faces"), folder / "run", **changes)
    run(config)
    return config


@pytest.mark.parametrize("model", MODELS)
def test_the_heads_of_a_run_load_beside_its_encoder(finished, averaged, model):
    name = f"local-dir:{(finished('labels') if model == 'pcl_facecycle' else averaged).out}/encoder"
    heads, encoder = facepcl.create_heads(name), facepcl.create_model(name).eval()
    with torch.no_grad():
        found = heads(encoder.forward_branches(torch.rand(5, 3, 64, 64)))
    assert {label: tuple(value.shape) for label, value in found.items()} == {
        "au": (5, 2),
        "expression": (5, 2),
        "identity": (5, 256),
        "pose": (5, 3),
    }
    assert not heads.training
    assert heads.specs["pose"].names == ("yaw", "pitch", "roll")
    assert heads.specs["au"].names == ("AU12", "AU4")
    torch.testing.assert_close(found["expression"].sum(1), torch.ones(5))
    torch.testing.assert_close(found["identity"].norm(dim=1), torch.ones(5))
    assert found["au"].min() >= 0
    assert found["au"].max() <= 1


def test_released_heads_say_what_the_trained_ones_say_in_degrees():
    torch.manual_seed(0)
    nets = Networks("pcl_facecycle", OUTPUTS, ("labels",)).eval()
    maps = nets.encoder.forward_branches(torch.rand(3, 3, 64, 64))
    trained, released = nets.label_heads(maps), nets.label_heads.as_linear()(maps)
    torch.testing.assert_close(released["pose"], POSE_SCALE * trained["pose"])
    torch.testing.assert_close(released["expression"], trained["expression"].softmax(1))


def test_the_statistics_of_released_heads_are_those_of_clean_faces(finished):
    """Released, the identities of the training faces have mean 0 and deviation 1 before they are scaled."""
    config = finished("labels")
    name = f"local-dir:{config.out}/encoder"
    heads, model = facepcl.create_heads(name), facepcl.create_model(name).eval()
    images = InMemory(config, {}).sample(2048)
    images = F.interpolate(images.float() / 255, (32, 32), mode="bicubic", antialias=True)
    with torch.no_grad():
        maps = resize_maps(model.forward_branches(images).shared, 4)
    values = heads["identity"](maps.flatten(1))
    torch.testing.assert_close(values.mean(0), torch.zeros(256), atol=0.05, rtol=0)  # levels are rounded
    torch.testing.assert_close(values.std(0), torch.ones(256), atol=0.1, rtol=0)


def test_the_statistics_of_clean_images_weigh_all_images_alike():
    """66 images are two blocks of 33, not 64 and 2: of two the variance says little."""
    nets = Networks("pcl_resnet18", {}, ("simclr",))
    images = torch.randint(0, 256, (66, 3, 32, 32), dtype=torch.uint8, generator=generator())
    images[64:] //= 8  # the last two are dark
    update_batch_norms(nets, lambda limit: images, 32)
    with torch.no_grad():
        maps = nets.encoder.conv1(network_input(nets.encoder, images.float() / 255))
    torch.testing.assert_close(nets.encoder.bn1.running_mean, maps.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_the_average_has_heads_of_its_own(averaged):
    checkpoint, name = end_of(averaged), "label_heads.heads.pose.linear.weight"
    assert not torch.equal(checkpoint[f"averaged.{name}"], checkpoint[name])
    assert Path(averaged.out, "encoder/heads.safetensors").is_file()


@pytest.mark.parametrize("model", MODELS)
def test_heads_are_trained_for_an_encoder_that_stays_as_it_is(config, model):
    frozen = replace(config, model=model, init=model, size=SIDES[model], freeze=True, ema=0.9, dtype="auto")
    folder = run(frozen)
    before, after = (facepcl.create_model(n, True).state_dict() for n in (model, f"local-dir:{folder}"))
    assert all(torch.equal(before[name], value) for name, value in after.items())
    heads = facepcl.create_heads(f"local-dir:{folder}")
    assert set(heads.specs) == {"au", "expression", "identity", "pose"}


@pytest.mark.parametrize("change", [{"init": ""}, {"method": "simclr"}])
def test_only_the_heads_of_labels_are_trained_alone(config, change):
    with pytest.raises(OptionError, match="add --method labels and --init"):
        run(replace(config, **{"init": "pcl_facecycle", "freeze": True, **change}))


def test_heads_for_views_of_another_side_or_for_a_branch_that_is_not_there_are_refused(config, tmp_path):
    frozen = replace(config, model="pcl_resnet18", init="pcl_resnet18", freeze=True)
    with pytest.raises(OptionError, match=r"takes images of 96 pixels; with --freeze, add --size 96"):
        run(frozen)
    trunk = facepcl.create_model("pcl_resnet18", num_classes=0, branches=False)
    init = f"local-dir:{save_encoder(trunk, tmp_path / 'trunk')}"
    with pytest.raises(
        OptionError, match=r"--freeze trains heads alone, and --init .*trunk has no face branch"
    ):
        run(replace(frozen, init=init))


def test_a_branch_that_no_label_trains_is_named(config, faces_folder, caplog):
    for path in faces_folder.rglob("*.json"):
        path.write_text(json.dumps({"yaw": 3.0, "pitch": 2.0, "roll": 1.0}))
    run(replace(config, steps=1))
    assert "no label of the data trains the face branch: its code stays as it begins" in caplog.messages
    assert not any("trains the pose branch" in message for message in caplog.messages)


def test_faces_that_are_turned_too_far_are_counted(config, caplog):
    run(replace(config, steps=1, batch=2, max_yaw=10.0))
    assert (
        "6 of 12 faces are left out: they are turned further than --max-yaw 10 or --max-pitch 27"
        in caplog.messages
    )


def test_weights_without_heads_are_refused_with_what_writes_them(tmp_path):
    folder = f"local-dir:{save_encoder(facepcl.create_model('pcl_facecycle'), tmp_path / 'encoder')}"
    with pytest.raises(
        WeightsError, match=r"encoder comes without heads; .*--method labels --model MODEL --init"
    ):
        facepcl.create_heads(folder)
    with pytest.raises(OptionError, match=r"'pcl_resnet5'\. Did you mean 'pcl_resnet50'"):
        facepcl.create_heads("pcl_resnet5")
    for name in ("resnet18", "model.safetensors"):  # timm's, and a file: both without a folder
        assert find_heads(name) is find_decoder(name) is None
        with pytest.raises(WeightsError, match=f"{name} comes without heads"):
            facepcl.create_heads(name)


@pytest.fixture
def encoder(finished, tmp_path):
    """A copy of the folder that a run leaves, to be damaged."""
    return shutil.copytree(f"{finished('labels').out}/encoder", tmp_path / "encoder")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "its heads have format 2, and this facepcl reads 1"),
        ({"pose": {"input": "pose"}}, "head 'pose' is not described by input, side, activation and outputs"),
        ({"pose": "all"}, "head 'pose' is not described by"),
        ({"pose": POSE | {"input": "chin"}}, "described by values that no head has"),
        ({"pose": POSE | {"side": 1e9}}, "described by values that no head has"),
        ({"pose": POSE | {"outputs": 1 << 30}}, "described by values that no head has"),
        ({"pose": POSE | {"outputs": 4}}, "does not hold the heads"),
        ({"forward": POSE}, "does not hold the heads"),
    ],
)
def test_a_description_of_heads_that_cannot_be_is_one_sentence(encoder, change, said):
    described = json.loads((encoder / "config.json").read_text())
    described["facepcl"]["heads"] |= change
    (encoder / "config.json").write_text(json.dumps(described))
    with pytest.raises(WeightsError, match=said):
        facepcl.create_heads(f"local-dir:{encoder}")


def test_heads_of_another_model_are_refused(encoder):
    tensors = load_tensors(encoder / "heads.safetensors")
    tensors.pop("pose.bias")
    save_tensors(tensors, encoder / "heads.safetensors")
    with pytest.raises(WeightsError, match="does not hold the heads au, expression, identity, pose"):
        facepcl.create_heads(f"local-dir:{encoder}")


# --- views


def views_of(share, count=64, seed=0, size=32):
    images = torch.randint(0, 256, (count, 3, 112, 112), dtype=torch.uint8, generator=generator(1))
    return label_views.label_views(images, LANDMARKS.expand(count, 5, 2), size, generator(seed), strong=share)


def test_the_share_of_strong_views_rises_from_an_eighth_of_the_run():
    assert [
        strong_probability("ramp", done, started=False) for done in (0, 0.125, 0.5625, 1)
    ] == pytest.approx([0, 0, 0.35, 0.7])
    assert strong_probability("ramp", 0, started=True) == pytest.approx(0.7)
    assert [strong_probability(views, 0.3, started=False) for views in ("mild", "strong")] == [0, 1]


def test_a_share_of_the_views_of_a_batch_is_strong():
    draws = label_views._Draws(10_000, 0.3, generator())
    # standard deviation of the share: 0.005
    assert draws.strong.float().mean().item() == pytest.approx(0.3, abs=0.02)
    half = draws.between("half_side")
    assert half[draws.strong].min() < MILD.half_side[0] < half[~draws.strong].min()
    assert half[draws.strong].max() <= STRONG.half_side[1]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_views_are_finite_and_between_black_and_white(share):
    found = views_of(share).images
    assert found.shape == (64, 3, 32, 32)
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_half_of_the_views_are_grey(share):
    spread = views_of(share, count=400).images
    grey = (spread.amax(1) - spread.amin(1)).amax((1, 2)) < 0.02  # JPEG's colours are rounded
    assert grey.float().mean().item() == pytest.approx(0.5, abs=0.08)  # three standard deviations


def test_strong_views_are_turned_further():
    mild, strong = (views_of(share, count=1000, size=8).turned.std().item() for share in (0.0, 1.0))
    assert (mild, strong) == (pytest.approx(6, abs=0.5), pytest.approx(8, abs=0.7))


def test_a_mirrored_view_is_the_mirror_image(monkeypatch):
    """With all else off, mirrored views of one image are the flipped others."""
    still = MILD._replace(half_side=(1.5, 1.5), sd_shift=0.0, sd_turn=0.0)
    monkeypatch.setattr(label_views, "MILD", still)
    monkeypatch.setattr(label_views, "_photo_look", lambda views, *_: views)
    image = torch.randint(0, 256, (1, 3, 112, 112), dtype=torch.uint8, generator=generator())
    found = label_views.label_views(image.expand(16, -1, -1, -1), LANDMARKS.expand(16, 5, 2), 32, generator())
    plain, mirrored = found.images[~found.mirrored], found.images[found.mirrored]
    assert 0 < len(plain) < 16
    torch.testing.assert_close(mirrored[0].flip(2), plain[0], atol=1e-5, rtol=0)


def test_a_run_from_weights_has_strong_views_and_identity_at_once(config, monkeypatch):
    seen = []
    real = substeps.label_views
    monkeypatch.setattr(substeps, "label_views", lambda *a: seen.append(a[-1]) or real(*a))
    run(replace(config, init="pcl_facecycle", steps=1))
    run(replace(config, steps=1, out=config.out + "-new"))
    *from_weights, from_random = seen
    assert set(from_weights) == {0.7}
    assert from_random == 0.0


def test_views_that_no_run_has_are_refused(config):
    with pytest.raises(
        OptionError, match=r"Unknown --views 'wild'\. Did you mean 'mild'\? Available: mild, strong, ramp"
    ):
        run(replace(config, views="wild"))
