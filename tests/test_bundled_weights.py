"""The weights that come with the package."""

import re

import numpy as np
import pytest
import timm
import torch
from helpers.files import FACES

import facepcl
from facepcl.models.registry import read_index
from facepcl.utils.files import sha256_file

WITH_HEADS = [f"{name}.synth_labels" for name in ("pcl_facecycle", "pcl_resnet18", "pcl_resnet50")]
BUNDLED = [*WITH_HEADS, "pcl_facecycle.synth"]
MOST_BYTES = {"pcl_facecycle": 6_000_000, "pcl_resnet18": 24_000_000, "pcl_resnet50": 49_000_000}


def test_the_index_tells_the_truth_about_each_file():
    assert [f"{row.model}.{row.tag}" for row in read_index()] == BUNDLED
    for row in read_index():
        assert row.path is not None
        assert sha256_file(row.path) == row.sha256
        assert row.path.stat().st_size == row.bytes <= MOST_BYTES[row.model]
        assert row.license == "CC0-1.0"
        assert row.command.startswith("facepcl pretrain ")


def test_timm_lists_the_model_as_pretrained():
    assert timm.list_models("pcl_*", pretrained=True) == sorted(BUNDLED)
    assert timm.is_model_pretrained("pcl_facecycle")
    assert timm.models.get_pretrained_cfg("pcl_facecycle").license == "CC0-1.0"


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": 5}, {"features_only": True}, {"in_chans": 1}], ids=str
)
def test_pretrained_loads_offline_whatever_the_options(options):
    timm.create_model("pcl_facecycle", pretrained=True, **options)
    timm.create_model("pcl_facecycle.synth_labels", pretrained=True, **options)


def test_a_model_without_a_tag_has_the_weights_that_learned_from_labels():
    plain, labelled = (
        timm.create_model(f"pcl_facecycle{tag}", pretrained=True) for tag in ("", ".synth_labels")
    )
    assert plain.pretrained_cfg["tag"] == "synth_labels"
    torch.testing.assert_close(plain.state_dict(), labelled.state_dict(), rtol=0, atol=0)


def test_weights_are_used_at_the_size_they_were_trained_at():
    for row in read_index():
        cfg = timm.create_model(f"{row.model}.{row.tag}", pretrained=True).pretrained_cfg
        assert cfg["input_size"] == (3, row.input_size, row.input_size)


@pytest.fixture(scope="module")
def sample():
    """Codes of the sample faces, with the yaw and the person that their names tell."""
    yaw = np.array([int(re.search(r"yaw([+-]\d+)", path.name).group(1)) for path in FACES])
    person = np.array([path.name.partition("_")[0] for path in FACES])
    codes = {b: facepcl.FaceEmbedder(branch=b)(FACES) for b in ("identity", "pose")}
    return yaw, person, codes


def neighbours(codes):
    unit = codes - codes.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1)


def test_the_pose_codes_nearest_neighbour_is_turned_alike(sample):
    """Neighbours under the pose code differ less in yaw than faces drawn at random do."""
    yaw, _, codes = sample
    nearest = neighbours(codes["pose"])[:, :3]
    found = np.abs(yaw[nearest] - yaw[:, None]).mean()
    random = np.abs(yaw[:, None] - yaw).sum() / (len(yaw) * (len(yaw) - 1))
    assert found < 0.6 * random


def test_identity_finds_the_same_person_more_often_than_chance(sample):
    _, person, codes = sample
    nearest = neighbours(codes["identity"])[:, :3]
    chance = 3 / 23  # three other images of the person among 23
    assert (person[nearest] == person[:, None]).mean() > 4 * chance


@pytest.mark.parametrize("name", WITH_HEADS)
def test_the_heads_say_where_the_sample_faces_are_turned(name):
    """To 6 degrees of yaw, as their names tell; a constant is 17 off."""
    yaw = [int(re.search(r"yaw([+-]\d+)", path.name).group(1)) for path in FACES]
    found = [face.yaw for face in facepcl.FaceAnalyzer(name, crops=True, dtype="float32")(FACES)]
    assert np.abs(np.array(found) - yaw).mean() < 6


def test_the_codes_are_finite_and_not_collapsed(sample):
    for codes in sample[2].values():
        assert np.isfinite(codes).all()
        assert codes.std(0).mean() > 1e-3


def test_the_embedders_space_is_that_of_the_bundled_file():
    meta = facepcl.FaceEmbedder().meta
    assert meta["tag"] == "synth_labels"
    assert meta["weights_sha256"] == read_index()[0].sha256


def test_weights_of_ones_own_do_not_pass_for_the_bundled_file():
    own = facepcl.create_model("pcl_facecycle", pretrained=False)  # its cfg names the file all the same
    meta = facepcl.FaceEmbedder(own).meta
    assert meta["model"] == "pcl_facecycle"
    assert meta["tag"] is None
    assert meta["weights_sha256"] not in {row.sha256 for row in read_index()}
