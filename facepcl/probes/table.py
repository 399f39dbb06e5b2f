"""The results of many runs side by side: `table("runs/", "markdown")`."""

import csv
import io
import logging
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from facepcl.errors import DataError, MissingPath, OptionError
from facepcl.probes.result import read_numbers

_logger = logging.getLogger("facepcl")

FORMS = ("text", "markdown", "csv")
SETTING = ("data", "model", "branch", "pool", "dimension", "protocol", "shots", "seed")


class Figure(NamedTuple):
    """A score as people read it: its `key` in a result, its `name`, its unit, digits after the point."""

    key: str
    name: str
    unit: str = ""
    digits: int = 3

    @property
    def heading(self) -> str:
        """Name and unit: what stands above a column."""
        return f"{self.name} {self.unit}".strip()

    def text(self, value: Any) -> str:
        """A number in the figure's unit; a fraction as per cent; "" for what is no number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return ""
        return f"{value * 100 if self.unit == '%' else value:.{self.digits}f}"

    def spread(self, numbers: dict[str, Any]) -> str:
        """Its deviation and its confidence interval, as far as a result has them: `± 1.2 (46.4-49.7)`."""
        deviation, low, high = (self.text(numbers.get(f"{self.key}_{end}")) for end in ("std", "low", "high"))
        parts = [f"± {deviation}"] if deviation else []
        if low and high:
            parts.append(f"({low} to {high})" if low.startswith("-") else f"({low}-{high})")
        return " ".join(parts)

    def cell(self, numbers: dict[str, Any]) -> str:
        """Value and spread: `48.1 (46.4-49.7)`; "" where a result has none."""
        value = self.text(numbers.get(self.key))
        return f"{value} {self.spread(numbers)}".strip() if value else ""


FIGURES = {
    "expression": (Figure("accuracy", "accuracy", "%", 1), Figure("macro_f1", "macro F1", "%", 1)),
    "verification": (
        Figure("accuracy", "accuracy", "%", 1),
        Figure("auc", "AUC"),
        Figure("tar_at_far_1e-2", "TAR at FAR 1e-2", "%", 1),
        Figure("tar_at_far_1e-3", "TAR at FAR 1e-3", "%", 1),
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


def table(folder: str | Path, form: str = "text") -> str:
    """The runs whose JSON files lie below `folder`, a row each, a table each task; `form`: text, markdown,
    or csv (one table). Raises MissingPath, OptionError, or DataError if there is no result."""
    if form not in FORMS:
        raise OptionError(f"a table is {', '.join(FORMS)}, not {form!r}")
    runs = _runs(Path(folder))
    tasks = [(task, list(group)) for task, group in groupby(runs, lambda numbers: str(numbers["task"]))]
    if form == "csv":
        return _csv(tasks)
    blocks = []
    for task, group in tasks:
        figures = FIGURES.get(task, ())
        rows = [[*SETTING, *(figure.heading for figure in figures)]]
        rows += [[*_setting(numbers), *(figure.cell(numbers) for figure in figures)] for numbers in group]
        blocks.append(_markdown(task, rows) if form == "markdown" else _text(task, rows))
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
    """By what the rows say; numbers by size."""
    cells = [numbers["task"], *(numbers.get(key) for key in ("data", "test", *SETTING[1:]))]
    return tuple((c, "") if isinstance(c, (int, float)) else (0, str(c or "")) for c in cells)


def _setting(numbers: dict[str, Any]) -> list[str]:
    cells = {key: _plain(numbers.get(key)) for key in SETTING}
    if numbers.get("test"):
        cells["data"] += f", scored on {_plain(numbers['test'])}"
    if numbers.get("aligned"):
        cells["protocol"] += ", aligned"
    cells["shots"] = cells["shots"] if numbers.get("shots") else "all"
    return list(cells.values())


def _plain(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _csv(tasks: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    columns = list(dict.fromkeys(figure.heading for task, _ in tasks for figure in FIGURES.get(task, ())))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["task", *SETTING, *columns])
    for task, group in tasks:
        for numbers in group:
            cells = {figure.heading: figure.cell(numbers) for figure in FIGURES.get(task, ())}
            writer.writerow([task, *_setting(numbers), *(cells.get(column, "") for column in columns)])
    return lines.getvalue().rstrip("\n")


def _text(task: str, rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([task, "", *lines])


def _markdown(task: str, rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join([f"## {task}", "", *lines])
