"""Standard streams that are missing, closed or in another encoding."""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper


def repair_streams() -> None:
    """Give this process the standard streams that it was started without, and let them take any text.

    Without stderr (`2>&-`, a service, pythonw) the next file that is opened gets its number, and whatever a
    codec prints is written into that file. For processes of our own; a library leaves them alone.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print a line to stderr. A stderr that is missing, closed or on a full disk ends no job."""
    if sys.stderr is not None:  # print() would take stdout in its place
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Whether somebody watches stderr."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, it is closed, or a program's own object
        return False


def drop_unwritten_output() -> None:
    """Forget what stdout no longer takes, or Python would complain about it when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
