"""`facepcl pretrain --probe-data`: what the codes hold, in the log of a run."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

import facepcl
from facepcl.errors import DataError
from facepcl.pretrain import online_probe
from facepcl.pretrain.online_probe import OnlineProbe


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Eighty pictures of twenty people: a colour each, a disc whose place is the pose, a bar for one of two
    expressions."""
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for person in range(20):
        colour = tuple(rng.integers(60, 200, 3).tolist())
        for number in range(4):
            yaw, pitch = rng.uniform(-40, 40), rng.uniform(-20, 20)
            image = Image.new("RGB", (64, 64), colour)
            draw = ImageDraw.Draw(image)
            x, y = 32 + yaw / 2, 32 + pitch / 2
            draw.ellipse((x - 6, y - 6, x + 6, y + 6), "white")
            if number % 2:
                draw.rectangle((0, 58, 64, 64), "black")
            image.save(folder / f"{person:02d}-{number}.png")
            labels = {"yaw": yaw, "pitch": pitch, "roll": 0.0, "expression": ("sad", "happy")[number % 2]}
            labels["identity"] = f"person{person}"
            (folder / f"{person:02d}-{number}.json").write_text(json.dumps(labels))
    return folder


class Pixels(nn.Module):
    """An encoder whose code is the picture, small, or one number that says nothing."""

    def __init__(self, blind=False):
        super().__init__()
        self.pretrained_cfg = {"mean": (0, 0, 0), "std": (1, 1, 1)}
        self.weight = nn.Parameter(torch.ones(()))
        self.blind = blind

    def forward_features(self, images):
        return nn.functional.adaptive_avg_pool2d(images * (0 if self.blind else self.weight), 16)

    def shared_code(self, maps):
        return maps.flatten(1)


def test_the_probes_read_what_a_code_holds(faces):
    scores = OnlineProbe((str(faces),), 64, "expression")(Pixels(), 64)
    assert set(scores) == {f"probe_{n}_shared" for n in ("yaw", "abs_yaw", "pitch", "expression", "identity")}
    assert scores["probe_yaw_shared"] < 8  # a constant: 20
    assert scores["probe_pitch_shared"] < 5  # a constant: 10
    assert scores["probe_expression_shared"] > 0.95
    assert scores["probe_identity_shared"] > 0.75


def test_a_code_that_says_nothing_reads_as_chance(faces):
    scores = OnlineProbe((str(faces),), 64, "expression")(Pixels(blind=True), 64)
    assert scores["probe_yaw_shared"] == pytest.approx(20, abs=3)
    assert scores["probe_expression_shared"] == pytest.approx(0.5, abs=0.01)
    assert scores["probe_identity_shared"] == 0.5


def test_too_few_faces_are_refused(faces, tmp_path):
    for name in ("00-0", "01-0"):
        for suffix in (".png", ".json"):
            (tmp_path / f"{name}{suffix}").write_bytes((faces / f"{name}{suffix}").read_bytes())
    with pytest.raises(DataError, match="--probe-data has 2 faces"):
        OnlineProbe((str(tmp_path),), 64, "expression")


@pytest.mark.parametrize(("people", "each"), [(2, 900), (300, 6), (1500, 1)])
def test_the_faces_come_from_as_many_people_as_there_are_and_half_of_these_fit(people, each):
    identity = torch.arange(people).repeat_interleave(each)
    rows, fits = online_probe._choose(identity)
    assert len(set(rows.tolist())) == 1000
    chosen, counts = identity[rows].unique(return_counts=True)
    assert len(chosen) == min(people, 200 if each > 1 else 1000)
    assert counts.max() == (500 if people == 2 else min(each, 5))
    assert not set(identity[rows[fits]].tolist()) & set(identity[rows[~fits]].tolist())
    assert 0.4 < fits.float().mean() < 0.6


def test_faces_of_nobody_known_are_people_of_their_own():
    rows, fits = online_probe._choose(torch.full((1500,), -1))
    assert rows.diff().abs().float().mean() > 100  # not in the order of files, which may be that of classes
    assert int(fits.sum()) == pytest.approx(500, abs=60)


def test_identity_needs_two_people_in_the_half_that_is_scored(faces, tmp_path):
    for path in faces.iterdir():
        if path.suffix == ".json":
            number = int(path.name[:2])
            labels = json.loads(path.read_text()) | {"identity": "one" if number % 2 else "other"}
            (tmp_path / path.name).write_text(json.dumps(labels))
        else:
            shutil.copy(path, tmp_path)
    scores = OnlineProbe((str(tmp_path),), 64, "expression")(Pixels(), 64)
    assert "probe_yaw_shared" in scores
    assert "probe_identity_shared" not in scores


def test_faces_without_labels_are_refused(faces, tmp_path):
    for image in faces.glob("*.png"):
        (tmp_path / image.name).write_bytes(image.read_bytes())
    with pytest.raises(DataError, match="too few head poses, expressions and people"):
        OnlineProbe((str(tmp_path),), 64, "expression")


@pytest.mark.slow
def test_a_run_logs_the_probes_at_their_steps_and_is_the_same_without(faces, tmp_path):
    logs = []
    for name, options in (("with", {"probe_data": str(faces), "probe_steps": 2}), ("without", {})):
        config = facepcl.pretrain.Config(
            (str(faces),),
            str(tmp_path / name),
            method="simclr",
            dtype="float32",  # auto times what is faster, and rounding differs
            batch=4,
            steps=3,
            size=32,
            log_steps=1,
            **options,
        )
        facepcl.pretrain.run(config)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    probed, plain = logs
    assert [line["step"] for line in probed if "probe_yaw_shared" in line] == [2, 3]
    assert [line["shared"] for line in probed] == [line["shared"] for line in plain]
