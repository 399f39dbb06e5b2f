"""The result of a probe: flat numbers for a JSON file, and charts for a report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepcl.errors import DataError
from facepcl.probes.charts import Chart
from facepcl.probes.manifest import Manifest
from facepcl.utils.files import write_text, writing


@dataclass
class Result:
    """What was measured, on what and how: `numbers`, flat and the same for the same seed, and `charts`, whose
    images are indices into `manifest`."""

    numbers: dict[str, Any]
    charts: list[Chart]
    manifest: Manifest
    notes: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the numbers as JSON."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.numbers, indent=1) + "\n")


def read_numbers(path: Path) -> dict[str, Any]:
    """The numbers of one run. Raises DataError for a file that is not a result."""
    try:
        numbers = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # nested a thousand times
        raise DataError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(numbers, dict) or not isinstance(numbers.get("task"), str):
        raise DataError(f"{path} is no result of facepcl probe: it names no task")
    return numbers
