"""The examples run as they are written in their first lines."""

import subprocess
import sys
from pathlib import Path

import pytest

import facepcl

ROOT = Path(__file__).resolve().parents[1]


def test_the_sample_faces_are_two_dozen_crops_of_six_people():
    from PIL import Image

    faces = sorted((ROOT / "examples/faces").glob("*.jpg"))
    assert len(faces) == 24
    assert len({face.name.partition("_")[0] for face in faces}) == 6
    assert {Image.open(face).size for face in faces} == {(112, 112)}


@pytest.mark.slow
def test_fine_tune_writes_weights_that_load(tmp_path):
    for face in (ROOT / "examples/faces").glob("person[12]*.jpg"):
        folder = tmp_path / "faces" / face.name.partition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / face.name).write_bytes(face.read_bytes())
    out = tmp_path / "tuned.safetensors"
    command = [
        sys.executable,
        ROOT / "examples/fine_tune.py",
        tmp_path / "faces",
        "--epochs",
        "1",
        "--out",
        out,
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "held-out faces right (2 classes)" in run.stdout
    facepcl.create_model("pcl_facecycle", pretrained=out, branches=False, num_classes=2)
