"""A progress bar on a terminal, plain lines every few seconds elsewhere, nothing unless asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from facepcl.utils.streams import is_terminal, say

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """`with Progress(total, "images", enabled) as bar: bar.update(1, loss=0.3)`; `total` None = unknown."""

    def __init__(self, total: int | None, unit: str, enabled: bool, desc: str = "", initial: int = 0):
        self.total, self.unit, self.desc = total, unit, desc
        self.done = self._initial = initial
        self._fields: dict[str, Any] = {}
        terminal = enabled and is_terminal()
        self._bar = tqdm(total=total, unit=" " + unit, desc=desc, initial=initial) if terminal else None
        self._lines = enabled and not terminal
        self._start = self._last = time.monotonic()

    @property
    def new(self) -> int:
        """How many were counted by `update`."""
        return self.done - self._initial

    def update(self, count: int, **fields: Any) -> None:
        """Count `count` more as done; `fields` are shown behind the count from now on."""
        self.done += count
        self._fields |= fields
        if self._bar is not None:
            if fields:
                self._bar.set_postfix(self._fields, refresh=False)
            self._bar.update(count)
        elif self._lines and time.monotonic() - self._last > SECONDS_BETWEEN_LINES:
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        rate = self.new / max(self._last - self._start, 1e-9)
        of_total = f"/{self.total}" if self.total else ""
        left = f", {(self.total - self.done) / max(rate, 1e-9):.0f} s left" if self.total else ""
        shown = "".join(f", {name} {value}" for name, value in self._fields.items())
        line = f"{self.desc} {self.done}{of_total} {self.unit}, {rate:.3g}/s{left}{shown}"
        say(line.strip())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._lines and self.new:
            self._print()


@contextmanager
def hub_progress_bars(wanted: bool) -> Iterator[None]:
    """Disable huggingface_hub's progress bars unless they are `wanted`, and restore them."""
    from huggingface_hub import utils

    if wanted or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
