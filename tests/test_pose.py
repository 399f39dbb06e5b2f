"""The convention of head pose: what a turn does to the nose, and other data sets' angles in it."""

import numpy as np
import pytest

from facepcl.images.rotations import angles, from_camera, from_pose_para, geodesic, rotation, to_pose_para

NOSE, ACROSS = np.array([0, 0, 1.0]), np.array([1.0, 0, 0])  # of a head that faces the camera


def random_poses(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3)) * [170, 85, 170]


def turn(axis, degrees):
    """Written out once more, by hand."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array(
        {
            "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
            "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        }[axis]
    )


def test_yaw_moves_the_nose_to_the_right_pitch_up_and_roll_turns_clockwise():
    right, up, rolled = rotation([[30, 0, 0], [0, 30, 0], [0, 0, 30]])
    np.testing.assert_allclose(right @ NOSE, [0.5, 0, np.sqrt(0.75)], atol=1e-12)
    np.testing.assert_allclose(up @ NOSE, [0, 0.5, np.sqrt(0.75)], atol=1e-12)
    np.testing.assert_allclose(rolled @ ACROSS, [np.sqrt(0.75), -0.5, 0], atol=1e-12)


def test_a_rotation_is_roll_then_pitch_then_yaw():
    for pose, R in zip(random_poses(50), rotation(random_poses(50)), strict=True):
        np.testing.assert_allclose(
            R, turn("y", pose[0]) @ turn("x", -pose[1]) @ turn("z", -pose[2]), atol=1e-12
        )


def test_angles_undo_rotation():
    poses = random_poses(500)
    np.testing.assert_allclose(angles(rotation(poses)), poses, atol=1e-9)


def test_the_geodesic_is_the_angle_of_the_turn_between():
    start = rotation(random_poses(4))
    degrees = [0.0, 1e-5, 90.0, 179.999]
    end = np.stack([R @ turn("x", d) for R, d in zip(start, degrees, strict=True)])
    np.testing.assert_allclose(geodesic(start, end), degrees, atol=1e-6)
    np.testing.assert_allclose(geodesic(end, start), degrees, atol=1e-6)


def left_handed(pitch, yaw, roll):
    """The rotation of 3DDFA's angles as published: left-handed, and Rx Ry Rz."""
    return turn("x", pitch).T @ turn("y", yaw).T @ turn("z", roll).T


def test_pose_para_is_the_rotation_that_its_authors_publish():
    theirs = np.random.default_rng(1).uniform(-80, 80, (100, 3))
    wanted = np.stack([left_handed(*row) for row in theirs])
    np.testing.assert_allclose(rotation(from_pose_para(theirs)), wanted, atol=1e-12)


def test_published_angles_come_back_as_they_were():
    theirs = np.random.default_rng(0).uniform(-80, 80, (200, 3))
    np.testing.assert_allclose(to_pose_para(from_pose_para(theirs)), theirs, atol=1e-9)


def hopenet(turned):
    """Yaw, pitch, roll of a BIWI rotation as hopenet publishes them, in the signs of Pose_Para."""
    yaw = np.arctan2(-turned[2, 0], np.hypot(turned[2, 1], turned[2, 2]))
    return np.degrees([yaw, -np.arctan2(turned[2, 1], turned[2, 2]), np.arctan2(turned[1, 0], turned[0, 0])])


@pytest.mark.parametrize("pose", [[25, 0, 0], [0, 25, 0], [0, 0, 25]])
def test_camera_axes_have_the_signs_of_hopenet(pose):
    flip = np.diag([1, -1, -1])
    R = flip @ rotation([pose])[0] @ flip
    np.testing.assert_allclose(from_camera(R[None])[0], pose, atol=1e-9)
    np.testing.assert_allclose(hopenet(R), pose * np.array([-1, 1, 1]), atol=1e-9)


@pytest.mark.slow
def test_rendered_faces_turn_as_the_convention_says():
    """The nose leaves the middle of the face where R points it, and the eyes' line tilts as R tilts it."""
    pytest.importorskip("numba", reason="needs the extra synth")
    from synthetic_faces.generator import Generator

    generator = Generator(seed=7, size=48)
    faces = [generator.image(person, image)[1] for person in range(40) for image in range(3)]
    poses = np.array([[face[angle] for angle in ("yaw", "pitch", "roll")] for face in faces])
    marks = {name: np.array([face["landmarks"][name] for face in faces]) for name in faces[0]["landmarks"]}
    eyes = (marks["right_eye"] + marks["left_eye"]) / 2
    mouth = (marks["mouth_right"] + marks["mouth_left"]) / 2
    offset = (marks["nose"] - (eyes + mouth) / 2) * [1, -1]  # y up
    faced = rotation(poses) @ NOSE
    # noses differ in how far down the face they are, and pitches are small
    for axis, least in ((0, 0.9), (1, 0.6)):
        assert np.corrcoef(offset[:, axis], faced[:, axis])[0, 1] > least
    near = np.abs(poses[:, 0]) < 45
    across = (marks["left_eye"] - marks["right_eye"])[near] * [1, -1]
    wanted = (rotation(poses) @ ACROSS)[near, :2]
    tilt = np.degrees(np.arctan2(across[:, 1], across[:, 0]) - np.arctan2(wanted[:, 1], wanted[:, 0]))
    assert np.median(np.abs(tilt)) < 2
