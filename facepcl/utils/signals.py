"""Ctrl-C and SIGTERM as a question: long loops end between two steps, where everything is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The end of a run that was asked to stop: what was saved, and the signal that asked."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


@contextmanager
def until_interrupted() -> Iterator[Callable[[], int]]:
    """Yields a function that tells which signal asked to stop: 0, SIGINT (Ctrl-C) or SIGTERM.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread, where Python takes no signals,
    the answer is always 0.
    """
    asked = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = asked or number

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            if handler is not None:  # a handler of a program written in C, which cannot be restored
                signal.signal(number, handler)
