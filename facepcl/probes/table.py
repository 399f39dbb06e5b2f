"""The results of many runs side by side: `table("runs/", "markdown")`."""

import csv
import io
import logging
import math
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from facepcl.errors import DataError, MissingPath, OptionError
from facepcl.probes.manifest import DRAWN_PAIRS
from facepcl.probes.result import read_numbers

_logger = logging.getLogger("facepcl")

FORMS = ("text", "markdown", "csv")
SETTING = ("data", "model", "branch", "pool", "dimension", "protocol", "shots", "seed")


class Figure(NamedTuple):
    """How a score is shown: its `key` in a result, its `name` and unit, and the digits after the point."""

    key: str
    name: str
    unit: str = ""
    digits: int = 3

    @property
    def heading(self) -> str:
        """The title of a column."""
        return f"{self.name} {self.unit}".strip()

    def text(self, value: Any) -> str:
        """A number in the figure's unit; "" for anything else."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return ""
        return f"{value * 100 if self.unit == '%' else value:.{self.digits}f}"

    def spread(self, numbers: dict[str, Any]) -> str:
        """Standard deviation and confidence interval, if a result has them: `± 1.2 (46.4-49.7)`."""
        deviation, low, high = (self.text(numbers.get(f"{self.key}_{end}")) for end in ("std", "low", "high"))
        parts = [f"± {deviation}"] if deviation else []
        if low and high:
            parts.append(f"({low} to {high})" if low.startswith("-") else f"({low}-{high})")
        return " ".join(parts)

    def cell(self, numbers: dict[str, Any]) -> str:
        """Value and spread: `48.1 (46.4-49.7)`; "" if a result has none."""
        value = self.text(numbers.get(self.key))
        return f"{value} {self.spread(numbers)}".strip() if value else ""


FIGURES: dict[str, tuple[Figure, ...]] = {
    "expression": (Figure("accuracy", "accuracy", "%", 1), Figure("macro_f1", "macro F1", "%", 1)),
    "verification": (
        Figure("accuracy", "accuracy", "%", 1),
        Figure("auc", "AUC"),
        Figure("tar_at_far_1e-2", "TAR at FAR 0.01,", "%", 1),
        Figure("tar_at_far_1e-3", "TAR at FAR 0.001,", "%", 1),
        Figure("centred_accuracy", "centred accuracy", "%", 1),
    ),
    "action-units": (Figure("f1", "mean F1", "%", 1), Figure("auc", "AUC"), Figure("icc", "ICC")),
    "head-pose": (
        Figure("mae_yaw", "MAE yaw", "°", 2),
        Figure("mae_pitch", "MAE pitch", "°", 2),
        Figure("mae_roll", "MAE roll", "°", 2),
        Figure("mae", "MAE", "°", 2),
        Figure("geodesic", "geodesic", "°", 2),
    ),
    "disentangle": (
        *(
            Figure(f"pose_over_expression_{branch}", f"pose / expression, {branch}", digits=2)
            for branch in ("shared", "face", "pose")
        ),
        Figure("read_yaw_face", "yaw read from face", "°", 1),
        Figure("read_yaw_pose", "yaw read from pose", "°", 1),
        Figure("read_expression_face", "expression read from face", "%", 1),
        Figure("read_expression_pose", "expression read from pose", "%", 1),
    ),
}


FIGURES[DRAWN_PAIRS] = FIGURES["verification"]


def table(folder: str | Path, form: str = "text") -> str:
    """The runs whose JSON files lie below `folder`, a row each, in a table per task; `form`: text, markdown,
    or csv (one table). Raises MissingPath, OptionError, or DataError if there is no result."""
    if form not in FORMS:
        raise OptionError(f"a table is {', '.join(FORMS)}, not {form!r}")
    rows = [_row(numbers) for numbers in _runs(Path(folder))]
    if form == "csv":
        lines = io.StringIO()
        columns = dict.fromkeys(column for row in rows for column in row)
        writer = csv.DictWriter(lines, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return lines.getvalue().rstrip("\n")
    blocks = []
    for task, group in groupby(rows, lambda row: row["task"]):
        dicts = [{column: cell for column, cell in row.items() if column != "task"} for row in group]
        cells = [list(dicts[0]), *(list(row.values()) for row in dicts)]
        blocks.append(_markdown(task, cells) if form == "markdown" else _text(task, cells))
    return "\n\n".join(blocks)


def _runs(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        raise MissingPath(f"{folder}: there is no such folder of results")
    runs = []
    for path in sorted(folder.rglob("*.json")):
        try:
            runs.append(read_numbers(path))
        except (DataError, OSError) as error:
            _logger.warning("left out: %s", error)
    if not runs:
        raise DataError(f"{folder} holds no result of facepcl probe (a .json that --out writes)")
    return sorted(runs, key=_order)


def _order(numbers: dict[str, Any]) -> tuple[Any, ...]:
    """By the cells of a row; numbers by size."""
    cells = [numbers["task"], *(numbers.get(key) for key in ("data", "test", *SETTING[1:]))]
    return tuple((c, "") if isinstance(c, (int, float)) else (0, str(c or "")) for c in cells)


def _row(numbers: dict[str, Any]) -> dict[str, str]:
    """The cells of a run by their columns."""
    task = numbers["task"]
    row = {"task": task, **{key: _plain(numbers.get(key)) for key in SETTING}}
    if numbers.get("test"):
        row["data"] += f", scored on {_plain(numbers['test'])}"
    row["protocol"] += "".join(f", {word}" for word in ("flip", "aligned") if numbers.get(word))
    row["shots"] = row["shots"] if numbers.get("shots") else "all"
    return row | {figure.heading: figure.cell(numbers) for figure in FIGURES.get(task, ())}


def _plain(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _text(task: str, rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([task, "", *lines])


def _markdown(task: str, rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join([f"## {task}", "", *lines])
