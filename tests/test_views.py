"""Batched views: random per sample, from the generator that is passed in."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from helpers.training import LANDMARKS, generator

from facepcl.images.rotations import rotation
from facepcl.pretrain import augment as views
from facepcl.pretrain import substeps
from facepcl.pretrain.config import CONTRASTS, METHODS, Config
from facepcl.pretrain.dataset import Faces
from facepcl.pretrain.label_views import LabelViews, label_views, turned_pose, upright_crops
from facepcl.pretrain.networks import Networks
from facepcl.pretrain.sampler import label_targets


@pytest.fixture(scope="module")
def images():
    """Smooth random pictures, uint8 [6, 3, 112, 112]."""
    small = torch.randint(0, 256, (6, 3, 7, 7), generator=generator()).to(torch.uint8)
    return views.resize(small, 112)


def test_face_views_come_in_pairs_of_floats(images):
    found = views.face_views(images, 64, generator())
    assert found.shape == (12, 3, 64, 64)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1


def test_pose_views_are_two_positives_and_mirrored_negatives(images):
    positives, negatives = views.pose_views(images, 64, 5, generator())
    assert positives.shape == (12, 3, 64, 64)
    assert negatives.shape == (30, 3, 64, 64)


def test_negatives_are_mirrors_draw_by_draw(images, monkeypatch):
    monkeypatch.setattr(views, "apply_chain", lambda x, chain: x)
    _, negatives = views.pose_views(images, 64, 5, generator())
    whole = views.to_float(views.resize(images, 64))
    assert torch.equal(negatives[2 * 6 + 4], whole[4].flip(2))  # row k B + i is draw k of sample i


def test_the_views_of_the_parts_are_those_of_the_whole(images):
    parts = (slice(0, 2), slice(2, 6))

    def assert_whole(make, copies):
        whole = make(views.WHOLE).unflatten(0, (copies, 6))
        found = torch.cat([make(part).unflatten(0, (copies, -1)) for part in parts], 1)
        # a convolution of fewer images may round otherwise, by a level where it is cut off
        assert (found - whole).abs().max() < 1.01 / 255
        assert (found == whole).float().mean() > 0.999

    for kind in ("quadrants", "whole"):
        assert_whole(
            lambda part, kind=kind: views.face_views(
                images[part], 48, generator(), part=part, count=6, crops=kind
            ),
            2,
        )
    for i, copies in enumerate((2, 5)):
        assert_whole(
            lambda part, i=i: views.pose_views(images[part], 48, 5, generator(), part=part, count=6)[i],
            copies,
        )
    landmarks = torch.full((6, 5, 2), torch.nan)
    assert_whole(lambda part: label_views(images[part], landmarks, 48, generator(), part).images, 1)


def test_the_generator_is_the_only_source_of_chance(images):
    torch.manual_seed(0)
    a = views.face_views(images, 64, generator(3))
    torch.manual_seed(1)
    assert torch.equal(a, views.face_views(images, 64, generator(3)))
    assert not torch.equal(a, views.face_views(images, 64, generator(4)))


def test_samples_are_augmented_each_its_own_way(images):
    same = images[:1].repeat(16, 1, 1, 1)
    found = views.augment(same, generator())
    assert len({tuple(x.flatten()[:2000].tolist()) for x in found}) >= 14  # 4 % stay as they are


def test_a_step_that_happens_to_no_image_is_no_error(images):
    """With two images and 100 seeds every step is left out somewhere."""
    for seed in range(100):
        views.augment(images[:2, :, :32, :32], generator(seed))
    assert views.blur(images[:0], torch.ones(0)).shape == (0, 3, 112, 112)


def test_the_callers_images_are_not_written_to(images):
    before = images.clone()
    views.face_views(images, 64, generator())
    views.pose_views(images, 112, 2, generator())
    assert torch.equal(before, images)


def test_crops_of_two_quadrants_never_overlap():
    first, second = views.quadrant_centres(2000, 112, 112, generator())
    half = int(0.2 * 112)
    assert ((first - second).abs() >= 2 * half).any(1).all()
    assert (torch.cat([first, second]) >= half).all()
    assert (torch.cat([first, second]) <= 112 - half).all()


def test_every_ordered_pair_of_quadrants_occurs_alike():
    first, second = views.quadrant_centres(12000, 112, 112, generator())
    code = ((first > 56) * torch.tensor([1, 2])).sum(1) * 4 + ((second > 56) * torch.tensor([1, 2])).sum(1)
    counts = code.bincount(minlength=16)
    assert (counts > 0).sum() == 12
    assert counts[counts > 0].min() > 850  # 1000 expected, standard deviation 30


def test_whole_face_crops_are_squares_of_a_quarter_of_the_image_or_more():
    centres, half, mirrored = views.whole_squares(2000, 100, 120, generator())
    assert (centres >= half[:, None]).all()
    assert (centres + half[:, None] <= torch.tensor([120, 100]) + 1e-4).all()
    assert ((half >= 25) & (half <= 50)).all()
    assert (half**2).std() > 500  # evenly by area: 541
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.04)


def test_whole_face_views_show_the_square_and_mirror_it(images, monkeypatch):
    monkeypatch.setattr(views, "apply_chain", lambda x, chain: x)
    whole = torch.tensor([[56.0, 56.0]]).repeat(12, 1), torch.full((12,), 56.0), torch.arange(12) < 6
    monkeypatch.setattr(views, "whole_squares", lambda *_: whole)
    found = views.face_views(images, 56, generator(), crops="whole")
    assert (found[:6].flip(3) - found[6:]).abs().max() < 1.01 / 255  # a level, where rounding parts them
    assert (
        found[6:] - images.float()[..., 0::2, 0::2] / 255
    ).abs().mean() < 0.05  # the picture itself, halved


@pytest.mark.parametrize(("device", "place"), [("mps", "cpu"), ("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_views_are_made_where_there_is_float64(device, place):
    """Pillow's arithmetic needs it, and Apple's GPUs refuse it."""
    assert substeps.where_views_are_made(torch.device(device)) == torch.device(place)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "labels"])
def test_a_step_takes_as_many_views_as_are_recorded_also_those_made_on_another_device(monkeypatch, method):
    """The device without values stands for Apple's GPUs: it refuses tensors of another, too."""

    class Noise:
        def batch(self, step, stream, count):
            return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8)

    monkeypatch.setattr(substeps, "where_views_are_made", lambda device: torch.device("cpu"))
    monkeypatch.setattr("torch.autocast", lambda *args, **options: nullcontext())  # which it does not know
    config = Config((), "", batch=4, pose_batch=2, pose_negatives=2, method=method)
    nets = Networks("pcl_facecycle", {}, config.tasks).to("meta").train()
    seen = []
    nets.encoder.conv1.register_forward_hook(lambda layer, inputs, _: seen.append(len(inputs[0])))
    steps = substeps.Tasks(config, Noise(), nets, 64, torch.float32)
    for loss in steps.of_step(0, 0.5, dict.fromkeys(CONTRASTS, 1.0)):
        loss.total.backward()
        assert loss.total.device.type == "meta"
    assert sum(seen) == config.views_per_step


def test_jitter_happens_for_four_of_five(images):
    same = images[:1].repeat(500, 1, 1, 1)[:, :, :32, :32].contiguous()
    unlike = (views.augment(same, generator()) != same).flatten(1).any(1).float().mean()
    # 1 - 0.2 (jitter) * 0.8 (grey) * 0.2 (blur) * 0.4 (Sobel)
    assert unlike.item() == pytest.approx(1 - 0.2 * 0.8 * 0.2 * 0.4, abs=0.02)


def test_label_views_put_the_eyes_above_the_mouth(images):
    """A dark dot on each landmark is found again, eye line level on average, mouth below."""
    marked = torch.full((64, 3, 112, 112), 255, dtype=torch.uint8)
    turn = torch.deg2rad(torch.tensor(25.0))
    rotation = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])
    points = (LANDMARKS - 56) @ rotation.T + 56
    for x, y in points.round().long().tolist():
        marked[:, :, y - 1 : y + 2, x - 1 : x + 2] = 0
    found = label_views(marked, points.expand(64, 5, 2), 64, generator())
    # the crop undoes the 25 degrees, up to a jitter of 6
    assert found.turned.mean().item() == pytest.approx(-25, abs=3)
    assert found.turned.std().item() == pytest.approx(6, abs=2)
    darkness = 1 - found.images.mean(1)
    darkness = (darkness - darkness.amin((1, 2), keepdim=True)).clamp_min(0.2) - 0.2
    upper, lower = darkness[:, :26].sum((1, 2)), darkness[:, 38:].sum((1, 2))
    assert (upper > 0).float().mean() > 0.9
    assert (lower > 0).float().mean() > 0.9


def test_without_landmarks_the_whole_image_is_the_face(images):
    unknown = torch.full((6, 5, 2), float("nan"))
    found = label_views(images, unknown, 64, generator())
    assert found.images.isfinite().all()
    assert found.turned.abs().max() < 30  # jitter alone


def test_a_mirror_negates_yaw_and_roll():
    pose = torch.tensor([[20.0, 10.0, 5.0]])
    faces = Faces(
        images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        names=["a"],
        landmarks=torch.zeros(1, 5, 2),
        pose=pose.clone(),
        au=torch.zeros(1, 1),
        expression=torch.tensor([-1]),
        identity=torch.tensor([0]),
    )
    views = LabelViews(torch.zeros(2, 3, 8, 8), torch.tensor([False, True]), torch.zeros(2))
    found = label_targets(faces, torch.tensor([0, 0]), views)["pose"]
    torch.testing.assert_close(found, torch.tensor([[20.0, 10.0, 5.0], [-20.0, 10.0, -5.0]]))
    assert torch.equal(faces.pose, pose)


def test_the_pose_in_a_turned_image_puts_the_points_of_the_head_where_they_are_in_it():
    rng = np.random.default_rng(0)
    pose, turns, points = rng.uniform(-60, 60, (9, 3)), rng.uniform(-40, 40, 9), rng.normal(size=(7, 3))
    found = turned_pose(torch.from_numpy(pose), torch.from_numpy(turns)).numpy()
    for before, after, degrees in zip(pose, found, np.radians(turns), strict=True):
        x, y, _ = rotation(before)[0] @ points.T
        seen = x * np.cos(degrees) + y * np.sin(degrees), y * np.cos(degrees) - x * np.sin(degrees)
        np.testing.assert_allclose(rotation(after)[0, :2] @ points.T, seen, atol=1e-9)


def test_where_an_angle_is_unknown_a_turn_adds_to_roll():
    pose = torch.tensor([[20.0, float("nan"), 5.0], [20.0, 10.0, float("nan")]])
    found = turned_pose(pose, torch.tensor([3.0, 3.0]))
    assert found[0, [0, 2]].tolist() == [20, 8]
    assert found[1, :2].tolist() == [20, 10]


def test_a_face_without_landmarks_is_probed_as_it_is():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    unknown = upright_crops(images, torch.full((2, 5, 2), float("nan")))
    assert torch.equal(unknown.images, images)
    assert not unknown.turned.any()
