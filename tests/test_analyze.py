"""`facepcl analyze`: attributes of faces in photos, crops and videos, in tables, records and the terminal."""

import numpy as np
import pytest
import torch
from helpers.files import FACES, pack, photo_of
from helpers.video import write_turning_head, write_video
from PIL import Image

import facepcl
from facepcl.analysis.analyzer import in_photo
from facepcl.analysis.drawing import BOX, DrawnFace, annotated
from facepcl.analysis.tracks import GAP, OVERLAP, SAME, SIMILAR, Tracker, with_tracks
from facepcl.cli import main
from facepcl.embedding.embeddings import Embeddings
from facepcl.errors import ImageError, OptionError
from facepcl.images.face import Face, face_columns
from facepcl.images.rotations import angles, rotation
from facepcl.models.io import save_encoder

ANGLES = ("yaw", "pitch", "roll")
EXPRESSIONS = ("angry", "happy", "sad")  # of `attribute_weights`, like the action units
COLUMNS = ["time", "track", *ANGLES, *(f"expression_{word}" for word in EXPRESSIONS), "AU1", "AU12", "AU26"]
FLOAT32 = {"dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def analyzer(attribute_weights):
    return facepcl.FaceAnalyzer(attribute_weights, crops=True, **FLOAT32)


def outputs_of(weights, images):
    """What the heads say of images that are prepared as an embedder does, by head."""
    model = facepcl.create_model(weights).eval()
    embedder = facepcl.FaceEmbedder(weights, **FLOAT32)
    pixels = np.stack([embedder.transform(Image.open(image).convert("RGB")) for image in images])
    with torch.no_grad():
        maps = model.forward_branches(embedder._images(pixels, torch.float32))
        return {name: values.numpy() for name, values in facepcl.create_heads(weights)(maps).items()}


# --- records


def test_a_record_says_of_a_crop_what_its_heads_say(attribute_weights, analyzer):
    outputs = outputs_of(attribute_weights, FACES[:5])
    records = analyzer(FACES[:5])
    assert [record.image for record in records] == list(range(5))
    for number, record in enumerate(records):
        assert (record.box, record.landmarks, record.score) == (None, None, None)
        pose = [record.yaw, record.pitch, record.roll]
        np.testing.assert_allclose(pose, outputs["pose"][number], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            list(record.expressions.values()), outputs["expression"][number], atol=1e-5
        )
        assert record.expression == EXPRESSIONS[outputs["expression"][number].argmax()]
        np.testing.assert_allclose(list(record.action_units.values()), outputs["au"][number], atol=1e-5)
        np.testing.assert_allclose(record.identity, outputs["identity"][number], atol=1e-5)


def test_records_are_told_apart_and_collected(analyzer):
    faces = analyzer([FACES[0], FACES[0]])
    assert (faces[0] == faces[0], faces[0] == faces[1], len({*faces})) == (True, False, 2)


def test_batches_change_nothing(attribute_weights, analyzer):
    small = facepcl.FaceAnalyzer(attribute_weights, crops=True, batch_size=2, **FLOAT32)
    for one, other in zip(small(FACES[:5]), analyzer(FACES[:5]), strict=True):
        # one convolution's rounding for another batch size
        np.testing.assert_allclose(one.identity, other.identity, atol=1e-5)


def test_a_photo_gives_a_record_for_each_face(attribute_weights, detector):
    analyzer = facepcl.FaceAnalyzer(attribute_weights, detector=detector, **FLOAT32)
    photos = [photo_of(2), photo_of(0), photo_of(1, first=5)]
    records = analyzer(photos)
    assert [record.image for record in records] == [0, 0, 2]
    for record in records:
        left, top, right, bottom = record.box
        assert 0 < left < right < 900
        assert 0 < top < bottom < 600
        assert len(record.landmarks) == 5
        assert 0.5 < record.score <= 1
    one = facepcl.FaceAnalyzer(attribute_weights, one=True, detector=detector, **FLOAT32)
    assert [record.image for record in one(photos)] == [0, 2]


def test_an_image_that_cannot_be_read_is_named(analyzer, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(FACES[0].read_bytes()[:500])
    with pytest.raises(ImageError, match=r"item 1 \(.*broken.jpg\)"):
        analyzer([FACES[0], tmp_path / "broken.jpg"])
    with pytest.raises(OptionError, match="give a list"):
        analyzer(FACES[0])


def test_weights_without_heads_are_refused_with_what_trains_them(tmp_path):
    model = facepcl.create_model("pcl_facecycle", pretrained=True)
    folder = save_encoder(model, tmp_path / "encoder")
    with pytest.raises(OptionError, match=r"no identity head.*--freeze"):
        facepcl.FaceAnalyzer(f"local-dir:{folder}", crops=True)


def test_the_pose_in_a_photo_is_that_in_the_crop_turned_with_it():
    """A crop's eyes are level. Those of the photo stand 30 degrees clockwise."""
    points = [[100.0, 100], [100 + 40 * np.cos(np.pi / 6), 120], [120, 130], [100, 150], [130, 160]]
    faces = face_columns([Face((0, 0, 9, 9), tuple(map(tuple, points)), 0.9)], [0])
    pose = np.array([[25.0, -10.0, 5.0]])
    level = face_columns([Face((0, 0, 9, 9), ((0.0, 5.0), (9.0, 5.0), *points[2:]), 0.9)], [0])
    np.testing.assert_allclose(in_photo(pose, level), pose, atol=1e-9)
    about_view = rotation(np.array([[0.0, 0.0, 30.0]]))
    np.testing.assert_allclose(rotation(in_photo(pose, faces)), about_view @ rotation(pose), atol=1e-6)
    np.testing.assert_allclose(in_photo(np.zeros((1, 3)), faces), [[0, 0, 30]], atol=1e-4)
    np.testing.assert_allclose(angles(rotation(pose)), pose)


# --- tables


@pytest.mark.parametrize("ending", ["parquet", "npz", "csv"])
def test_a_table_keeps_the_attributes(attribute_weights, analyzer, tmp_path, ending):
    pytest.importorskip("pyarrow")
    out = tmp_path / f"faces.{ending}"
    (tmp_path / "crops").mkdir()
    for place, face in enumerate(FACES[:3]):
        (tmp_path / f"crops/{place}.jpg").write_bytes(face.read_bytes())
    (tmp_path / "crops/9.jpg").write_bytes(b"no image")
    facepcl.analyze(tmp_path / "crops", out, model=attribute_weights, crops=True, **FLOAT32)
    table = facepcl.read_embeddings(out)
    assert table.meta["attributes"] == COLUMNS
    assert "not calibrated" in table.meta["limits"]
    assert table.faces is None
    assert np.isnan(table.attributes[3]).all()
    rows = list(table.rows())
    for row, record in zip(rows, analyzer(FACES[:3]), strict=False):
        np.testing.assert_allclose(
            [row.attributes[angle] for angle in ANGLES], [record.yaw, record.pitch, record.roll], rtol=1e-4
        )
        np.testing.assert_allclose(row.vector, record.identity, atol=1e-5)
    assert rows[3].error


def test_other_programs_find_the_columns_in_a_parquet_file(attribute_weights, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    facepcl.analyze(FACES[:4], tmp_path / "faces.parquet", model=attribute_weights, crops=True, **FLOAT32)
    table = parquet.read_table(tmp_path / "faces.parquet")
    assert [name for name in table.column_names if name in [*COLUMNS, "expression"]] == [
        *COLUMNS,
        "expression",
    ]
    shares = np.array([table[f"expression_{word}"] for word in EXPRESSIONS])
    assert table["expression"].to_pylist() == [EXPRESSIONS[row] for row in shares.argmax(0)]
    assert table["time"].null_count == table["track"].null_count == 4  # these are no videos


def test_a_table_without_some_of_the_columns_is_one_of_embeddings(attribute_weights, tmp_path):
    """What a program leaves of a table that it has filtered."""
    parquet = pytest.importorskip("pyarrow.parquet")
    facepcl.analyze(FACES[:2], tmp_path / "faces.parquet", model=attribute_weights, crops=True, **FLOAT32)
    table = parquet.read_table(tmp_path / "faces.parquet", columns=["path", "yaw", "embedding"])
    parquet.write_table(table, tmp_path / "some.parquet")
    some = facepcl.read_embeddings(tmp_path / "some.parquet")
    assert some.attributes is None
    assert some.vectors.shape == (2, 16)


def test_a_job_of_embed_is_not_continued_by_analyze(attribute_weights, tmp_path):
    out = tmp_path / "faces.npz"
    facepcl.embed(FACES[:2], out, model=attribute_weights, branch="identity", **FLOAT32)
    with pytest.raises(OptionError, match="was made with attributes None, not time, track"):
        facepcl.analyze(FACES[:2], out, model=attribute_weights, crops=True, resume=True, **FLOAT32)


# --- the command


def test_without_out_a_line_for_each_face_is_printed(attribute_weights, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    sheet = tmp_path / "sheet.jpg"
    photos = map(str, [*FACES[:2], tmp_path / "bad.jpg"])
    words = ["analyze", *photos, "--crops", "--model", attribute_weights]
    assert main([*words, "--sheet", str(sheet), "--dtype", "float32"]) == 1
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:6] == ["photo", "face", "score", "yaw", "pitch", "roll"]
    assert lines[0].split()[0][1:] in str(FACES[0])
    assert any(word in lines[0] for word in EXPRESSIONS)
    assert "bad.jpg" in lines[2]
    assert "not an image" in lines[2]
    with Image.open(sheet) as drawn:
        assert drawn.format == "JPEG"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resume"], "--resume needs a table"),
        (["--on-error", "raise"], "--on-error needs a table"),
        (["--one"], "crops need no detector and show one face each"),
        (["--sheet", "sheet.txt"], "the name of a sheet must end in .png or .jpg"),
        (["--fps", "-1"], "fps must be between 0"),
        (["-o", "faces.txt"], "end in .parquet"),
    ],
)
def test_an_option_that_cannot_be_is_one_sentence(attribute_weights, capsys, options, said):
    assert main(["analyze", str(FACES[0]), "--crops", "--model", attribute_weights, *options]) == 2
    assert said in capsys.readouterr().err


def test_a_shard_without_images_is_one_sentence(attribute_weights, tmp_path, capsys):
    pack(tmp_path / "empty.tar", {"notes.txt": b"no image"})
    words = ["analyze", str(tmp_path / "empty.tar"), "--crops", "--model", attribute_weights]
    assert main([*words, "--sheet", str(tmp_path / "sheet.jpg")]) == 2
    assert "no images in" in capsys.readouterr().err


# --- drawing


def test_the_nose_axis_points_where_the_head_is_turned():
    picture, face = Image.new("RGB", (200, 200), "black"), None
    right, left = (
        np.asarray(annotated(picture, 1.0, [DrawnFace(face, {"yaw": yaw, "pitch": 0.0, "roll": 0.0})]), int)
        for yaw in (60.0, -60.0)
    )
    blue = right[:, :, 2] - right[:, :, 0] > 100
    assert np.argwhere(blue)[:, 1].mean() > 120
    blue = left[:, :, 2] - left[:, :, 0] > 100
    assert np.argwhere(blue)[:, 1].mean() < 80


def test_a_box_is_drawn_where_the_face_is():
    points = ((45.0, 45.0), (75.0, 45.0), (60.0, 60.0), (48.0, 75.0), (72.0, 75.0))
    face = Face((30.0, 20.0, 90.0, 100.0), points, 0.9)
    drawn = np.asarray(annotated(Image.new("RGB", (100, 60), "black"), 0.5, [DrawnFace(face, {})]), int)
    teal = np.abs(drawn - np.array([int(BOX[i : i + 2], 16) for i in (1, 3, 5)])).sum(2) < 100
    rows, columns = np.argwhere(teal).T
    assert (abs(columns.min() - 15) <= 2, abs(columns.max() - 45) <= 2) == (True, True)
    assert (abs(rows.min() - 10) <= 2, abs(rows.max() - 50) <= 2) == (True, True)


# --- tracks


def at(x):
    return np.array([[x, 0.0, x + 50, 50.0]])


ANNA, BERT = np.eye(2, 8, dtype=np.float32)


def test_two_people_who_pass_each_other_keep_their_numbers():
    tracker = Tracker()
    for step in range(11):
        anna, bert = at(20.0 * step), at(200 - 20.0 * step)
        if step % 2:  # a detector gives them in any order
            assert tracker(0.2 * step, np.concatenate([bert, anna]), np.stack([BERT, ANNA])) == [1, 0]
        else:
            assert tracker(0.2 * step, np.concatenate([anna, bert]), np.stack([ANNA, BERT])) == [0, 1]


def test_at_a_cut_another_face_at_the_same_place_gets_a_new_number():
    tracker = Tracker()
    assert tracker(0.0, at(0), ANNA[None]) == [0]
    stranger = 0.3 * ANNA + 0.95 * BERT
    assert tracker(0.2, at(0), stranger[None]) == [1]


def test_a_face_that_changes_slowly_keeps_its_number():
    tracker = Tracker()
    for step, angle in enumerate(np.linspace(0, 1.6, 9)):
        assert tracker(0.2 * step, at(0), (np.cos(angle) * ANNA + np.sin(angle) * BERT)[None]) == [0]


def test_a_person_who_comes_back_has_the_number_from_before():
    tracker = Tracker()
    assert tracker(0.0, at(0), ANNA[None]) == [0]
    assert tracker(0.2, at(400), BERT[None]) == [1]
    assert tracker(9.0, at(800), ANNA[None]) == [0]


def straightforward_tracks(frames):
    """The rule of `Tracker` without shortcuts: every face of a frame beside every track."""
    tracks, numbers = [], []
    for time, boxes, identities in frames:
        pairs = []
        for number, (seen, box, last, total) in enumerate(tracks):
            for face, identity in enumerate(identities):
                cosine = total @ identity / np.linalg.norm(total)
                inner = np.minimum(box[2:], boxes[face, 2:]) - np.maximum(box[:2], boxes[face, :2])
                both, areas = inner.clip(0).prod(), [(b[2:] - b[:2]).prod() for b in (box, boxes[face])]
                overlap = both / (sum(areas) - both)
                overlap = overlap if time - seen <= GAP else 0.0
                if cosine >= SAME or (overlap >= OVERLAP and max(cosine, last @ identity) >= SIMILAR):
                    pairs.append((overlap + cosine, face, number))
        found = {}
        for _, face, number in sorted(pairs, reverse=True):
            if face not in found and number not in found.values():
                found[face] = number
        for face, identity in enumerate(identities):
            number = found.setdefault(face, len(tracks))
            total = tracks[number][3] + identity if number < len(tracks) else identity
            tracks[number : number + 1] = [(time, boxes[face], identity, total)]
        numbers.append([found[face] for face in range(len(boxes))])
    return numbers


def crowd(rng, frames):
    """Frames of faces that come, move, change, leave and come back, with their times."""
    people = rng.normal(size=(20, 16))
    places = rng.uniform(0, 300, (20, 2))
    there = rng.random(20) < 0.3
    for step in range(frames):
        there ^= rng.random(20) < 0.1
        places += rng.normal(0, 8, places.shape)
        some = rng.permutation(np.flatnonzero(there))
        seen = people[some] + rng.normal(0, 0.6, (len(some), 16))
        vectors = (seen / np.linalg.norm(seen, axis=1, keepdims=True)).astype(np.float32)
        yield 0.2 * step, np.concatenate([places[some], places[some] + 50], 1), vectors


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_of_a_crowd_are_those_of_the_straightforward_rule(seed):
    frames = list(crowd(np.random.default_rng(seed), 150))
    tracker = Tracker()
    found = [tracker(*frame) for frame in frames]
    assert found == straightforward_tracks(frames)
    assert len(tracker.tracks) > 20  # some are not known again


def block(paths, vectors, lefts):
    """Rows of a table, of faces 50 pixels wide."""
    faces = np.full((len(paths), 16), np.nan, np.float32)
    faces[:, 2:6] = np.concatenate([at(left) for left in lefts])
    attributes = np.full((len(paths), 2), np.nan, np.float32)
    meta = {"attributes": ["time", "track"], "align": {}}
    sizes = np.ones((len(paths), 2), np.int32)
    return Embeddings(np.stack(vectors), paths, [None] * len(paths), sizes, meta, faces, attributes)


def test_the_numbers_of_each_video_begin_at_zero_and_photos_have_none():
    paths = ["a.mp4/0.200s", "photo.jpg", "b.mp4/0.000s", "b.mp4/0.000s"]
    blocks = [
        block(["a.mp4/0.000s"], [ANNA], [0]),
        block(paths, [ANNA, ANNA, BERT, ANNA], [0, 0, 0, 200]),
    ]
    tracks = np.concatenate([rows.attributes[:, 1] for rows in with_tracks(iter(blocks))])
    np.testing.assert_array_equal(tracks, [0, 0, np.nan, 0, 1])


def test_a_video_gives_a_row_for_each_frame_with_its_time(attribute_weights, tmp_path):
    frames = [np.asarray(Image.open(face).convert("RGB").resize((96, 96))) for face in FACES[:6]]
    write_video(tmp_path / "clip.mp4", frames, fps=10)
    out, options = tmp_path / "faces.npz", {"model": attribute_weights, "crops": True, **FLOAT32}
    facepcl.analyze(tmp_path, out, fps=5, **options)
    table = facepcl.read_embeddings(out)
    assert [path.rpartition("/")[2] for path in table.paths] == ["0.000s", "0.200s", "0.400s"]
    np.testing.assert_allclose(table.attributes[:, 0], [0, 0.2, 0.4], atol=1e-6)
    assert not np.isnan(table.attributes[:, 1]).any()
    with pytest.raises(OptionError, match="fps 5, not 2"):
        facepcl.analyze(tmp_path, out, fps=2, resume=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["pcl_facecycle", "pcl_resnet18", "pcl_resnet50"])
def test_the_pose_curve_of_a_video_follows_the_head(tmp_path, model):
    """Ten seconds of a rendered head that turns from -45 to 45 degrees and back."""
    yaws = write_turning_head(tmp_path / "head.mp4")
    facepcl.analyze(tmp_path / "head.mp4", tmp_path / "faces.npz", model=model, crops=True, fps=10)
    table = facepcl.read_embeddings(tmp_path / "faces.npz")
    found = table.attributes[:, COLUMNS.index("yaw")]
    assert np.abs(found - yaws).mean() <= 4  # the mark of the issue tracker
    assert set(table.attributes[:, 1].tolist()) == {0.0}
