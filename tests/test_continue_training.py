"""tools/continue_training.py: which faces decide, and which people the next run sees."""

import csv
import json
import tarfile

import continue_training
import pytest
import torch
from continue_training import prepare, record
from PIL import Image

import facepcl
from facepcl.models.heads import Heads, HeadSpec
from facepcl.models.io import load_tensors, save_encoder


@pytest.fixture
def data(tmp_path):
    """FER-2013 and LFW as the maintainers' folder has them, in small."""
    real = tmp_path / "data/real"
    real.mkdir(parents=True)
    image = tmp_path / "face.jpg"
    Image.new("L", (8, 8)).save(image)
    with tarfile.open(real / "fer2013.tar.gz", "w:gz") as tar:
        for number in range(40):
            tar.add(image, f"train/happy/{number}.jpg")
        tar.add(image, "public_test/happy/x.jpg")
    pairs = tmp_path / "pairs.csv"
    rows = [f"{fold},A{fold},1,B{fold},1,0\n" for fold in range(10)]
    pairs.write_text("fold,name1,index1,name2,index2,same\n" + "".join(rows))
    with tarfile.open(real / "lfw-112.tar.gz", "w:gz") as tar:
        tar.add(pairs, "lfw/pairs.csv")
    (tmp_path / "work").mkdir()
    return tmp_path / "data"


def files(folder):
    return {path.name for path in folder.rglob("*.jpg")}


def test_a_fifth_of_the_training_faces_decides_and_no_test_face(data, tmp_path):
    work = tmp_path / "work"
    prepare(data, work)
    train, test = (files(work / "fer2013-dev" / split) for split in ("train", "test"))
    assert train | test == {f"{number}.jpg" for number in range(40)}
    assert not train & test
    assert 3 <= len(test) <= 15  # 8 of 40, within three standard deviations
    prepare(data, work)
    assert files(work / "fer2013-dev/test") == test


def test_half_of_the_folds_decide_and_the_others_report(data, tmp_path):
    work = tmp_path / "work"
    prepare(data, work)
    for first, last in ((0, 4), (5, 9)):
        with (work / f"lfw-{first}-{last}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["fold"]) for row in rows] == list(range(first, last + 1))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(continue_training, "RUNS", tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/run-7.json").write_text('{"images": 3}')
    return tmp_path / "runs"


def test_the_next_run_sees_people_that_no_recorded_run_has_seen(runs, tmp_path):
    assert continue_training.next_person() == continue_training.FIRST_PERSON
    done = tmp_path / "done"
    done.mkdir()
    config = {"views_per_step": 128, "minutes": 90.0, "init": "pcl_facecycle", "data": ["a"], "out": "b"}
    config |= {"model": "pcl_facecycle", "method": "labels"}
    model = facepcl.create_model("pcl_facecycle")
    heads = Heads({"pose": HeadSpec("pose", 2, "none", ("yaw", "pitch", "roll"))}, {"pose": 512})
    save_encoder(model, done / "encoder", heads=heads)
    (done / "config.json").write_text(json.dumps(config))
    (done / "log.jsonl").write_text('{"step": 20}\n{"step": 1000}\n')
    faces = {"version": 2, "seed": 1, "start": 100_000, "people": 500, "images": 5}
    facts = record("pcl_facecycle.synth_labels", done, faces)
    assert facts == {"run": "8", "started from": "pcl_facecycle", "views": "128,000", "hours": "1.5"}
    recorded = json.loads((runs / "run-8.json").read_text())
    assert (recorded["faces"], recorded["total_steps"], recorded["data"]) == (faces, 1000, ["FACES"])
    assert continue_training.next_person() == 100_500
    kept = facepcl.create_model("pcl_facecycle", runs / "pcl_facecycle.synth_labels.safetensors")
    for name, value in kept.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-6)  # float16 on disk
    names = recorded["heads"]["pose"]["outputs"]
    assert names == ["yaw", "pitch", "roll"]
    halves = load_tensors(runs / "pcl_facecycle.synth_labels.heads.safetensors")["pose.weight"]
    torch.testing.assert_close(halves.float(), heads["pose"].weight, rtol=1e-3, atol=1e-6)
