"""What every task reads: our shards with labels, and CSV manifests."""

import tracemalloc
from pathlib import Path

import pytest
from helpers.files import FACES, break_drive, jpeg, pack, put_face
from helpers.layouts import read_layout as read

from facepcl.embedding.embedder import FaceEmbedder
from facepcl.errors import DataError, MissingPath, RemoteError
from facepcl.pretrain.dataset import read_faces
from facepcl.probes.datasets import read_manifest
from facepcl.probes.features import extract

LABELS = {
    "yaw": 10,
    "pitch": -5.5,
    "roll": 0,
    "au": {"AU12": 0.5},
    "expression": "happy",
    "identity": 7,
    "series": "pose",
    "landmarks": {n: [1, 2] for n in ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")},
}


def samples(*labels, first=0):
    """NAME.jpg with NAME.json for each of some labels."""
    members = {}
    for number, label in enumerate(labels, first):
        members |= {f"{number:03}.jpg": FACES[number].read_bytes(), f"{number:03}.json": label}
    return members


def test_a_shard_gives_all_labels_of_an_image(tmp_path):
    shard = pack(tmp_path / "s.tar", samples(LABELS))
    (image,) = read("head-pose", shard).images
    assert image.name == f"{shard}/000.jpg"
    assert (image.pose, image.units, image.expression) == ((10.0, -5.5, 0.0), {"AU12": 0.5}, "happy")
    assert (image.subject, image.series, image.split) == ("7", "pose", "")
    assert image.landmarks == ((1.0, 2.0),) * 5


def test_images_without_the_label_are_left_out_of_images_and_items_alike(tmp_path):
    labels = [{"expression": "sad"}, {"expression": None}, {}, {"expression": "happy"}]
    manifest = read("expression", pack(tmp_path / "s.tar", samples(*labels)))
    assert [Path(image.name).name for image in manifest.images] == ["000.jpg", "003.jpg"]
    assert (manifest.dropped, manifest.classes) == (2, ("happy", "sad"))
    assert manifest.notes == ("2 of 4 images left out: no expression",)
    assert [item.read() for item in manifest.items()] == [FACES[0].read_bytes(), FACES[3].read_bytes()]


def test_folders_of_shards_are_splits_and_classnames_name_the_classes(tmp_path):
    """As clip-benchmark/wds_fer2013 lies."""
    for number, split in enumerate(("train", "test")):
        members = {"s0.cls": str(number).encode(), "s0.jpg": FACES[number].read_bytes()}
        pack(tmp_path / split / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("angry\nvery happy\n")
    manifest = read("expression", tmp_path)
    assert [(i.split, i.expression) for i in manifest.images] == [("train", "angry"), ("test", "very happy")]
    assert manifest.classes == ("angry", "very happy")
    (alone,) = read("expression", tmp_path / "test").images
    assert alone.expression == "very happy"


def test_the_names_of_shards_are_splits_if_all_tell_one(tmp_path):
    for name in ("faces-96-test.tar", "faces-96-train.tar"):
        pack(tmp_path / name, samples(LABELS))
    assert [image.split for image in read("expression", tmp_path).images] == ["test", "train"]
    pack(tmp_path / "more.tar", samples(LABELS))
    assert [image.split for image in read("expression", tmp_path).images] == ["", "", ""]


def test_a_unit_that_a_label_does_not_name_does_not_occur(tmp_path):
    labels = [{"au": {"AU12": 1}}, {"au": {"AU4": 0.25}}, {"au": {}}, {"au": None}]
    manifest = read("action-units", pack(tmp_path / "s.tar", samples(*labels)))
    assert [list(image.units.items()) for image in manifest.images] == [
        [("AU4", 0.0), ("AU12", 1.0)],
        [("AU4", 0.25), ("AU12", 0.0)],
        [("AU4", 0.0), ("AU12", 0.0)],
    ]
    assert manifest.dropped == 1


def test_disentangle_takes_the_images_of_series(tmp_path):
    labels = [{"identity": 0, "series": "pose"}, {"identity": 1}]
    (image,) = read("disentangle", pack(tmp_path / "s.tar", samples(*labels))).images
    assert (image.subject, image.series) == ("0", "pose")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"split": "holdout"}, "the split is 'holdout', not train, val or test"),
        ({"au": {"AU12": 1.5}}, "AU12 is 1.5, not between 0 and 1"),
        ({"au": {"smile": 1}}, "'smile' is not an action unit"),
        ({"au": {"AU4": 1, "AU04": 0}}, "has AU4 twice"),
        ({"identity": True}, "identity is True, not a word or a whole number"),
        ([1], "is not a JSON object"),
    ],
)
def test_a_wrong_label_of_a_shard_is_named(tmp_path, member, message):
    shard = pack(tmp_path / "s.tar", samples(member))
    with pytest.raises(DataError, match=rf"s\.tar/000\.(jpg|json):? {message}"):
        read("expression", shard)


def test_shards_are_read_by_one_parser(tmp_path):
    """What training makes of a label is what the probes make of it."""
    label = {**LABELS, "landmarks": [[1, 2]] * 5, "au": {"AU04": 0.5}}
    shard = pack(tmp_path / "s.tar", samples(label))
    (image,), faces = read("head-pose", shard).images, read_faces([shard], 96)
    assert image.landmarks == ((1.0, 2.0),) * 5
    assert not faces.landmarks.isnan().any()
    assert (*image.units,) == faces.au_names == ("AU4",)
    with pytest.raises(DataError, match="'smile' is not an action unit"):
        read_faces([pack(tmp_path / "odd.tar", samples({"au": {"smile": 1}}))], 96)


def test_cls_has_one_meaning_for_all_tasks(tmp_path):
    members = {}
    for number in range(4):
        members |= {f"{number}.jpg": FACES[number].read_bytes(), f"{number}.cls": str(number // 2).encode()}
    shard = pack(tmp_path / "s.tar", members)
    assert [image.expression for image in read("expression", shard).images] == ["0", "0", "1", "1"]
    assert [image.subject for image in read("verification", shard, cls="identity").images] == list("0011")
    for task, meaning in (("verification", {}), ("expression", {"cls": "identity"})):
        with pytest.raises(DataError, match=r"NAME\.cls is read as .* add --cls"):
            read(task, shard, **meaning)


def test_the_key_of_a_sample_ends_at_its_first_dot(tmp_path):
    members = {"a.b/000.face.jpg": FACES[0].read_bytes(), "a.b/000.JSON": {"expression": "sad"}}
    (image,) = read("expression", pack(tmp_path / "s.tar", members)).images
    assert image.expression == "sad"


def test_a_class_beyond_the_names_is_named(tmp_path):
    pack(tmp_path / "s.tar", {"a.jpg": FACES[0].read_bytes(), "a.cls": b"2"})
    (tmp_path / "classnames.txt").write_text("angry\nhappy\n")
    with pytest.raises(DataError, match=r"a\.cls: the class is 2, and classnames\.txt names 2"):
        read("expression", tmp_path / "s.tar")


def test_a_shard_that_breaks_off_and_one_without_labels_are_errors(tmp_path):
    shard = pack(tmp_path / "s.tar", samples(LABELS, LABELS))
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"s\.tar: the shard is cut off"):
        read("head-pose", shard)
    with pytest.raises(DataError, match="1 of 1 images left out: no yaw, pitch and roll"):
        read("head-pose", pack(tmp_path / "bare.tar", samples({})))


def test_shards_are_streamed(tmp_path):
    members = {
        f"{i}.{kind}": data for i in range(60) for kind, data in (("jpg", bytes(10**6)), ("json", LABELS))
    }
    shard = pack(tmp_path / "s.tar", members)
    tracemalloc.start()
    manifest = read_manifest("head-pose", shard)
    assert sum(1 for _ in manifest.items()) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # all the images are 60 MB


def write_csv(path, *lines):
    for number in range(3):
        (path.parent / f"{number}.jpg").write_bytes(FACES[number].read_bytes())
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_manifest_gives_what_its_columns_name(tmp_path):
    lines = ["path,Split,subject,expression,yaw,pitch,roll,series"]
    lines += ["0.jpg,train,a,sad,1,2,-3.5,pose", "1.jpg,testing,b,,,,,", "2.jpg,val,c,happy,0,0,0,"]
    manifest = read("expression", write_csv(tmp_path / "x.csv", *lines))
    assert [(i.split, i.subject, i.expression) for i in manifest.images] == [
        ("train", "a", "sad"),
        ("val", "c", "happy"),
    ]
    assert manifest.images[0].pose == (1.0, 2.0, -3.5)
    assert (manifest.dropped, manifest.classes) == (1, ("happy", "sad"))
    assert manifest.files == [tmp_path / "x.csv", *(tmp_path / f"{n}.jpg" for n in range(3))]


@pytest.mark.parametrize(("top", "wanted"), [("1", (0.5, 1.0)), ("5", (0.1, 1.0)), ("1.5", (0.1, 0.3))])
def test_an_intensity_above_one_makes_all_of_them_steps_of_five(tmp_path, top, wanted):
    manifest = read(
        "action-units", write_csv(tmp_path / "x.csv", "path,AU12,AU04", "0.jpg,0.5,0", f"1.jpg,{top},0")
    )
    assert tuple(image.units["AU12"] for image in manifest.images) == pytest.approx(wanted)
    assert list(manifest.images[0].units) == ["AU4", "AU12"]


def test_units_that_are_not_known_of_all_images_are_left_out(tmp_path):
    lines = ["path,AU1,AU2", "0.jpg,1,", "1.jpg,0,1", "2.jpg,,"]
    manifest = read("action-units", write_csv(tmp_path / "x.csv", *lines))
    assert [image.units for image in manifest.images] == [{"AU1": 1.0}, {"AU1": 0.0}]
    assert manifest.notes[-1] == "AU2 left out: not labelled in all images"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.jpg,train,1,2", "line 3 has 4 cells where the header has 6"),
        ("1.jpg,holdout,0,0,0,1", "line 3: the split is 'holdout'"),
        ("1.jpg,,east,0,0,1", "line 3: yaw is 'east', not a number"),
        ("1.jpg,,nan,0,0,1", "line 3: yaw is 'nan', not a number"),
        ("9.jpg,,0,0,0,1", "line 3: there is no image .*9.jpg"),
        (",,0,0,0,1", "line 3 names no path"),
        ("1.jpg,,0,0,0,6", "line 3: AU1 is 6, not between 0 and 5"),
        ("1.jpg,,0,0,0,-1", "line 3: AU1 is -1, not between 0 and 1"),
    ],
)
def test_a_wrong_line_of_a_csv_manifest_is_named(tmp_path, line, message):
    path = write_csv(tmp_path / "x.csv", "path,split,yaw,pitch,roll,AU1", "0.jpg,,0,0,0,1", line)
    with pytest.raises((DataError, MissingPath), match=rf"x\.csv, {message}"):
        read("head-pose", path)


def test_steps_of_intensity_are_told_and_a_unit_has_one_column(tmp_path):
    manifest = read("action-units", write_csv(tmp_path / "x.csv", "path,AU12", "0.jpg,2", "1.jpg,0"))
    assert manifest.notes == ("x.csv: intensities taken for steps of 0 to 5",)
    with pytest.raises(DataError, match=r"x\.csv has several columns of AU12"):
        read("action-units", write_csv(tmp_path / "x.csv", "path,AU12,AU012", "0.jpg,1,0"))
    with pytest.raises(DataError, match=r"x\.csv has several columns 'au12'"):
        read("action-units", write_csv(tmp_path / "x.csv", "path,AU12,AU12", "0.jpg,1,0"))


def test_a_csv_manifest_without_the_column_of_a_task_says_what_it_has(tmp_path):
    path = write_csv(tmp_path / "x.csv", "path,label", "0.jpg,1")
    for task, column in (
        ("expression", "column 'expression'"),
        ("action-units", "an action unit, such as AU12"),
    ):
        with pytest.raises(DataError, match=rf"x\.csv has no column.*{column.removeprefix('column ')}"):
            read(task, path)


def test_the_68_landmarks_of_many_data_sets_give_the_five(tmp_path):
    points = [[float(i), 2.0 * i] for i in range(68)]
    (image,) = read("head-pose", pack(tmp_path / "s.tar", samples({**LABELS, "landmarks": points}))).images
    assert [x for x, _ in image.landmarks] == [
        38.5,
        44.5,
        30,
        48,
        54,
    ]  # means of 36-41 and 42-47, then points


def test_files_that_no_layout_reads_are_counted(tmp_path, caplog):
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"):
        put_face(tmp_path / "people" / name)
    for name in ("a/5.NEF", "b/none", ".hidden"):
        (tmp_path / "people" / name).write_bytes(b"x")
    read_manifest("verification", tmp_path / "people")
    assert "skipped 2 files: 1 .NEF, 1 without extension" in caplog.messages


def test_labels_of_a_data_set_are_not_counted(tmp_path, caplog):
    put_face(tmp_path / "a.jpg")
    (tmp_path / "list.csv").write_text("path,expression\na.jpg,happy\n")
    read_manifest("expression", tmp_path / "list.csv")
    pack(tmp_path / "shards/s.tar", {"a.jpg": jpeg(), "a.cls": b"happy", "b.NEF": b"x"})
    read_manifest("expression", tmp_path / "shards")
    assert caplog.messages == ["skipped 1 file: 1 .NEF"]


def test_a_file_that_no_layout_reads_says_what_it_is(tmp_path):
    (tmp_path / "train.rec").write_bytes(b"?")
    said = "is an MXNet record file, .*write its images to folders or .tar shards first"
    with pytest.raises(DataError, match=rf"train\.rec {said}"):
        read_manifest("verification", tmp_path / "train.rec")
    with pytest.raises(DataError, match=rf"looked for .*; skipped 1 file: 1 \.rec; \.rec {said}"):
        read_manifest("verification", tmp_path)


@pytest.mark.parametrize(
    ("task", "layout", "archive"),
    [("expression", "class-folders", "all.tgz"), ("verification", "identity-folders", "lfw.tar")],
)
def test_an_archive_beside_the_folders_is_not_taken_for_the_data(tmp_path, task, layout, archive):
    for number, name in enumerate(("happy", "happy", "sad", "sad")):
        put_face(tmp_path / name / f"{number}.jpg", number)
    pack(tmp_path / archive, {"readme.txt": b"?"})
    assert read_manifest(task, tmp_path).layout == layout


def test_files_that_a_layout_of_folders_does_not_take_are_a_note(tmp_path):
    for place in ("train/happy/0.jpg", "train/sad/1.jpg", "test/happy/2.jpg", "more/happy/3.jpg"):
        put_face(tmp_path / place)
    manifest = read_manifest("expression", tmp_path)
    assert len(manifest.images) == 3
    note = f"1 of 4 images and shards lie elsewhere and are not read, the first: {tmp_path}/more/happy/3.jpg"
    assert note in manifest.notes


def test_a_file_of_labels_may_end_in_capitals(tmp_path):
    put_face(tmp_path / "0.jpg")
    (tmp_path / "0.JSON").write_text('{"yaw": 5, "pitch": 0, "roll": 0}')
    assert read_faces([tmp_path], 32).pose[0, 0] == 5


@pytest.mark.parametrize("word", ["²", "9" * 5000])
def test_a_class_that_is_no_small_number_is_its_own_name(tmp_path, word):
    (tmp_path / "classnames.txt").write_text("angry\nhappy\n")
    members = {"0.jpg": FACES[0].read_bytes(), "0.cls": word.encode()}
    (image,) = read("expression", pack(tmp_path / "s.tar", members)).images
    assert image.expression == word


@pytest.mark.usefixtures("no_waits")
def test_a_drive_that_fails_while_features_are_extracted_is_no_bad_image(model, tmp_path):
    """Which would be cached for ever."""
    pack(tmp_path / "s.tar", {"a.jpg": jpeg(), "a.cls": b"happy"})
    manifest = read_manifest("expression", tmp_path / "s.tar")
    break_drive(tmp_path / "s.tar")
    embedder = FaceEmbedder(model, dtype="float32")
    with pytest.raises(RemoteError, match=r"s\.tar cannot be read: Input/output error"):
        extract(manifest, embedder, ["shared"], cache=tmp_path / "cache", workers=1)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("task", ["expression", "verification", "head-pose"])
def test_a_csv_file_of_no_data_set_is_refused_by_its_columns(tmp_path, task):
    (tmp_path / "few.csv").write_text("image,label\n1.jpg,happy\n")
    said = (
        rf"few\.csv has the columns image, label; for {task}, facepcl reads .*a \.csv file with a column path"
    )
    with pytest.raises(DataError, match=said):
        read_manifest(task, tmp_path / "few.csv")
