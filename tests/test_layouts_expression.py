"""Expression data in the trees of its authors: labels, splits, order, and what is wrong with a line."""

from functools import partial

import numpy as np
import pytest
from helpers.files import FACES, put_face
from helpers.layouts import read_layout
from PIL import Image

from facepcl.errors import DataError, MissingPath, OptionError
from facepcl.images.decode import decode
from facepcl.probes.datasets import LAYOUTS, read_manifest

read = partial(read_layout, "expression")


def labels(manifest):
    return [(image.split, image.expression) for image in manifest.images]


def fer_csv(path, rows, header="emotion,pixels,Usage"):
    lines = [header]
    for number, (emotion, usage) in enumerate(rows):
        with Image.open(FACES[number]) as face:
            pixels = np.asarray(face.convert("L").resize((48, 48))).ravel()
        cells = {"emotion": str(emotion), "pixels": " ".join(map(str, pixels)), "Usage": usage}
        lines.append(",".join(cells[name.strip()] for name in header.split(",")))
    path.write_text("\n".join(lines) + "\n")
    return path


FER_ROWS = [(0, "Training"), (6, "PublicTest"), (3, "PrivateTest")]


@pytest.mark.parametrize(
    ("name", "header"),
    [("fer2013.csv", "emotion,pixels,Usage"), ("icml_face_data.csv", "emotion, Usage, pixels")],
)
def test_fer2013_is_read_from_both_of_its_csv_files(tmp_path, name, header):
    fer_csv(tmp_path / name, FER_ROWS, header)
    manifest = read(tmp_path)
    assert (manifest.layout, manifest.classes[0]) == ("fer2013", "angry")
    assert labels(manifest) == [("train", "angry"), ("val", "neutral"), ("test", "happy")]
    assert manifest.files == [tmp_path / name]


def test_the_pixels_of_fer2013_are_those_of_the_image(tmp_path):
    path = fer_csv(tmp_path / "fer2013.csv", FER_ROWS)
    first = next(iter(read(path).items()))
    with Image.open(FACES[0]) as face:
        wanted = np.asarray(face.convert("L").resize((48, 48)))
    assert (np.asarray(decode(first.read()).convert("L")) == wanted).all()


def test_a_row_of_fer2013_with_wrong_pixels_is_one_broken_image(tmp_path):
    path = tmp_path / "fer2013.csv"
    path.write_text("emotion,pixels,Usage\n0,1 2 3,Training\n1,1 2 3 999,Training\n2,1 2 3 4,Training\n")
    manifest = read_manifest("expression", path)
    errors = [item.error for item in manifest.items()]
    assert [bool(error) for error in errors] == [True, True, False]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7,1 2 3 4,Training", "line 3: emotion is '7', not a whole number from 0 to 6"),
        ("0,1 2 3 4,Test", "line 3: Usage is 'Test', not one of Training"),
        ("0,1 2 3", "line 3 has 2 cells where the header has 3"),
    ],
)
def test_a_wrong_line_of_fer2013_is_named(tmp_path, line, message):
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n0,1 2 3 4,Training\n{line}\n")
    with pytest.raises(DataError, match=rf"fer2013\.csv, {message}"):
        read(tmp_path)


def raf_db(root, lines=("train_00001.jpg 5", "train_00002.jpg 7", "test_0001.jpg 1")):
    for number, name in enumerate(("train_00001", "train_00002", "test_0001")):
        put_face(root / f"Image/aligned/{name}_aligned.jpg", number)
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel/list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("below", ["", "basic"])
def test_raf_db_counts_its_classes_from_one(tmp_path, below):
    raf_db(tmp_path / below)
    manifest = read(tmp_path)
    assert manifest.layout == "raf-db"
    assert labels(manifest) == [("train", "sadness"), ("train", "neutral"), ("test", "surprise")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test_0001.jpg 8", "line 2: the label is '8', not a whole number from 1 to 7"),
        ("other_0001.jpg 1", "line 2: 'other_0001.jpg' begins neither"),
        ("test_0001.jpg", "line 2 has 1 fields where 2 were expected"),
        ("test_0009.jpg 1", "line 2: there is no image .*test_0009_aligned.jpg"),
    ],
)
def test_a_wrong_line_of_raf_db_is_named(tmp_path, line, message):
    raf_db(tmp_path, ("train_00001.jpg 5", line))
    with pytest.raises((DataError, MissingPath), match=rf"list_patition_label\.txt, {message}"):
        read(tmp_path)


def affectnet(root, labels=(("train_set", "3"), ("train_set", "8"), ("val_set", "6"))):
    for number, (folder, label) in enumerate(labels):
        put_face(root / folder / f"images/{number}.jpg", number)
        (root / folder / "annotations").mkdir(exist_ok=True)
        np.save(root / folder / f"annotations/{number}_exp.npy", np.array(label))
    return root


def test_affectnet_leaves_out_images_without_an_expression(tmp_path):
    manifest = read(affectnet(tmp_path))
    assert labels(manifest) == [("train", "surprise"), ("test", "anger")]
    assert (manifest.classes, manifest.dropped) == (("surprise", "anger"), 1)
    assert manifest.notes == ("1 of 3 images left out: no expression, or no face",)


def test_an_annotation_of_affectnet_that_is_a_pickle_is_refused(tmp_path):
    affectnet(tmp_path)
    np.save(tmp_path / "train_set/annotations/0_exp.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"0_exp\.npy is no array of one label"):
        read(tmp_path)


@pytest.mark.parametrize("label", ["11", "-1", "happy"])
def test_an_annotation_of_affectnet_out_of_range_is_named(tmp_path, label):
    affectnet(tmp_path, [("train_set", label)])
    with pytest.raises(DataError, match=rf"0_exp\.npy: the expression is '{label}'"):
        read(tmp_path)


def test_an_image_of_affectnet_without_annotation_is_named(tmp_path):
    affectnet(tmp_path)
    (tmp_path / "val_set/annotations/2_exp.npy").unlink()
    with pytest.raises(MissingPath, match=r"2_exp\.npy: there is no such file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "test"), ["test", "train"]),
        (("train", "public_test"), ["test", "train"]),
        (("train", "public_test", "private_test"), ["test", "val", "train"]),
        (("Training", "PublicTest", "PrivateTest"), ["test", "val", "train"]),
        (("train", "validation"), ["train", "val"]),
    ],
)
def test_split_folders_tell_the_split_and_class_folders_the_class(tmp_path, folders, splits):
    for number, folder in enumerate(folders):
        put_face(tmp_path / folder / "happy/x.jpg", number)
        put_face(tmp_path / folder / "sad/x.jpg", number)
    manifest = read(tmp_path)
    assert manifest.layout == "split-folders"
    assert labels(manifest) == [(split, c) for split in splits for c in ("happy", "sad")]
    assert manifest.classes == ("happy", "sad")


def test_class_folders_have_no_split(tmp_path):
    for name in ("sad/b.jpg", "happy/x.jpg", "beside.jpg"):
        put_face(tmp_path / name)
    (tmp_path / "labels.csv").write_text("x.jpg,sad\n")
    manifest = read(tmp_path)
    assert (manifest.layout, labels(manifest)) == ("class-folders", [("", "happy"), ("", "sad")])
    assert manifest.notes == (
        "not read: labels.csv",
        f"1 of 3 images and shards lie elsewhere and are not read, the first: {tmp_path / 'beside.jpg'}",
    )


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("P1/anger/0.jpg", "P2/anger/0.jpg"), r"P1/anger/0\.jpg lies deeper than CLASS/IMAGE"),
        (("train/P1/anger/0.jpg", "test/P1/anger/0.jpg"), r"lies deeper than CLASS/IMAGE"),
        (("train_set/images/0.jpg", "val_set/images/1.jpg"), r"are splits \(train_set, val_set\)"),
        (("train/0.jpg", "test/1.jpg"), r"are splits \(test, train\), not classes"),
        (("fer/train/angry/0.jpg", "fer/test/angry/0.jpg"), r"its only folder is fer: try .*fer"),
    ],
)
def test_folders_of_another_kind_are_not_taken_for_classes(tmp_path, names, reason):
    """Known data sets in another packing: Oulu-CASIA, AffectNet without annotations, a folder around all."""
    for name in names:
        put_face(tmp_path / name)
    with pytest.raises(DataError, match=reason):
        read(tmp_path)


def test_what_no_layout_recognises_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"looked for fer2013\.csv .*list_patition_label.*CLASS/IMAGE"):
        read(tmp_path)


def test_a_path_that_is_not_what_its_layout_says_is_named(tmp_path):
    with pytest.raises(DataError, match=r"is not a raf-db data for expression; looked for EmoLabel"):
        read(tmp_path, "raf-db")


@pytest.mark.parametrize("task", LAYOUTS)
def test_an_unknown_layout_lists_those_of_the_task(tmp_path, task):
    with pytest.raises(OptionError, match=r"Available: auto, .*csv"):
        read_manifest(task, tmp_path, "nothing")


def test_an_unknown_task_and_a_missing_path_are_named(tmp_path):
    with pytest.raises(OptionError, match=r"Unknown task 'age'\. Available: expression"):
        read_manifest("age", tmp_path)
    with pytest.raises(MissingPath, match="nowhere"):
        read_manifest("expression", tmp_path / "nowhere")
