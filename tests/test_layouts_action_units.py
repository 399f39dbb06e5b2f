"""Action units in the trees of DISFA and BP4D: frames, intensities, unknown units, wrong lines."""

from functools import partial
from pathlib import Path

import pytest
from helpers.files import put_face
from helpers.layouts import read_layout

from facepcl.errors import DataError


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


read = partial(read_layout, "action-units")


def disfa(root, names=("0.png", "1.png", "2.png"), steps=("0", "3", "5"), folder="img"):
    for subject in ("SN001", "SN002"):
        for unit in (12, 1):
            lines = [f"{frame},{step}" for frame, step in enumerate(steps, 1)]
            write(root / f"ActionUnit_Labels/{subject}/{subject}_au{unit}.txt", *lines)
        for number, name in enumerate(names):
            put_face(root / folder / subject / name, number)
    return root


@pytest.mark.parametrize("folder", ["img", "Images", "."])
@pytest.mark.parametrize("names", [("0.png", "1.png", "2.png"), ("00001.jpg", "00002.jpg", "00003.jpg")])
def test_frames_of_disfa_count_from_zero_or_one_and_five_steps_are_one(tmp_path, folder, names):
    manifest = read(disfa(tmp_path, names, folder=folder))
    assert manifest.layout == "disfa"
    assert [Path(image.name).name for image in manifest.images] == list(names) * 2
    assert [list(image.units.items()) for image in manifest.images[:3]] == [
        [("AU1", value), ("AU12", value)] for value in (0.0, 0.6, 1.0)
    ]
    assert [image.subject for image in manifest.images] == ["SN001"] * 3 + ["SN002"] * 3


def test_frames_of_disfa_are_in_the_order_of_their_numbers(tmp_path):
    names = [f"{number}.png" for number in range(12)]
    manifest = read(disfa(tmp_path, names, ["0"] * 12))
    assert [Path(image.name).name for image in manifest.images[:12]] == names


def test_frames_without_labels_and_labels_without_frames_are_counted(tmp_path):
    disfa(tmp_path, ("0.png", "2.png", "9.png"))
    manifest = read(tmp_path)
    assert [Path(image.name).name for image in manifest.images[:2]] == ["0.png", "2.png"]
    assert manifest.dropped == 2
    assert manifest.notes == ("2 of 6 frames left out: no labels", "labels of 2 frames without an image")


def test_a_unit_that_one_video_lacks_is_left_out(tmp_path):
    disfa(tmp_path)
    (tmp_path / "ActionUnit_Labels/SN002/SN002_au1.txt").unlink()
    manifest = read(tmp_path)
    assert {tuple(image.units) for image in manifest.images} == {("AU12",)}
    assert manifest.notes == ("AU1 left out: not labelled in all images",)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (("0", "6", "0"), "line 2: the intensity is '6', not a whole number from 0 to 5"),
        (("0", "0,1", "0"), "line 2 has 3 fields where 2 were expected"),
    ],
)
def test_a_wrong_line_of_disfa_is_named(tmp_path, steps, message):
    with pytest.raises(DataError, match=rf"SN001_au1\.txt, {message}"):
        read(disfa(tmp_path, steps=steps))


def test_disfa_without_frames_says_that_no_image_is_left(tmp_path):
    with pytest.raises(
        DataError, match="no image of the disfa data is left; labels of 6 frames without an image"
    ):
        read(disfa(tmp_path, ()))


def bp4d(root, *rows, header="0,1,12,99", name="%d.jpg"):
    for recording in ("F001_T1", "M002_T8"):
        write(root / f"AUCoding/AU_OCC/{recording}.csv", header, *rows)
        for number, row in enumerate(rows):
            put_face(root / "img" / recording.replace("_", "/") / (name % int(row.split(",")[0])), number)
    return root


@pytest.mark.parametrize("name", ["%d.jpg", "%04d.jpg"])
def test_bp4d_leaves_out_unknown_units_and_then_frames(tmp_path, name):
    rows = [f"{frame},0,1,9" for frame in range(98, 111)] + ["111,9,1,9"]
    manifest = read(bp4d(tmp_path, *rows, name=name))
    assert manifest.layout == "bp4d"
    assert len(manifest.images) == 26
    assert {tuple(image.units.items()) for image in manifest.images} == {(("AU1", 0.0), ("AU12", 1.0))}
    assert [image.subject for image in manifest.images] == ["F001"] * 13 + ["M002"] * 13
    assert manifest.dropped == 2
    assert manifest.notes == ("2 of 28 frames left out: a unit is unknown",)


def test_a_unit_of_bp4d_that_is_often_unknown_is_left_out(tmp_path):
    rows = [f"{frame},{9 if frame % 2 else 1},0,9" for frame in range(100, 110)]
    manifest = read(bp4d(tmp_path, *rows))
    assert len(manifest.images) == 20
    assert {tuple(image.units) for image in manifest.images} == {("AU12",)}
    assert manifest.notes == ("AU1 left out: unknown in more than a tenth of the frames",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("101,2,0,0", "line 3: AU1 is 2, not 0, 1 or 9"),
        ("101,0,0", "line 3 has 3 cells where the header has 4"),
        ("101,x,0,0", "line 3: AU1 is 'x'"),
    ],
)
def test_a_wrong_line_of_bp4d_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=rf"F001_T1\.csv, {message}"):
        read(bp4d(tmp_path, "100,0,0,0", row))
