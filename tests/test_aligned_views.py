"""Views of aligned crops with turned heads, and the relative pose loss (METHOD 14)."""

import numpy as np
import pytest
import torch
from helpers.files import FACES
from PIL import Image

from facepcl.losses import relative_pose
from facepcl.pretrain.aligned_views import _sources, aligned_views

STILL = torch.ones(1), torch.zeros(1, 2)  # half a crop's side, no shift


@pytest.fixture(scope="module")
def faces():
    """uint8 `[4, 3, 112, 112]`."""
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((112, 112))) for path in FACES[:4]]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def views_of(faces, **options):
    return aligned_views(faces, 32, torch.Generator().manual_seed(0), **options)


def sources(yaw=0.0, pitch=0.0, roll=0.0, mirrored=False, size=101):
    """Where the pixels of a view come from, x and y `[size, size]`, for angles in degrees."""
    turned = torch.tensor([[yaw, pitch, roll]]).deg2rad()
    return _sources(size, *STILL, turned, torch.tensor([mirrored]))[0].unbind(2)


def test_a_face_that_is_not_turned_comes_from_where_it_is():
    x, y = sources()
    line = (torch.arange(101) + 0.5) / 101 * 2 - 1
    torch.testing.assert_close(x, line.expand(101, 101))
    torch.testing.assert_close(y, line[:, None].expand(101, 101))


def test_positive_angles_are_those_of_the_labels():
    """Yaw to the right and pitch upwards move the middle of the face that way relative to its rim; roll
    rotates clockwise, so that what is on the right comes from above."""
    middle, left, right, top, bottom = (50, 50), (50, 5), (50, 95), (5, 50), (95, 50)
    (x, _), (other, _) = sources(yaw=20.0), sources(yaw=-20.0)
    assert x[middle] == pytest.approx(0, abs=1e-6)
    assert min(x[left] - other[left], x[right] - other[right]) > 0.2  # the rim goes to the left
    (_, y), (_, other) = sources(pitch=20.0), sources(pitch=-20.0)
    assert max(y[top] - other[top], y[bottom] - other[bottom]) < -0.15  # the rim goes down
    _, y = sources(roll=20.0)
    assert y[right] < -0.1


def test_a_mirrored_view_shows_the_turned_face_mirrored():
    plain, mirrored = (sources(15.0, 5.0, 8.0, mirrored) for mirrored in (False, True))
    for a, b in zip(plain, mirrored, strict=True):
        torch.testing.assert_close(a.flip(1), b)


def test_views_are_images_of_the_size_and_their_angles_within_bounds(faces):
    views = views_of(faces.repeat(64, 1, 1, 1), turn=10.0)
    assert views.images.shape == (256, 3, 32, 32)
    assert 0 <= views.images.min() < views.images.max() <= 1
    yaw, pitch, _ = views.turned.unbind(1)
    assert 9 < yaw.abs().max() <= 10
    assert 6 < pitch.abs().max() <= 7
    assert 64 < views.mirrored.sum() < 192


def test_the_views_of_a_part_of_a_batch_are_those_of_the_whole(faces):
    whole, part = views_of(faces), views_of(faces[2:], part=slice(2, 4), count=4)
    for all_, some in zip(whole, part, strict=True):
        torch.testing.assert_close(all_[2:], some)


def test_the_relative_pose_loss_is_0_for_poses_that_agree_before_the_turn():
    random = torch.Generator().manual_seed(0)
    pose, turned = torch.randn(5, 3, generator=random).repeat(2, 1), torch.randn(10, 3, generator=random)
    mirrored = torch.rand(10, generator=random) < 0.5
    signs = torch.where(mirrored[:, None], torch.tensor([-1.0, 1.0, -1.0]), 1.0)
    predicted = signs * (pose + turned)
    assert relative_pose(predicted, turned, mirrored, 5) == pytest.approx(0, abs=1e-6)
    assert relative_pose(predicted, turned, ~mirrored, 5) > 0.1
    assert relative_pose(predicted.abs(), turned, mirrored, 5) > 0.1


def test_the_relative_pose_losses_of_two_halves_of_a_batch_add_up():
    random = torch.Generator().manual_seed(0)
    predicted, turned = torch.randn(2, 8, 3, generator=random)
    mirrored = torch.rand(8, generator=random) < 0.5
    halves = ([0, 1, 4, 5], [2, 3, 6, 7])  # first and second views of two faces
    parts = sum(relative_pose(predicted[rows], turned[rows], mirrored[rows], 4) for rows in halves)
    torch.testing.assert_close(parts, relative_pose(predicted, turned, mirrored, 4))
