"""The original's values, to 1e-10 in float64 (tests/reference/README.md says how they were made)."""

import json

import numpy as np
import pytest
import torch
from conftest import REFERENCE, relative_error
from reference.fill import image_u8, unit

import facepcl
from facepcl import losses, views
from facepcl.hub.torch_checkpoint import recognise
from facepcl.models.decoder import Decoder, ProjectionHead
from facepcl.pretrain import dynamic_weights
from facepcl.pretrain.augment import crop_around, crop_ranges
from facepcl.pretrain.networks import Networks
from facepcl.pretrain.substeps import contrast_faces, contrast_poses, disentangle

TOLERANCE = 1e-10  # an independent re-implementation deviated by 5e-15, a whole step by 5e-12
STRIDE = 5  # of the kept values of large tensors; coprime to the sides of codes and images


def uniform(name, *shape):
    """An input of the reference values: uniform in [-1, 1), float64."""
    return torch.from_numpy(unit(name, shape))


def levels(name, *shape):
    """Images of the reference values, uint8."""
    return torch.from_numpy(image_u8(name, shape))


def images(name, *shape):
    """Images of the reference values as inputs of a network."""
    return levels(name, *shape).double() / 255


def check(found, values, name):
    """Compare a tensor; of a large one, every fifth value and the sums over all (README.md)."""
    if f"{name}.sums" in values:
        sums = torch.stack([found.sum(), found.abs().sum()])
        assert relative_error(sums, values[f"{name}.sums"]) < TOLERANCE, name
        found = found.flatten()[::STRIDE]
    assert found.shape == values[name].shape, name
    assert relative_error(found, values[name]) < TOLERANCE, name


@pytest.fixture(scope="module")
def parts(original_state):
    return recognise(original_state, None, "the original")


def below(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def encoder(parts):
    model = facepcl.create_model("pcl_facecycle").double().eval()
    model.load_state_dict(parts.encoder)
    return model


@pytest.mark.parametrize("size", [64, 100, 128])
def test_codes_are_those_of_the_original(encoder, reference, size):
    values = reference("encoder")
    codes = encoder.forward_codes(images(f"encoder.images.{size}", 2, 3, size, size))
    for name, code in codes._asdict().items():
        check(code, values, f"{name}.{size}")


def test_attention_and_its_gradients(encoder, reference):
    values = reference("encoder")
    x = uniform("attention.x", 2, 64, 6, 5).requires_grad_()
    attention = encoder.layer1[2]
    y = attention(x)
    check(y, values, "attention.y")
    parameters = dict(attention.named_parameters())
    loss = (y * uniform("attention.w", *y.shape)).sum()
    gradients = torch.autograd.grad(loss, [x, *parameters.values()])
    check(gradients[0], values, "attention.grad_x")
    for name, gradient in zip(parameters, gradients[1:], strict=True):
        check(gradient, values, f"attention.grad.{name}")


def test_gradient_of_the_images(encoder, reference):
    values = reference("encoder")
    x = images("encoder.images.64", 2, 3, 64, 64).requires_grad_()
    loss = 0.5 * sum(code.square().mean() for code in encoder.forward_codes(x))
    assert relative_error(loss, values["grad_loss.64"]) < TOLERANCE
    (gradient,) = torch.autograd.grad(loss, x)
    check(gradient, values, "grad_images.64")


def test_decoder_in_eval_and_train_mode(parts, reference):
    values = reference("decoder")
    decoder = Decoder().double().eval()
    decoder.load_state_dict(parts.decoder)
    codes = torch.nn.functional.normalize(uniform("decoder.codes", 3, 2048), dim=1)
    check(decoder(codes)[:2], values, "eval.images")
    trained = decoder.train()(codes)
    check(trained[:2], values, "train.images")
    assert relative_error(torch.stack([trained.sum(), trained.abs().sum()]), values["train.sum"]) < TOLERANCE
    for name, value in decoder.state_dict().items():
        if f"train.after.{name}" in values:
            check(value, values, f"train.after.{name}")


@pytest.mark.parametrize("name", ["exp_fc", "pose_fc"])
def test_projection_heads_in_eval_and_train_mode(parts, reference, name):
    values = reference("heads")
    head = ProjectionHead().double().eval()
    head.load_state_dict(below(parts.heads, "face_head." if name == "exp_fc" else "pose_head."))
    x = uniform(f"heads.{name}", 6, 2048)
    check(head(x), values, f"{name}.eval")
    check(head.train()(x), values, f"{name}.train")
    for buffer in ("running_mean", "running_var"):
        check(getattr(head[3], buffer), values, f"{name}.after.3.{buffer}")


@pytest.mark.parametrize("case", ["face.a", "face.b"])
def test_face_contrast(reference, case):
    values = reference("losses")
    features = values[f"{case}.features"].requires_grad_()
    arguments = (features, values[f"{case}.mask"], values[f"{case}.perm"])
    check(losses.face_contrast_logits(*arguments), values, f"{case}.logits")
    loss = losses.face_contrast(*arguments)
    assert relative_error(loss, values[f"{case}.loss"]) < TOLERANCE
    (gradient,) = torch.autograd.grad(loss, features)
    check(gradient, values, f"{case}.grad")


def test_pose_contrast(reference):
    values = reference("losses")
    features, negatives = values["pose.features"].requires_grad_(), values["pose.negatives"].requires_grad_()
    arguments = (features, negatives.view(4, 7, 16), values["pose.mask"], values["pose.perm"])
    check(losses.pose_contrast_logits(*arguments), values, "pose.logits")
    loss = losses.pose_contrast(*arguments)
    assert relative_error(loss, values["pose.loss"]) < TOLERANCE
    gradients = torch.autograd.grad(loss, (features, negatives))
    check(gradients[0], values, "pose.grad_features")
    check(gradients[1], values, "pose.grad_negatives")


@pytest.mark.parametrize("case", ["orthogonal.a", "orthogonal.b"])
def test_orthogonality(reference, case):
    values = reference("losses")
    x, y = values[f"{case}.x"].requires_grad_(), values[f"{case}.y"].requires_grad_()
    loss = losses.orthogonality(x, y)
    assert relative_error(loss, values[f"{case}.loss"]) < TOLERANCE
    for gradient, side in zip(torch.autograd.grad(loss, (x, y)), "xy", strict=True):
        check(gradient, values, f"{case}.grad_{side}")


def test_reconstruction(reference):
    values = reference("losses")
    names = ("r_facef_pose", "r_face_posef", "r_face_pose", "r_facef_posef")
    decoded = [uniform(f"losses.recon.{name}", 2, 3, 8, 8).requires_grad_() for name in names]
    targets = [uniform(f"losses.recon.{name}", 2, 3, 8, 8) for name in ("normal", "flip", "normal", "flip")]
    loss = losses.reconstruction(decoded, targets)
    assert relative_error(loss, values["reconstruction.loss"]) < TOLERANCE
    for name, gradient in zip(names, torch.autograd.grad(loss, decoded), strict=True):
        check(gradient, values, f"reconstruction.grad.{name}")


def test_dynamic_weights():
    table = json.loads((REFERENCE / "dynamic_weights.json").read_text())
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
    """The images of which the views are made, [1, 3, H, W]."""
    return {
        "a": levels("augment.a", 1, 3, 96, 80),
        "b": levels("augment.b", 1, 3, 64, 64),
        "c": augment["image.c"].permute(2, 0, 1)[None],
    }.__getitem__


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
    crop = crop_around(image("a"), augment[f"crop.{case}.centres_xy"][view][None])
    assert levels_apart(crop, augment[f"crop.{case}.view{view}"]) == 0
    assert levels_apart(views.resize(crop, 64, "bilinear"), augment[f"crop.{case}.view{view}_64"]) <= 1


@pytest.mark.parametrize("case", [0, 1])
def test_centres_are_drawn_from_the_original_ranges(augment, case):
    columns, rows = crop_ranges(80), crop_ranges(96)
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


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["zeros", "keep_none"])
def test_one_whole_step(original_state, parts, step_values, variant):
    v = step_values
    nets = Networks("pcl_facecycle", {}).double().train()
    nets.encoder.load_state_dict(parts.encoder)
    nets.face_head.load_state_dict(below(parts.heads, "face_head."))
    nets.pose_head.load_state_dict(below(parts.heads, "pose_head."))
    nets.decoder.load_state_dict(parts.decoder)
    ours = {"layer3_2_exp": "face", "layer3_2_pose": "pose"}

    def own_name(name):
        for part, mine in {"exp_fc.": "face_head.", "pose_fc.": "pose_head."}.items():
            name = name.replace(part, mine)
        first, _, rest = name.partition(".")
        stage, _, tail = rest.partition(".")
        return f"{first}.{ours[stage]}.{tail}" if stage in ours else name

    buffers = ("running_mean", "running_var", "num_batches_tracked")
    states = [name.removeprefix("module.") for name in original_state]
    gradients = [name for name in states if not name.endswith(buffers)]
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-4, weight_decay=1e-3)

    def do_pfe():
        image = images("step.pfe", 4, 3, 64, 64)
        clean = torch.cat([image, image.flip(3)])
        noise = np.sqrt(3) * torch.cat([uniform(f"step.noise.{i}", 4, 3, 64, 64) for i in (0, 1)])
        noise = noise.float().double()  # the reference noise is float32
        parts = disentangle(nets, clean + 0.4 * noise, image, image.flip(3))
        assert relative_error(parts.orthogonality, v[f"{variant}.losses.pfe"][0]) < TOLERANCE
        assert relative_error(parts.reconstruction, v[f"{variant}.losses.pfe"][1:].sum()) < TOLERANCE
        return parts.reconstruction + parts.orthogonality

    def do_face():
        faces = images("step.exp", 2, 4, 3, 64, 64).flatten(0, 1)
        return contrast_faces(nets, faces, v["exp.mask"], v["exp.perm"])

    def do_pose():
        positives = images("step.pose", 2, 2, 3, 64, 64).flatten(0, 1)
        negatives = images("step.neg", 5, 2, 3, 64, 64).flatten(0, 1)
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
