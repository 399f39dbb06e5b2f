"""The figures of the model card are those of examples/model_card.jsonl, and of the weights in the package."""

from pathlib import Path

import model_card
import pytest

from facepcl.models.registry import read_index

CARD = (Path(__file__).resolve().parents[1] / "MODEL_CARD.md").read_text("utf-8")


@pytest.fixture(scope="module")
def scores():
    return model_card.read_scores()


def test_the_tables_are_made_of_the_scores(scores):
    assert f"<!-- scores -->\n\n{model_card.scores_table(scores)}\n<!-- end of scores -->" in CARD
    assert f"<!-- series -->\n\n{model_card.series_table(scores)}\n<!-- end of series -->" in CARD
    assert f"<!-- compared -->\n\n{model_card.compared_table(scores)}\n<!-- end of compared -->" in CARD


def test_every_bundled_file_has_the_scores_that_its_row_tells(scores):
    for row in read_index():
        own = [s for s in scores if s["title"] == f"{row.model}.{row.tag}"]
        assert {s["weights_sha256"] for s in own} == {row.sha256}
        shared = [s for s in own if s["branch"] == "shared"]
        for name, column in (("fer2013", model_card.COLUMNS[0]), ("lfw", model_card.COLUMNS[2])):
            assert model_card.cell(shared, column).split()[0] == str(row.metrics[name])


def test_a_cell_is_the_mean_over_the_seeds_with_the_mean_of_the_bounds():
    column = model_card.Column("head-pose", "poses.tar", "mae", 1, "MAE")
    one = {"task": "head-pose", "data": "poses.tar", "mae": 3.0, "mae_low": 2.0, "mae_high": 5.0}
    two = {**one, "mae": 4.0, "mae_low": 3.0, "mae_high": 6.0}
    other = {**one, "data": "others.tar", "mae": 99.0}
    assert model_card.cell([one, two, other], column) == "3.5 (2.5-5.5)"
    assert model_card.cell([other], column) == ""
