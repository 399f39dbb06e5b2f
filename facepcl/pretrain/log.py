"""`log.jsonl` of a run: a line every so often, with the losses, the views a second and the MFU, which is the
share of the operations a second that a matrix product reached at the start."""

import json
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from facepcl.errors import require
from facepcl.utils.files import atomic, writing


class Flops:
    """The floating-point operations of a step, counted when one of its kind is first done."""

    def __init__(self) -> None:
        self._of: dict[Hashable, int] = {}
        self.total = 0

    @contextmanager
    def counted(self, kind: Hashable) -> Iterator[bool]:
        """Add the step that is done inside to `total`; steps of a `kind` do as much as its first. Gives
        whether it is that first one: what is compiled cannot be counted."""
        counter = None if kind in self._of else FlopCounterMode(display=False)
        with counter or nullcontext():
            yield counter is not None
        if counter:
            self._of[kind] = counter.get_total_flops()
        self.total += self._of[kind]


class Log:
    """The log of a run that goes on after `step`: lines of later steps, which a run that was killed left
    behind, are taken out. `peak`: the operations a second of which each line says the share; `writer`: what
    takes the same figures for TensorBoard."""

    def __init__(self, path: Path, views_per_step: int, step: int, peak: float, writer: Any = None):
        self.path, self.views_per_step, self.peak, self.writer = path, views_per_step, peak, writer
        self.last_step, self.last_flops, self.last_time = step, 0, time.monotonic()
        if path.is_file():
            with atomic(path) as temporary:
                temporary.write_text("".join(_lines_until(step, path)), "utf-8")

    def write(
        self, step: int, epoch: int, lr: float, losses: Mapping[str, float], flops: int
    ) -> dict[str, float]:
        """Append a line, `flops` counted from the start; return its rates as a progress line names them."""
        # as many digits for a small loss as for a large one; a count stays whole
        rounded = {
            name: loss if isinstance(loss, int) else float(f"{loss:.6g}") for name, loss in losses.items()
        }
        now = time.monotonic()
        seconds = max(now - self.last_time, 1e-9)  # a clock may tick 64 times a second
        rate = round((step - self.last_step) * self.views_per_step / seconds, 1)
        mfu = round((flops - self.last_flops) / seconds / self.peak, 3)
        self.last_step, self.last_flops, self.last_time = step, flops, now
        line = {"epoch": epoch, "lr": lr, "views_per_s": rate, "mfu": mfu, **rounded}
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        if self.writer:
            for name, value in line.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()
        return {"views/s": rate, "mfu": mfu}


def tensorboard_writer(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's events for a run that goes on after `step`. Raises MissingExtra."""
    require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def _lines_until(step: int, path: Path) -> list[str]:
    """The lines of the steps up to `step`; one that was cut off in the middle ends them."""
    kept = []
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    return kept
