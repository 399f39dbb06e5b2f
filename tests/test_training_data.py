"""What the loop reads: folders, identity folders and shards, with their labels."""

import json
import re
import tracemalloc

import numpy as np
import pytest
import torch
from helpers.files import break_drive, jpeg, pack
from PIL import Image

from facepcl.errors import DataError, MissingPath, OptionError, RemoteError
from facepcl.pretrain.dataset import read_faces


def test_identity_folders_give_identities_and_json_the_rest(faces_folder):
    faces = read_faces([faces_folder], 64)
    assert faces.images.shape == (12, 3, 64, 64)
    assert faces.identity.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert faces.au_names == ("AU12", "AU4")
    assert faces.au[1].tolist() == pytest.approx([0.25, 0.2])
    assert faces.expression_names == ("happy", "sad")
    assert faces.pose[3].tolist() == [15, 5, 0]
    assert faces.label_outputs(128) == {
        "au": ("AU12", "AU4"),
        "expression": ("happy", "sad"),
        "identity": 128,
        "pose": ("yaw", "pitch", "roll"),
    }


def test_landmarks_follow_resize_and_crop(tmp_path):
    marks = {k: [50, 30] for k in ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")}
    path = pack(
        tmp_path / "s.tar",
        {"a.jpg": jpeg(size=(100, 60)), "a.json": json.dumps({"landmarks": marks}).encode()},
    )
    assert (
        read_faces([path], 30).landmarks[0].tolist() == [[15, 15]] * 5
    )  # the picture's centre stays the centre


def test_people_without_a_name_are_no_person(tmp_path):
    files = {}
    for number, name in enumerate(["", "", "ann"]):
        files[f"{number}.jpg"] = jpeg()
        files[f"{number}.json"] = json.dumps({"identity": name}).encode()
    assert read_faces([pack(tmp_path / "s.tar", files)], 16).identity.tolist() == [-1, -1, 0]


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg())
    faces = read_faces([tmp_path], 16)
    assert faces.identity.tolist() == [-1, -1]
    assert faces.landmarks.isnan().all()
    with pytest.raises(DataError, match="needs labels"):
        faces.label_outputs(128)


def test_a_shards_members_belong_together_by_name(tmp_path):
    path = pack(
        tmp_path / "s.tar",
        {
            "a.json": b'{"yaw": 5}',
            "a.jpg": jpeg(),
            "b.jpg": jpeg(),
            "b.cls": b"7",
            "readme.txt": b"x",
            "c.jpg": jpeg(),
        },
    )
    faces = read_faces([path], 16, cls="identity")
    assert faces.names == [f"{path}/{n}.jpg" for n in "abc"]
    assert faces.pose[:, 0].nan_to_num(-99).tolist() == [5, -99, -99]
    assert faces.identity.tolist() == [-1, 0, -1]


def test_a_cls_file_is_the_expression_unless_it_is_said_to_be_the_identity(tmp_path):
    """As for the probes."""
    for path in (tmp_path / "folder", pack(tmp_path / "s.tar", {"a.jpg": jpeg(), "a.cls": b"sad"})):
        if path.name == "folder":
            path.mkdir()
            (path / "a.jpg").write_bytes(jpeg())
            (path / "a.cls").write_text("sad\n")
        faces = read_faces([path], 16)
        assert (faces.expression_names, faces.identity.tolist()) == (("sad",), [-1])
        faces = read_faces([path], 16, cls="identity")
        assert (faces.expression_names, faces.identity.tolist()) == ((), [0])


def test_names_may_hold_dots(tmp_path):
    frames = [f"clip{clip}.{frame:04d}" for clip in range(2) for frame in range(3)]
    files = [
        (f"{name}.{kind}", data)
        for name in frames
        for kind, data in (("jpg", jpeg()), ("cls", name[:5].encode()))
    ]
    faces = read_faces([pack(tmp_path / "s.tar", dict(files))], 16, cls="identity")
    assert [name.rpartition("/")[2] for name in faces.names] == [f"{name}.jpg" for name in frames]
    assert faces.identity.tolist() == [0] * 3 + [1] * 3


def test_two_images_of_one_name_are_two_images(tmp_path):
    files = {"a.json": b'{"yaw": 5}', "a.jpg": jpeg(), "a.jpeg": jpeg()}
    assert read_faces([pack(tmp_path / "s.tar", files)], 16).pose[:, 0].tolist() == [5, 5]


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg())
    return root


def test_folders_that_number_their_people_alike_have_different_people(tmp_path):
    for folder in ("first", "second"):
        put(tmp_path / folder, "0001/0.jpg", "0002/0.jpg")
    assert read_faces([tmp_path / "first", tmp_path / "second"], 16).identity.tolist() == [0, 1, 2, 3]


def test_shards_of_one_folder_share_their_people_and_those_of_two_do_not(tmp_path):
    members = {"a.jpg": jpeg(), "a.json": b'{"identity": 7}'}
    shards = [pack(tmp_path / name, members) for name in ("one/0.tar", "one/1.tar", "two/0.tar")]
    for sources in (shards, [tmp_path / "one", tmp_path / "two"]):
        assert read_faces(sources, 16).identity.tolist() == [0, 0, 1]


def test_a_person_is_the_first_folder_however_deep_the_images_lie(tmp_path):
    """YouTube Faces and VoxCeleb have a folder for each video of a person, CFP one for each view."""
    put(tmp_path, "ann/0/0.jpg", "ann/1/0.jpg", "ann/x.jpg", "bea/0/0.jpg", "bea/1/0.jpg")
    assert read_faces([tmp_path], 16).identity.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["lfw/ann/0.jpg", "lfw/bea/0.jpg"], r"all images of .* are in its folder lfw: .* pass .*lfw"),
        (["train/ann/0.jpg", "test/bea/0.jpg"], r"are splits, not people \(test, train\): pass one"),
        (["ann/0.jpg", "sheet.jpg"], r"sheet\.jpg is beside them"),
    ],
)
def test_folders_that_cannot_be_people_are_not_taken_for_people(tmp_path, caplog, names, reason):
    put(tmp_path, *names)
    assert read_faces([tmp_path], 16).identity.tolist() == [-1, -1]
    assert re.search(f"2 images have no identity: .*{reason}", caplog.text)


def test_a_sample_is_named_up_to_the_first_dot_as_in_webdataset(tmp_path):
    """000.face.jpg and 000.json belong together; so do they in a folder."""
    members = {"000.face.jpg": jpeg(), "000.json": b'{"yaw": 5}', "001.face.jpg": jpeg()}
    members["001.face.json"] = b'{"yaw": 6}'
    (tmp_path / "folder").mkdir()
    for name, data in members.items():
        (tmp_path / "folder" / name).write_bytes(data)
    for path in (pack(tmp_path / "s.tar", members), tmp_path / "folder"):
        assert read_faces([path], 16).pose[:, 0].tolist() == [5, 6]


def test_numbers_of_classes_have_their_names_beside_a_json_too(tmp_path):
    (tmp_path / "classnames.txt").write_text("happy\nsad\n")
    for name, data in {"0.a.jpg": jpeg(), "0.json": b'{"yaw": 5}', "0.a.cls": b"1"}.items():
        (tmp_path / name).write_bytes(data)
    faces = read_faces([tmp_path], 16)
    assert (faces.expression_names, faces.pose[0, 0].item()) == (("sad",), 5)


def test_label_files_without_an_image_beside_them_are_counted(tmp_path, caplog):
    members = {"a.jpg": jpeg(), "b.jpg": jpeg(), "a.json": b'{"yaw": 5}', "b.json": b'{"yaw": 6}'}
    faces = read_faces([pack(tmp_path / "s.tar", members)], 16)
    assert faces.pose.isnan().all()
    said = r"2 label files have no image of the same name; the first is .*s\.tar/a\.json"
    assert re.search(said, caplog.text)


def test_a_label_that_is_missing_is_unknown_except_inside_au(tmp_path):
    path = pack(
        tmp_path / "s.tar",
        {
            "a.jpg": jpeg(),
            "a.json": b'{"au": {"AU1": 0.5}}',
            "b.jpg": jpeg(),
            "b.json": b'{"au": {}}',
            "c.jpg": jpeg(),
        },
    )
    au = read_faces([path], 16).au[:, 0]
    assert au[:2].tolist() == [0.5, 0.0]
    assert au[2].isnan()


def test_head_poses_without_an_angle_are_refused(tmp_path):
    path = pack(tmp_path / "s.tar", {"a.jpg": jpeg(), "a.json": b'{"yaw": 5, "roll": 0}'})
    with pytest.raises(DataError, match="head pose needs yaw, pitch and roll, and no image has a pitch"):
        read_faces([path], 16).label_outputs(4)


def test_nothing_to_train_on_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images"):
        read_faces([tmp_path], 16)
    (tmp_path / "a.jpg").write_bytes(jpeg()[:300])
    with pytest.raises(DataError, match=r"no images .* \(1 are broken\)"):
        read_faces([tmp_path], 16)
    with pytest.raises(MissingPath, match="nowhere"):
        read_faces([tmp_path / "nowhere"], 16)


def test_files_that_are_neither_images_nor_labels_are_counted(tmp_path, caplog):
    for name, data in {
        "a.jpg": jpeg(),
        "a.json": b"{}",
        "b.NEF": b"x",
        "none": b"x",
        ".hidden": b"x",
    }.items():
        (tmp_path / name).write_bytes(data)
    pack(tmp_path / "s.tar", {"c.jpg": jpeg(), "c.cls": b"1", "c.NEF": b"x"})
    assert len(read_faces([tmp_path], 16)) == 2
    assert caplog.messages == ["skipped 3 files: 2 .NEF, 1 without extension"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "train.rec",
            "train.rec is an MXNet record file, .*write its images to folders or .tar shards first",
        ),
        ("face.jpg", "face.jpg is one file; training reads folders of images and .tar shards"),
    ],
)
def test_a_file_that_is_no_training_data_says_what_is(tmp_path, name, said):
    (tmp_path / name).write_bytes(jpeg() if name == "face.jpg" else b"?")
    with pytest.raises(OptionError, match=said):
        read_faces([tmp_path / name], 16)
    if name != "face.jpg":
        with pytest.raises(DataError, match=r"no images to train on in .*: skipped 1 file"):
            read_faces([tmp_path], 16)


@pytest.mark.parametrize("name", ["a.jpg", "a.json", "s.tar"])
@pytest.mark.usefixtures("no_waits")
def test_a_drive_that_fails_is_no_broken_image(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "a.json").write_bytes(b"{}")
    pack(tmp_path / "s.tar", {"c.jpg": jpeg()})
    mend = break_drive(tmp_path / name)
    with pytest.raises(RemoteError, match=f"{name} cannot be read: Input/output error, 3 times in a row"):
        read_faces([tmp_path], 16)
    mend()
    assert len(read_faces([tmp_path], 16)) == 2


def test_pixels_are_those_of_the_file(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert torch.equal(read_faces([tmp_path], 16).images[0], torch.from_numpy(levels).permute(2, 0, 1))


def test_reading_takes_the_memory_of_the_images_once(tmp_path):
    """numpy reports what it holds to tracemalloc; a list and its stack were twice the images."""
    picture = jpeg(size=(40, 40))
    path = pack(tmp_path / "s.tar", {f"{i:04d}.jpg": picture for i in range(600)})
    tracemalloc.start()
    try:
        faces = read_faces([path], 128)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    images = faces.images.untyped_storage().nbytes()
    assert images == 600 * 3 * 128 * 128
    assert peak < 1.2 * images  # an eighth to grow into


def test_images_that_come_one_by_one_stay_what_they_are(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (150, 16, 16, 3), dtype=np.uint8)
    for i, level in enumerate(levels):
        Image.fromarray(level).save(tmp_path / f"{i:03d}.png")
    assert torch.equal(read_faces([tmp_path], 16).images, torch.from_numpy(levels).permute(0, 3, 1, 2))
