"""What a probe found: flat numbers for a JSON file, and charts for a report."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.errors import DataError
from facepcl.probes.manifest import Manifest
from facepcl.utils.files import atomic


@dataclass
class Confusion:
    """How often a class `[row]` was taken for another `[column]`: counts `[K, K]`."""

    title: str
    matrix: np.ndarray
    classes: tuple[str, ...]


@dataclass
class Curve:
    """A line through points, `x` and `y` `[N]`, as a ROC."""

    title: str
    x: np.ndarray
    y: np.ndarray
    x_label: str
    y_label: str
    log_x: bool = False


@dataclass
class Bars:
    """One value for each name, with the bounds `[N]` of its confidence interval if they are known."""

    title: str
    names: tuple[str, ...]
    values: np.ndarray
    y_label: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass
class Scatter:
    """Predicted against true values `[N]`."""

    title: str
    truth: np.ndarray
    predicted: np.ndarray
    unit: str


@dataclass
class Faces:
    """Images by their numbers in the data set, with a few words each; `columns` of them in a line."""

    title: str
    images: list[int]
    captions: list[str]
    columns: int = 8


@dataclass
class Map:
    """Embeddings `[N, D]` to lay out in the plane, coloured by class or by number."""

    title: str
    vectors: np.ndarray
    labels: list[str] | np.ndarray


Chart = Confusion | Curve | Bars | Scatter | Faces | Map


@dataclass
class Result:
    """`numbers`: what was measured, of what and how, flat, the same for the same seed; `charts` of it.

    `manifest` is the data set whose images the charts number.
    """

    numbers: dict[str, Any]
    charts: list[Chart]
    manifest: Manifest
    notes: tuple[str, ...] = field(default=())

    def write(self, path: Path) -> None:
        """Write the numbers as JSON, in the order in which they were found."""
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(self.numbers, indent=1) + "\n", "utf-8")


def read_numbers(path: Path) -> dict[str, Any]:
    """The numbers of one run. Raises DataError for a file that holds none."""
    try:
        numbers = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # nested a thousand times
        raise DataError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(numbers, dict) or not isinstance(numbers.get("task"), str):
        raise DataError(f"{path} is no result of facepcl probe: it names no task")
    return numbers
