"""The original's numbers, to 1e-10 in float64 (its weights filled by ../shared/reference/fill.py)."""

import json

import pytest
import torch
from conftest import relative_error

import facepcl
from facepcl import losses, views
from facepcl.models.decoder import Decoder, ProjectionHead
from facepcl.models.remap import split_original
from facepcl.pretrain import crops, dynamic_weights
from facepcl.pretrain.networks import Networks, contrast_faces, contrast_poses, disentangle

TOLERANCE = 1e-10  # an independent re-implementation deviated by 5e-15, a whole step by 5e-12


@pytest.fixture(scope="module")
def parts(original_state):
    return split_original(original_state)


@pytest.fixture(scope="module")
def encoder(parts):
    model = facepcl.create_model("pcl_facecycle").double().eval()
    model.load_state_dict(parts.encoder)
    return model


@pytest.mark.parametrize("size", [64, 100, 128])
def test_codes_are_those_of_the_original(encoder, reference, size):
    values = reference("encoder")
    codes = encoder.forward_codes(values[f"images_u8.{size}"].double() / 255)
    for name, code in codes._asdict().items():
        assert relative_error(code, values[f"{name}.{size}"]) < TOLERANCE, name


def test_attention_and_its_gradients(encoder, reference):
    values = reference("encoder")
    x = values["attention.x"].requires_grad_()
    attention = encoder.layer1[2]
    y = attention(x)
    assert relative_error(y, values["attention.y"]) < TOLERANCE
    parameters = dict(attention.named_parameters())
    gradients = torch.autograd.grad((y * values["attention.grad_out"]).sum(), [x, *parameters.values()])
    assert relative_error(gradients[0], values["attention.grad_x"]) < TOLERANCE
    for name, gradient in zip(parameters, gradients[1:], strict=True):
        assert relative_error(gradient, values[f"attention.grad.{name}"]) < TOLERANCE, name


def test_gradient_of_the_images(encoder, reference):
    values = reference("encoder")
    x = (values["images_u8.64"].double() / 255).requires_grad_()
    loss = 0.5 * sum(code.square().mean() for code in encoder.forward_codes(x))
    assert relative_error(loss, values["grad_loss.64"]) < TOLERANCE
    (gradient,) = torch.autograd.grad(loss, x)
    assert relative_error(gradient, values["grad_images.64"]) < TOLERANCE


def test_decoder_in_eval_and_train_mode(parts, reference):
    values = reference("decoder")
    decoder = Decoder().double().eval()
    decoder.load_state_dict(parts.decoder)
    codes = values["codes"].double()
    assert relative_error(decoder(codes)[:2], values["eval.images"]) < TOLERANCE
    trained = decoder.train()(codes)
    assert relative_error(trained[:2], values["train.images"]) < TOLERANCE
    assert relative_error(torch.stack([trained.sum(), trained.abs().sum()]), values["train.sum"]) < TOLERANCE
    for name, value in decoder.state_dict().items():
        if f"train.after.{name}" in values:
            assert relative_error(value, values[f"train.after.{name}"]) < TOLERANCE, name


@pytest.mark.parametrize("name", ["exp_fc", "pose_fc"])
def test_projection_heads_in_eval_and_train_mode(parts, reference, name):
    values = reference("heads")
    head = ProjectionHead().double().eval()
    head.load_state_dict(parts.face_head if name == "exp_fc" else parts.pose_head)
    x = values[f"{name}.x"].double()
    assert relative_error(head(x), values[f"{name}.eval"]) < TOLERANCE
    assert relative_error(head.train()(x), values[f"{name}.train"]) < TOLERANCE
    for buffer in ("running_mean", "running_var"):
        assert relative_error(getattr(head[3], buffer), values[f"{name}.after.3.{buffer}"]) < TOLERANCE


@pytest.mark.parametrize("case", ["face.a", "face.b"])
def test_face_contrast(reference, case):
    values = reference("losses")
    features = values[f"{case}.features"].requires_grad_()
    arguments = (features, values[f"{case}.mask"], values[f"{case}.perm"])
    assert relative_error(losses.face_contrast_logits(*arguments), values[f"{case}.logits"]) < TOLERANCE
    loss = losses.face_contrast(*arguments)
    assert relative_error(loss, values[f"{case}.loss"]) < TOLERANCE
    (gradient,) = torch.autograd.grad(loss, features)
    assert relative_error(gradient, values[f"{case}.grad"]) < TOLERANCE


def test_pose_contrast(reference):
    values = reference("losses")
    features, negatives = values["pose.features"].requires_grad_(), values["pose.negatives"].requires_grad_()
    arguments = (features, negatives.view(4, 7, 16), values["pose.mask"], values["pose.perm"])
    assert relative_error(losses.pose_contrast_logits(*arguments), values["pose.logits"]) < TOLERANCE
    loss = losses.pose_contrast(*arguments)
    assert relative_error(loss, values["pose.loss"]) < TOLERANCE
    gradients = torch.autograd.grad(loss, (features, negatives))
    assert relative_error(gradients[0], values["pose.grad_features"]) < TOLERANCE
    assert relative_error(gradients[1], values["pose.grad_negatives"]) < TOLERANCE


@pytest.mark.parametrize("case", ["orthogonal.a", "orthogonal.b"])
def test_orthogonality(reference, case):
    values = reference("losses")
    x, y = values[f"{case}.x"].requires_grad_(), values[f"{case}.y"].requires_grad_()
    loss = losses.orthogonality(x, y)
    assert relative_error(loss, values[f"{case}.loss"]) < TOLERANCE
    for gradient, side in zip(torch.autograd.grad(loss, (x, y)), "xy", strict=True):
        assert relative_error(gradient, values[f"{case}.grad_{side}"]) < TOLERANCE


def test_reconstruction(reference):
    values = {k.removeprefix("reconstruction."): v for k, v in reference("losses").items()}
    names = ("r_facef_pose", "r_face_posef", "r_face_pose", "r_facef_posef")
    images = [values[name].requires_grad_() for name in names]
    targets = [values[name] for name in ("normal", "flip", "normal", "flip")]
    loss = losses.reconstruction(images, targets)
    assert relative_error(loss, values["loss"]) < TOLERANCE
    for name, gradient in zip(names, torch.autograd.grad(loss, images), strict=True):
        assert relative_error(gradient, values[f"grad.{name}"]) < TOLERANCE, name


def test_dynamic_weights(shared):
    table = json.loads((shared / "reference/dwa.json").read_text())
    history = list(table["costs"].values())
    for epoch, wanted in table["weights"].items():
        found = dynamic_weights(history[: int(epoch) - 1])
        assert found == pytest.approx(wanted, abs=1e-6), epoch  # the original keeps its costs in float32


def levels_apart(found, wanted):
    return (found[0].permute(1, 2, 0).int() - wanted.int()).abs().max().item()


@pytest.fixture(scope="module")
def augment(reference):
    return reference("augment")


@pytest.fixture(scope="module")
def image(augment):
    return lambda name: augment[f"image.{name}"].permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("gray", views.grey),
        ("sobel.b", views.sobel),
        *(
            (f"blur.{sigma}", lambda x, s=sigma: views.blur(x, torch.tensor([s])))
            for sigma in (0.1, 0.5, 1.0, 2.0)
        ),
        *(
            (f"{kind}.{factor}", lambda x, k=kind, f=factor: getattr(views, k)(x, torch.tensor([f])))
            for kind, factors in {
                "brightness": (0.4, 1.5),
                "contrast": (0.4, 1.7),
                "saturation": (0.3, 1.6),
                "hue": (-0.2, 0.15),
            }.items()
            for factor in factors
        ),
    ],
)
def test_a_step_of_the_views_to_the_level(augment, image, name, step):
    assert levels_apart(step(image("b")), augment[name]) == 0


def test_sobel_wraps_strong_corners_to_dark(augment, image):
    assert levels_apart(views.sobel(image("c")), augment["sobel.c"]) == 0


def test_jitter_in_a_given_order(augment, image):
    x = views.saturation(image("b"), torch.tensor([0.5]))
    x = views.hue(views.brightness(x, torch.tensor([1.3])), torch.tensor([-0.1]))
    wanted = augment["jitter.saturation_brightness_hue_contrast"]
    assert levels_apart(views.contrast(x, torch.tensor([0.7])), wanted) == 0


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("view", [0, 1])
def test_quadrant_crops(augment, image, case, view):
    crop = crops.crop_around(image("a"), augment[f"crop.{case}.centres_xy"][view][None])
    assert levels_apart(crop, augment[f"crop.{case}.view{view}"]) == 0
    assert levels_apart(views.resize(crop, 64, "bilinear"), augment[f"crop.{case}.view{view}_64"]) <= 1


@pytest.mark.parametrize("case", [0, 1])
def test_centres_are_drawn_from_the_original_ranges(augment, case):
    columns, rows = crops.crop_ranges(80), crops.crop_ranges(96)
    for quadrant, bounds in zip(
        augment[f"crop.{case}.quadrants"], augment[f"crop.{case}.ranges_xy"], strict=True
    ):
        right, lower = int(quadrant) % 2, int(quadrant) // 2
        assert bounds.tolist() == [
            list(columns[2 * right : 2 * right + 2]),
            list(rows[2 * lower : 2 * lower + 2]),
        ]


def test_resize_is_pils_to_one_level(augment, image):
    assert levels_apart(views.resize(image("a"), 64, "bilinear"), augment["resize64.a"]) <= 1
    assert levels_apart(views.resize(image("a").flip(3), 64, "bilinear"), augment["resize64_flipped.a"]) <= 1


@pytest.fixture(scope="module")
def step_values(reference):
    return reference("step")


def summary(tensor):
    """Sum, absolute sum and the first four values, as step.safetensors keeps them."""
    flat = tensor.detach().double().flatten()
    first = torch.zeros(4, dtype=torch.float64)
    first[: min(4, len(flat))] = flat[:4]
    return torch.cat([torch.stack([flat.sum(), flat.abs().sum()]), first])


def check_rows(found, wanted, names, skip=()):
    """Row by row, relative to the row's absolute sum; rows below 1e-12 are rounding noise."""
    for name, row, tensor in zip(names, wanted, found, strict=True):
        if tensor is None:
            assert row.isnan().all(), f"{name} has no gradient"
        elif row[1] > 1e-12 and not name.endswith(skip):
            assert ((summary(tensor) - row).abs().max() / row[1]).item() < TOLERANCE, name


# Biases in front of a batch norm and theta.bias: their gradient is zero but for rounding (METHOD Q25).
NO_GRADIENT = (
    *(f"decoder.model.{i}.bias" for i in (2, 6, 10, 14, 18)),
    "exp_fc.2.bias",
    "pose_fc.2.bias",
    "theta.bias",
)


@pytest.mark.parametrize("variant", ["zeros", "keep_none"])
def test_one_whole_step(parts, step_values, shared, variant):
    from safetensors import safe_open

    v = step_values
    with safe_open(str(shared / "reference/step.safetensors"), "pt") as file:
        metadata = file.metadata()
    nets = Networks("pcl_facecycle", {}).double().train()
    nets.encoder.load_state_dict(parts.encoder)
    nets.face_head.load_state_dict(parts.face_head)
    nets.pose_head.load_state_dict(parts.pose_head)
    nets.decoder.load_state_dict(parts.decoder)
    ours = {"layer3_2_exp": "face", "layer3_2_pose": "pose"}

    def own_name(name):
        for part, mine in {"exp_fc.": "face_head.", "pose_fc.": "pose_head."}.items():
            name = name.replace(part, mine)
        first, _, rest = name.partition(".")
        stage, _, tail = rest.partition(".")
        return f"{first}.{ours[stage]}.{tail}" if stage in ours else name

    states, gradients = json.loads(metadata["state_names"]), json.loads(metadata["parameter_names"])
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-4, weight_decay=1e-3)

    def u8(name):
        return v[name].double() / 255

    def do_pfe():
        image = u8("pfe.images_u8")
        clean = torch.cat([image, image.flip(3)])
        noise = torch.cat([v["pfe.noise"], v["pfe.noise_flip"]]).double()
        parts = disentangle(nets, clean + 0.4 * noise, image, image.flip(3))
        assert relative_error(parts.orthogonality, v[f"{variant}.losses.pfe"][0]) < TOLERANCE
        assert relative_error(parts.reconstruction, v[f"{variant}.losses.pfe"][1:].sum()) < TOLERANCE
        return parts.reconstruction + parts.orthogonality

    def do_face():
        return contrast_faces(nets, u8("exp.images_u8").flatten(0, 1), v["exp.mask"], v["exp.perm"])

    def do_pose():
        positives, negatives = u8("pose.images_u8").flatten(0, 1), u8("pose.negatives_u8").flatten(0, 1)
        return contrast_poses(nets, positives, negatives, v["pose.mask"], v["pose.perm"], layout="blocks")

    for name, sub_step in {"pfe": do_pfe, "exp": do_face, "pose": do_pose}.items():
        optimizer.zero_grad(set_to_none=variant == "keep_none")
        loss = sub_step()
        if name != "pfe":
            assert relative_error(loss, v[f"{variant}.losses.{name}"][0]) < TOLERANCE
        loss.backward()
        parameters, state = dict(nets.named_parameters()), nets.state_dict()
        found = [parameters[own_name(n)].grad for n in gradients]
        check_rows(found, v[f"{variant}.grad.{name}"], gradients, NO_GRADIENT)
        optimizer.step()
        check_rows(
            [state[own_name(n)] for n in states], v[f"{variant}.state.after_{name}"], states, NO_GRADIENT
        )
