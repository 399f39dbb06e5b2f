"""The figures of the model card are those of examples/model_card.jsonl, and of the weights in the package."""

import json
from pathlib import Path

import model_card
import model_card_heads
import model_card_pairs
import numpy as np
import pytest

from facepcl.models.io import HEADS_FILE
from facepcl.models.registry import read_index
from facepcl.utils.files import sha256_file

CARD = (Path(__file__).resolve().parents[1] / "MODEL_CARD.md").read_text("utf-8")


@pytest.fixture(scope="module")
def scores():
    return model_card.read_scores()


def test_the_tables_are_made_of_the_scores(scores):
    assert model_card.weights_table() in CARD
    assert f"<!-- scores -->\n\n{model_card.scores_table(scores)}\n<!-- end of scores -->" in CARD
    assert f"<!-- series -->\n\n{model_card.series_table(scores)}\n<!-- end of series -->" in CARD
    compared = model_card.COMPARISONS.read_text("utf-8")
    assert f"<!-- compared -->\n\n{model_card.compared_table(scores)}\n<!-- end of compared -->" in compared


def test_every_bundled_file_has_the_scores_that_its_row_tells(scores):
    for row in read_index():
        own = [s for s in scores if s["title"] == f"{row.model}.{row.tag}"]
        assert {s["weights_sha256"] for s in own} == {row.sha256}
        for name, branch, column in model_card.METRICS:
            of_branch = [s for s in own if s["branch"] == branch]
            assert model_card.cell(of_branch, column).partition(" ")[0] == str(row.metrics.get(name, ""))


def test_the_tables_of_the_heads_are_those_of_the_heads_in_the_package():
    heads = [json.loads(line) for line in model_card_heads.SCORES.read_text("utf-8").splitlines()]
    for name in ("heads", "confusion"):
        table = getattr(model_card_heads, f"{name}_table")(heads)
        assert f"<!-- {name} -->\n\n{table}\n<!-- end of {name} -->" in CARD
    for row, scores in zip([row for row in read_index() if row.heads], heads, strict=True):
        files = row.path, row.path.with_suffix(f".{HEADS_FILE}")
        assert scores["sha256"] == " ".join(sha256_file(file)[:12] for file in files)


def test_the_tables_of_pairs_are_those_of_the_weights_in_the_package():
    pairs = [json.loads(line) for line in model_card_pairs.SCORES.read_text("utf-8").splitlines()]
    assert f"<!-- pairs -->\n\n{model_card_pairs.pairs_table(pairs)}\n<!-- end of pairs -->" in CARD
    assert f"<!-- cosines -->\n\n{model_card_pairs.cosines_table()}\n<!-- end of cosines -->" in CARD
    hashes = {title: sha256 for title, _, _, sha256 in model_card_pairs._wanted()}
    assert all(hashes[scores["title"]] == scores["sha256"] for scores in pairs)
    for row in read_index():
        if cosines := model_card_pairs.cosines_of(pairs, f"{row.model}.{row.tag}"):
            assert row.cosines == cosines


def test_the_calibration_error_is_the_distance_of_confidence_and_accuracy():
    """Two of four right at a confidence of 0.9, both of two at 0.3: (4 x 0.4 + 2 x 0.7) / 6."""
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.3, 0.3])
    right = np.array([True, True, False, False, True, True])
    assert model_card_heads.calibration_error(confidence, right) == pytest.approx((4 * 0.4 + 2 * 0.7) / 6)


def test_a_cell_is_the_mean_over_the_seeds_with_the_mean_of_the_bounds():
    column = model_card.Column("head-pose", "poses.tar", "mae", 1, "MAE")
    one = {"task": "head-pose", "data": "poses.tar", "mae": 3.0, "mae_low": 2.0, "mae_high": 5.0}
    two = {**one, "mae": 4.0, "mae_low": 3.0, "mae_high": 6.0}
    other = {**one, "data": "others.tar", "mae": 99.0}
    assert model_card.cell([one, two, other], column) == "3.5 (2.5-5.5)"
    assert model_card.cell([other], column) == ""
