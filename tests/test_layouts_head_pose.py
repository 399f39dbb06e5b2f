"""Head pose in the trees of its authors: angles in our convention, squares, photographs, wrong files."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.files import put_face
from helpers.layouts import read_layout

from facepcl.errors import DataError, MissingPath
from facepcl.images.decode import decode
from facepcl.images.geometry import Square
from facepcl.images.rotations import from_pose_para, rotation

scipy_io = pytest.importorskip("scipy.io", reason="needs scipy, of the extra probe")
FLIP = np.diag([1, -1, -1])


read = partial(read_layout, "head-pose")


def landmarks68(right_eye, left_eye, nose, mouth_right, mouth_left):
    points = np.zeros((3, 68))
    points[:2, 36:42], points[:2, 42:48] = np.array(right_eye)[:, None], np.array(left_eye)[:, None]
    for index, point in ((30, nose), (48, mouth_right), (54, mouth_left)):
        points[:2, index] = point
    return points


POINTS = ((30, 40), (70, 40), (50, 60), (35, 80), (65, 80))


def with_mat(path, pitch_yaw_roll=(0, 0, 0), **arrays):
    put_face(path)
    para = np.concatenate([np.radians(pitch_yaw_roll), [0, 0, 0, 1e-4]])[None]
    scipy_io.savemat(path.with_suffix(".mat"), {"Pose_Para": para, **arrays})
    return path


def test_aflw2000_gives_angles_in_our_signs_and_a_square_around_the_face(tmp_path):
    with_mat(tmp_path / "image00002.jpg", (0, 30, 0), pt3d_68=landmarks68(*POINTS), pt2d=np.zeros((2, 21)))
    manifest = read(tmp_path)
    (image,) = manifest.images
    assert manifest.layout == "aflw2000"
    assert image.pose == pytest.approx((-30, 0, 0), abs=1e-6)  # theirs is positive to the image's left
    assert image.landmarks == tuple((float(x), float(y)) for x, y in POINTS)
    assert image.square == Square(50, 60, 60)
    assert (image.split, image.subject) == ("", "")


def test_another_data_set_with_such_labels_is_not_called_300w_lp(tmp_path):
    with_mat(tmp_path / "mine_1.jpg")
    assert read(tmp_path).layout == "mat"


def test_landmarks_of_300w_lp_are_in_pt2d_and_its_photographs_are_subjects(tmp_path):
    for folder in ("AFW", "AFW_Flip"):
        for view in range(2):
            with_mat(tmp_path / folder / f"AFW_134212_1_{view}.jpg", pt2d=landmarks68(*POINTS)[:2])
    with_mat(tmp_path / "IBUG/IBUG_image_003_1_0.jpg", pt2d=landmarks68(*POINTS)[:2])
    manifest = read(tmp_path)
    assert manifest.layout == "300w-lp"
    assert [image.subject for image in manifest.images] == ["AFW_134212_1"] * 4 + ["IBUG_image_003_1"]
    assert {image.square for image in manifest.images} == {Square(50, 60, 60)}


def test_aflw2000_is_the_test_split_beside_300w_lp(tmp_path):
    with_mat(tmp_path / "300W_LP/HELEN/HELEN_1_1_0.jpg")
    with_mat(tmp_path / "AFLW2000/image00004.jpg")
    assert [image.split for image in read(tmp_path).images] == ["train", "test"]


def test_an_angle_beyond_99_degrees_and_an_image_without_mat_are_left_out_and_counted(tmp_path):
    with_mat(tmp_path / "image00002.jpg", (98.9, 0, 0))
    with_mat(tmp_path / "image00003.jpg", (0, 0, -99.1))
    put_face(tmp_path / "image00004.jpg")
    manifest = read(tmp_path)
    assert [Path(image.name).name for image in manifest.images] == ["image00002.jpg"]
    assert manifest.dropped == 2
    assert manifest.notes == (
        "1 of 2 images left out: an angle beyond 99 degrees",
        "1 of 3 images left out: no .mat file",
    )


def test_a_csv_manifest_leaves_out_what_is_turned_beyond_99_degrees(tmp_path):
    rows = [f"{put_face(tmp_path / f'{n}.jpg').name},{yaw},0,0" for n, yaw in enumerate((10, 179, -179, 99))]
    (tmp_path / "x.csv").write_text("\n".join(["path,yaw,pitch,roll", *rows]))
    manifest = read(tmp_path / "x.csv")
    assert [image.pose[0] for image in manifest.images] == [10, 99]
    assert [Path(item.path).name for item in manifest.items()] == ["0.jpg", "3.jpg"]
    assert (manifest.dropped, len(manifest.notes)) == (2, 1)
    (tmp_path / "x.csv").write_text("\n".join(["path,yaw,pitch,roll", *rows[1:3]]))
    with pytest.raises(DataError, match="every image has an angle beyond 99 degrees"):
        read(tmp_path / "x.csv")


def test_a_mat_without_angles_and_one_that_is_cut_off_are_named(tmp_path):
    image = put_face(tmp_path / "image00002.jpg")
    scipy_io.savemat(image.with_suffix(".mat"), {"pt2d": np.zeros((2, 68))})
    with pytest.raises(DataError, match=r"image00002\.mat holds no Pose_Para"):
        read(tmp_path)
    image.with_suffix(".mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(DataError, match=r"image00002\.mat is not a \.mat file, or is cut off"):
        read(tmp_path)


def write_npz(path, poses, image=None):
    """As FSA-Net writes it: 64 pixels, as OpenCV reads images, so blue first; yaw, pitch, roll."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image is None:
        image = np.zeros((len(poses), 64, 64, 3), np.uint8)
        image[..., 0] = 200  # blue
        image[:, 0, 0, 2] = np.arange(len(poses))  # red, which counts the images
    np.savez(path, image=image, pose=np.array(poses), img_size=64)
    return path


def test_arrays_of_fsa_net_are_blue_first_and_their_yaw_comes_first(tmp_path):
    path = write_npz(tmp_path / "AFW.npz", [[30, 0, 0], [100, 0, 0], [0, 20, 10]])
    manifest = read(path)
    assert manifest.layout == "fsa-net"
    assert [image.name for image in manifest.images] == [f"{path}/0", f"{path}/2"]
    poses = [image.pose for image in manifest.images]
    np.testing.assert_allclose(poses, from_pose_para(np.array([[0, 30, 0], [20, 0, 10]])), atol=1e-9)
    pixels = [np.asarray(decode(item.read())) for item in manifest.items()]
    assert [tuple(p[5, 5]) for p in pixels] == [(0, 0, 200)] * 2
    assert [p[0, 0, 0] for p in pixels] == [0, 2]
    assert manifest.dropped == 1


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["AFLW2000", "AFW", "BIWI_noTrack"], ["test", "train", "test"]),
        (["BIWI_test", "BIWI_train"], ["test", "train"]),
        (["AFW", "HELEN"], ["", ""]),
    ],
)
def test_the_names_of_fsa_nets_files_tell_its_protocols(tmp_path, names, splits):
    for name in names:
        write_npz(tmp_path / f"{name}.npz", [[0, 0, 0]])
    assert [image.split for image in read(tmp_path).images] == splits


@pytest.mark.parametrize(
    ("poses", "image", "message"),
    [
        ([[0, 0]], None, r"pose is \[1, 2\], not 1 times yaw, pitch and roll"),
        ([[0, 0, 0]] * 2, np.zeros((1, 4, 4, 3), np.uint8), r"pose is \[2, 3\], not 1 times"),
        ([[0, 0, 0]], np.zeros((1, 4, 4, 3)), "image is float64"),
        ([[0, 0, 0]], np.array([None]), r"image is object \[1\]"),
        (np.array([[None] * 3]), None, "holds no array of numbers `pose`"),
    ],
)
def test_other_arrays_are_refused(tmp_path, poses, image, message):
    with pytest.raises(DataError, match=rf"x\.npz.*{message}"):
        read(write_npz(tmp_path / "x.npz", poses, image))


def test_a_npz_that_is_cut_off_is_named(tmp_path):
    path = write_npz(tmp_path / "x.npz", [[0, 0, 0]])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"x\.npz holds no array"):
        read(path)


CALIBRATION = """517.679 0 320
0 517.679 240.5
0 0 1

0 0 0 0

0.999947 0.00432361 0.00929419
-0.00446314 0.999877 0.0150443
-0.009228 -0.015085 0.999844

-24.0198 5.8896 -13.2308

640 480
""".replace("\n", " \n")  # its lines end in a blank


def biwi(root, turn, sequence="01"):
    folder = root / sequence
    put_face(folder / "frame_00003_rgb.png")
    rows = [" ".join(f"{v:.9f}" for v in row) + " " for row in turn]
    lines = [*rows, "", "43.4019 -30.7038 906.864 ", ""]
    (folder / "frame_00003_pose.txt").write_text("\n".join(lines))
    (folder / "rgb.cal").write_text(CALIBRATION)
    return root


@pytest.mark.parametrize("below", ["hpdb", "."])
def test_biwi_and_pose_para_give_the_same_pose_for_the_same_head(tmp_path, below):
    theirs = (20.0, -40.0, 10.0)  # pitch, yaw, roll
    pose = from_pose_para(np.array([theirs]))
    biwi(tmp_path / "biwi" / below, FLIP @ rotation(pose)[0] @ FLIP)
    with_mat(tmp_path / "mat/image00002.jpg", theirs)
    for path in ("biwi", "mat"):
        np.testing.assert_allclose(read(tmp_path / path).images[0].pose, pose[0], atol=1e-5)


def test_the_square_of_biwi_lies_around_the_projected_head(tmp_path):
    (image,) = read(biwi(tmp_path, np.eye(3))).images
    assert image.pose == pytest.approx((0, 0, 0))
    # by hand: 906.9 mm away, 28 mm to the right of the colour camera's axis and 11 mm above it
    assert image.square == pytest.approx((335.9, 233.8, 63.8, 0), abs=0.5)


def test_people_whom_biwi_recorded_twice_are_one_subject(tmp_path):
    for sequence in ("03", "05", "15"):
        biwi(tmp_path, np.eye(3), sequence)
    assert [image.subject for image in read(tmp_path).images] == ["03", "05", "03"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1 0 0\n0 1", ", line 2 has 2 fields where 3 were expected"),
        ("1 0 0\n0 1 0\n0 0 1\n", " has 3 lines of numbers where 4 were expected"),
        ("1 0 0\n0 1 0\n0 0 1\n\n0 x 900\n", ", line 5: a value is 'x', not a number"),
    ],
)
def test_a_wrong_line_of_biwi_is_named(tmp_path, lines, message):
    biwi(tmp_path, np.eye(3))
    (tmp_path / "01/frame_00003_pose.txt").write_text(lines)
    with pytest.raises(DataError, match=rf"frame_00003_pose\.txt{message}"):
        read(tmp_path)


def test_a_missing_image_and_a_wrong_calibration_of_biwi_are_named(tmp_path):
    biwi(tmp_path, np.eye(3))
    (tmp_path / "01/frame_00003_rgb.png").unlink()
    with pytest.raises(MissingPath, match=r"frame_00003_pose\.txt: there is no image .*_rgb\.png"):
        read(tmp_path)
    (tmp_path / "01/rgb.cal").write_text("517 0 320\n")
    with pytest.raises(DataError, match=r"rgb\.cal is no calibration"):
        read(tmp_path)
