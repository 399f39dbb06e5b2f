"""`pcl_facecycle` in 8 bits stays near its float codes, in each of its numbers."""

import numpy as np
import pytest
from helpers.files import FACES
from PIL import Image

import facepcl
from facepcl.embedding import int8
from facepcl.errors import OptionError


@pytest.fixture(scope="module")
def both():
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra facepcl[onnx]")
    return [facepcl.FaceEmbedder(branch="concat", dtype=dtype) for dtype in ("float32", "int8")]


def grey(path):
    """As LFW and FER-2013 are; the calibration has colours."""
    return Image.open(path).convert("L").convert("RGB")


@pytest.mark.slow
@pytest.mark.parametrize("change", [Image.open, grey], ids=["colour", "grey"])
def test_every_code_keeps_its_direction(both, change):
    exact, quantised = (embedder(map(change, FACES)) for embedder in both)
    for branch in range(3):
        a, b = (codes[:, 2048 * branch : 2048 * (branch + 1)] for codes in (exact, quantised))
        assert facepcl.similarity(a, b).diagonal().min() > 0.995  # measured: 0.998


@pytest.mark.slow
def test_no_number_of_the_code_is_lost(both):
    """With the outputs in 8 bits too, the smallest of them were 0 throughout at the same cosine."""
    exact, quantised = (embedder(FACES) for embedder in both)
    moving = exact.std(0) > 0
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(exact.T[moving], quantised.T[moving], strict=True)]
    assert np.quantile(correlation, 0.01) > 0.95
    assert moving.mean() > 0.99


@pytest.mark.slow
def test_int8_is_recorded_and_leaves_the_space(both):
    exact, quantised = (embedder.meta for embedder in both)
    assert (quantised["dtype"], quantised["backend"]) == ("int8", "onnx")
    assert quantised["space"] == exact["space"]


@pytest.mark.slow
@pytest.mark.parametrize(("bfloat16", "warns"), [(0.03, True), (0.05, False)])
def test_where_bfloat16_is_faster_a_warning_says_so(both, monkeypatch, caplog, bfloat16, warns):
    monkeypatch.setattr(int8, "has_bfloat16_units", lambda: True)
    monkeypatch.setattr(int8, "least_seconds", lambda ways, rounds: {"int8": 0.04, "bfloat16": bfloat16})
    facepcl.FaceEmbedder(both[0].model, dtype="int8")
    said = "int8 takes 1.2 ms per image on this processor, and bfloat16 0.9; leave out dtype int8"
    assert (said in caplog.text) == warns


def test_other_models_and_sizes_have_no_int8():
    with pytest.raises(OptionError, match="int8 is for pcl_facecycle, not for pcl_resnet18"):
        facepcl.FaceEmbedder(facepcl.create_model("pcl_resnet18"), dtype="int8")
    with pytest.raises(OptionError, match="int8 is for 64 pixels, not for 96"):
        facepcl.FaceEmbedder(facepcl.create_model("pcl_facecycle"), dtype="int8", size=96)
