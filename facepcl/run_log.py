"""`log.jsonl` of a run: a line every so often, with the losses and the images a second."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facepcl._files import atomic


class Log:
    """The log of a run that goes on after `step`: lines of later steps, which a run that was killed left
    behind, are taken out."""

    def __init__(self, path: Path, images_per_step: int, step: int):
        self.path, self.images_per_step = path, images_per_step
        self.last_step, self.last_time = step, time.monotonic()
        if path.is_file():
            with atomic(path) as temporary:
                temporary.write_text("".join(_lines_until(step, path)), "utf-8")

    def write(self, step: int, epoch: int, lr: float, losses: Mapping[str, float]) -> dict[str, float]:
        """Append a line; return its figures by the names that a progress line shows."""
        rounded = {name: round(loss, 6) for name, loss in losses.items()}
        now = time.monotonic()
        rate = round((step - self.last_step) * self.images_per_step / (now - self.last_time), 1)
        self.last_step, self.last_time = step, now
        line: dict[str, Any] = {"step": step, "epoch": epoch, "lr": lr, "images_per_s": rate, **rounded}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return {"images/s": rate, **rounded}


def _lines_until(step: int, path: Path) -> list[str]:
    """The lines of the steps up to `step`; one that was cut off in the middle ends them."""
    kept = []
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    return kept
