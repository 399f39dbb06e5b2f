"""examples/pcl_reference.py computes what the library computes, and can be read in one sitting."""

import sys
from typing import NamedTuple

import pcl_reference as reference
import pytest
import timm
import torch
from helpers.files import ROOT
from helpers.scripts import output
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import facepcl
from facepcl import losses, pretrain
from facepcl.pretrain import augment
from facepcl.pretrain.augment import crop_ranges
from facepcl.pretrain.losses import MIXING
from facepcl.pretrain.networks import Networks
from facepcl.pretrain.substeps import contrast_faces, contrast_poses, disentangle

SCRIPT, FACES = ROOT / "examples/pcl_reference.py", ROOT / "examples/faces"
TOLERANCE = 1e-8
BATCH, DRAWS = 3, 4


class Step(NamedTuple):
    """The loss of a step, its gradients by parameter (None where there is none) and the buffers after it."""

    loss: torch.Tensor
    gradients: dict[str, torch.Tensor | None]
    buffers: dict[str, torch.Tensor]


def take(model, loss):
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return Step(loss.detach(), gradients, dict(model.named_buffers()))


def random_views(count):
    return torch.rand(count, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def mixing(rows, slots):
    mask, permutation = losses.mixing(rows, slots, torch.Generator().manual_seed(2), views=1)
    return mask.double(), permutation


def disentangle_both(ours, library):
    image, noise = random_views(BATCH), torch.randn(2 * BATCH, 3, 64, 64, dtype=torch.float64)
    mirror = image.flip(3)
    noisy = torch.cat([image, mirror]) + pretrain.Config(data=(), out="").noise * noise
    found = disentangle(library, noisy, image, mirror)
    return reference.disentangle(ours, image, mirror, noise), found.reconstruction + found.orthogonality


def contrast_faces_both(ours, library):
    crops, mixed = random_views(2 * BATCH), mixing(2 * BATCH, 2 * BATCH - 2)
    return reference.contrast_faces(ours, crops, *mixed), contrast_faces(library, crops, *mixed)


def contrast_poses_both(ours, library):
    positives, negatives = random_views(2 * BATCH), random_views(DRAWS * BATCH)
    mixed = mixing(BATCH, DRAWS)
    found = contrast_poses(library, positives, negatives, *mixed, layout="blocks")
    return reference.contrast_poses(ours, positives, negatives, *mixed), found


@pytest.fixture(
    scope="module",
    params=[disentangle_both, contrast_faces_both, contrast_poses_both],
    ids=["disentangle", "faces", "poses"],
)
def steps(request):
    """One step by the reference and the same by the library, from the same weights, in float64."""
    torch.manual_seed(0)
    library, ours = Networks("pcl_facecycle", {}).double(), reference.PCL().double()
    ours.load_state_dict(library.state_dict())
    our_loss, loss = request.param(ours, library)
    return take(ours, our_loss), take(library, loss)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_loss_of_a_step_is_the_librarys(steps):
    ours, library = steps
    close(ours.loss, library.loss)


def test_the_gradients_of_all_parameters_are_the_librarys(steps):
    ours, library = steps
    assert any(gradient is not None and gradient.any() for gradient in library.gradients.values())
    close(ours.gradients, library.gradients)


def test_the_batch_norm_statistics_after_a_step_are_the_librarys(steps):
    ours, library = steps
    close(ours.buffers, library.buffers)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [[5.0, 3.0]],
        [[5.0, 3.0], [4.0, 3.3]],
        [[9.0, 9.0], [5.0, 3.0], [4.9, 0.2]],
        [[5.0, 0.0], [4.0, 1.0]],
    ],
)
def test_dynamic_weights_are_the_librarys(history):
    assert reference.dynamic_weights(history) == pytest.approx(
        pretrain.dynamic_weights(history), abs=TOLERANCE
    )


def test_the_constants_are_the_librarys():
    config = pretrain.Config(data=(), out="")
    found = reference.LEARNING_RATE, reference.WEIGHT_DECAY, reference.POSE_BATCH, reference.MIXING
    assert found == (config.lr, config.weight_decay, config.pose_batch, MIXING)
    probabilities = [step.p for step in reference.augment.transforms]
    assert probabilities == [augment.P_JITTER, augment.P_GREY, augment.P_BLUR, augment.P_SOBEL]


def test_masks_of_all_rows_share_one_permutation():
    mask, permutation = reference.draw_mixing(4, 6)
    assert mask.shape == (4, 6)
    assert sorted(permutation.tolist()) == list(range(6))


@pytest.fixture(scope="module")
def image():
    """A face with strong edges drawn over it, as a PIL image of 64 pixels."""
    face = Image.open(sorted(FACES.glob("*.jpg"))[0]).resize((64, 64))
    face.paste((255, 255, 255), (10, 10, 30, 20))
    face.paste((0, 0, 0), (12, 12, 20, 30))
    return face


def levels(picture):
    return pil_to_tensor(picture)[None]


def test_edges_are_the_librarys_to_the_level(image):
    assert torch.equal(levels(reference.sobel(image)), augment.sobel(levels(image)))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_the_librarys_to_one_level(image, sigma, monkeypatch):
    monkeypatch.setattr(reference.blur.transforms[1], "sigma", (sigma, sigma))
    found, wanted = levels(reference.blur(image)), augment.blur(levels(image), torch.tensor([sigma]))
    assert (found.int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize(("width", "height"), [(112, 112), (57, 90)])
def test_crops_lie_in_two_quadrants_with_the_librarys_ranges(width, height):
    image = Image.new("RGB", (width, height))
    image.putdata([(x, y, 0) for y in range(height) for x in range(width)])  # a pixel tells its place
    columns, rows = crop_ranges(width), crop_ranges(height)
    for _ in range(50):
        quadrants = []
        for crop in reference.quadrant_crops(image):
            assert crop.size == (2 * columns[0], 2 * rows[0])
            x, y, _ = crop.getpixel((columns[0], rows[0]))
            right, lower = x > width // 2, y > height // 2
            assert columns[2 * right] <= x <= columns[2 * right + 1]
            assert rows[2 * lower] <= y <= rows[2 * lower + 1]
            quadrants.append((right, lower))
        assert len(set(quadrants)) == 2


def test_a_batch_holds_the_first_views_then_the_second_ones():
    batch = reference.get_batch(sorted(FACES.glob("*.jpg")), 3, reference.disentangle_views).cpu()
    first, second = batch.chunk(2)
    assert first.shape == (3, 3, 64, 64)
    assert (first.flip(3) - second).abs().max() <= 1 / 255 + 1e-6


def test_two_steps_on_the_sample_faces_leave_an_encoder_that_timm_loads(tmp_path):
    lines = output(f"python {SCRIPT} {FACES} --out {tmp_path} --steps 2 --batch 2 --negatives 2")
    assert [line.partition(":")[0] for line in lines] == ["step 1", "step 2"]
    model = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True)
    assert model(torch.rand(2, 3, 64, 64)).isfinite().all()
    assert facepcl.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True).pose is not None


def test_a_batch_larger_than_the_folder_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pcl_reference.py", str(FACES), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="has 24 images; --batch 256 must be from 2 to that number"):
        reference.main()


def test_the_file_has_at_most_250_lines():
    assert len(SCRIPT.read_text("utf-8").splitlines()) <= 250
