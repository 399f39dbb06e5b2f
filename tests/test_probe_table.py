"""Results side by side: one row a run, one table a task."""

import csv
import json
import logging

import pytest

from facepcl.errors import DataError, MissingPath, OptionError
from facepcl.probes.table import table

HEAD = {
    "data": "FER-2013",
    "test": None,
    "model": "pcl_facecycle",
    "branch": "shared",
    "pool": "code",
    "dimension": 2048,
    "aligned": False,
    "protocol": "clean",
    "seed": 0,
}
SCORES = {
    "expression": {
        "accuracy": 0.4812,
        "accuracy_low": 0.4641,
        "accuracy_high": 0.4973,
        "macro_f1": 0.4,
        "macro_f1_low": 0.38,
        "macro_f1_high": 0.42,
    },
    "verification": {
        "accuracy": 0.701,
        "accuracy_low": 0.68,
        "accuracy_high": 0.72,
        "accuracy_std": 0.013,
        "auc": 0.7712,
        "tar_at_far_1e-2": 0.1,
        "tar_at_far_1e-3": 0.02,
        "centred_accuracy": 0.72,
    },
    "action-units": {"f1": 0.5, "f1_low": 0.45, "f1_high": 0.55, "auc": 0.8, "icc": -0.1, "f1_AU12": 0.7},
    "head-pose": {
        "mae_yaw": 8.123,
        "mae_yaw_low": 7.9,
        "mae_yaw_high": 8.3,
        "mae_pitch": 6,
        "mae_roll": 4.5,
        "mae": 6.2,
        "geodesic": 11.0,
    },
    "disentangle": {
        "read_yaw_face": 8.1,
        "read_yaw_pose": 3.4,
        "read_expression_face": 0.78,
        "read_expression_pose": 0.66,
        **{
            f"pose_over_expression_{branch}{end}": value
            for branch, value in (("shared", 3.0), ("face", 1.5), ("pose", 9.25))
            for end, value in (("", value), ("_low", value - 0.5), ("_high", value + 0.5))
        },
    },
}


def save(folder, name, task="expression", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"task": task, **HEAD, **SCORES.get(task, {}), **changes}
    (folder / f"{name}.json").write_text(json.dumps(numbers))


def cells(tmp_path):
    """The rows of the CSV, by column."""
    return list(csv.DictReader(table(tmp_path, "csv").splitlines()))


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("expression", {"accuracy %": "48.1 (46.4-49.7)", "macro F1 %": "40.0 (38.0-42.0)"}),
        (
            "verification",
            {
                "accuracy %": "70.1 ± 1.3 (68.0-72.0)",
                "AUC": "0.771",
                "TAR at FAR 0.01, %": "10.0",
                "TAR at FAR 0.001, %": "2.0",
                "centred accuracy %": "72.0",
            },
        ),
        ("action-units", {"mean F1 %": "50.0 (45.0-55.0)", "AUC": "0.800", "ICC": "-0.100"}),
        (
            "head-pose",
            {
                "MAE yaw °": "8.12 (7.90-8.30)",
                "MAE pitch °": "6.00",
                "MAE roll °": "4.50",
                "MAE °": "6.20",
                "geodesic °": "11.00",
            },
        ),
        (
            "disentangle",
            {
                "pose / expression, shared": "3.00 (2.50-3.50)",
                "pose / expression, face": "1.50 (1.00-2.00)",
                "pose / expression, pose": "9.25 (8.75-9.75)",
                "yaw read from face °": "8.1",
                "yaw read from pose °": "3.4",
                "expression read from face %": "78.0",
                "expression read from pose %": "66.0",
            },
        ),
    ],
)
def test_each_task_has_its_figures_with_their_intervals(tmp_path, task, wanted):
    save(tmp_path, "run", task)
    (row,) = cells(tmp_path)
    setting = {"task": task, "data": "FER-2013", "model": "pcl_facecycle", "branch": "shared", "pool": "code"}
    rest = {"dimension": "2048", "protocol": "clean", "shots": "all", "seed": "0"}
    assert row == {**setting, **rest, **wanted}


def test_rows_are_sorted_by_task_data_model_branch(tmp_path):
    keys = ("task", "data", "model", "branch")
    wanted = [
        ("expression", "FER-2013", "hog", "shared"),
        ("expression", "FER-2013", "pcl_facecycle", "face"),
        ("expression", "FER-2013", "pcl_facecycle", "pose"),
        ("expression", "RAF-DB", "hog", "shared"),
        ("verification", "LFW", "hog", "shared"),
    ]
    for number, values in enumerate(reversed(wanted)):
        task, *rest = values
        save(tmp_path / str(number % 2), str(number), task, **dict(zip(keys[1:], rest, strict=True)))
    assert [tuple(row[key] for key in keys) for row in cells(tmp_path)] == wanted


def test_shots_and_seeds_are_sorted_as_numbers(tmp_path):
    for shots in (16, 4, 100):
        save(tmp_path, str(shots), shots=shots)
    save(tmp_path, "all")
    assert [row["shots"] for row in cells(tmp_path)] == ["all", "4", "16", "100"]


def test_a_row_tells_another_test_set_and_aligned_faces(tmp_path):
    save(tmp_path, "run", test="RAF-DB", aligned=True)
    (row,) = cells(tmp_path)
    assert row["data"] == "FER-2013, scored on RAF-DB"
    assert row["protocol"] == "clean, aligned"


def test_what_a_run_has_not_is_empty(tmp_path):
    save(tmp_path, "run", accuracy=None, macro_f1=float("nan"))
    (row,) = cells(tmp_path)
    assert (row["accuracy %"], row["macro F1 %"]) == ("", "")


def test_drawn_pairs_make_a_table_of_their_own(tmp_path):
    for task in ("verification", "verification (drawn pairs)"):
        save(tmp_path, task, task, **SCORES["verification"])
    text = table(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("verif")] == [
        "verification",
        "verification (drawn pairs)",
    ]
    assert text.count("70.1") == 2


def test_an_interval_below_zero_is_in_words(tmp_path):
    save(tmp_path, "run", "action-units", icc_low=-0.2, icc_high=0.05)
    assert cells(tmp_path)[0]["ICC"] == "-0.100 (-0.200 to 0.050)"


def test_csv_has_the_columns_of_all_tasks(tmp_path):
    for task in SCORES:
        save(tmp_path, task, task)
    rows = cells(tmp_path)
    assert [row["task"] for row in rows] == sorted(SCORES)
    assert rows[0]["AUC"] == "0.800"
    assert rows[2]["AUC"] == ""


def test_text_stands_in_columns_under_the_task(tmp_path):
    save(tmp_path, "a")
    save(tmp_path, "b", model="a_much_longer_name_of_a_model", accuracy=0.5)
    save(tmp_path, "c", "verification")
    first, second = table(tmp_path).split("\n\nverification\n")
    task, blank, head, rule, *rows = first.split("\n")
    assert (task, blank) == ("expression", "")
    assert [row.index("shared") for row in rows] == [head.index("branch")] * 2
    assert [row.index("clean") for row in rows] == [head.index("protocol")] * 2
    assert rule.startswith("--------  ---")
    assert "70.1 ± 1.3" in second


def test_markdown_keeps_bars_within_their_cell(tmp_path):
    save(tmp_path, "a", model="odd|name\nof a model")
    title, _, head, rule, row = table(tmp_path, "markdown").split("\n")
    assert title == "## expression"
    assert rule == "|" + " --- |" * 10
    assert head.startswith("| data | model | branch |")
    assert r"| odd\|name of a model |" in row


def test_a_task_of_a_later_release_has_its_setting_at_least(tmp_path):
    save(tmp_path, "a", "age")
    assert table(tmp_path).startswith("age\n\ndata ")


def test_files_that_are_no_results_are_named_and_left_out(tmp_path, caplog):
    save(tmp_path, "good")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "null.json").write_text('{"task": null}')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("nothing")
    with caplog.at_level(logging.WARNING, "facepcl"):
        assert len(cells(tmp_path)) == 1
    assert len(caplog.messages) == 6
    for name in ("list.json", "broken.json", "bytes.json", "link.json"):
        assert any(name in message for message in caplog.messages)


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(DataError, match="holds no result of facepcl probe"):
        table(tmp_path)
    with pytest.raises(MissingPath, match="there is no such folder"):
        table(tmp_path / "no")


def test_an_unknown_form_is_told(tmp_path):
    with pytest.raises(OptionError, match="text, markdown, csv, not 'html'"):
        table(tmp_path, "html")
