"""A folder to work in, for one process at a time."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from facepcl.errors import OptionError
from facepcl.utils.files import writing

LOCK = ".lock"


@contextmanager
def alone(folder: Path, refusal: str) -> Iterator[None]:
    """Make `folder` and keep other processes out of it; an empty one goes at the end.

    Raises OptionError with the `refusal` if another process is in it, WriteError if nothing can be written
    there.
    """
    lock = FileLock(folder / LOCK)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):  # the other one has just finished and cleared its folder away
        raise OptionError(refusal) from None
    try:
        yield
    finally:
        _clear(folder)  # while it is locked: a newcomer finds either this lock or none
        lock.release()
        if os.name == "nt":  # there an open file cannot be deleted
            _clear(folder)


def _clear(folder: Path) -> None:
    with suppress(OSError):  # of a folder that is not empty
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def locked(folder: Path, refusal: str, is_needed: Callable[[], bool]) -> Iterator[None]:
    """`alone` in a `folder` that goes at the end with all that is in it, unless it `is_needed`."""
    with alone(folder, refusal):
        try:
            yield
        finally:
            if not is_needed():
                shutil.rmtree(folder, ignore_errors=True)
