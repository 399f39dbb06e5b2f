"""A folder to work in, for one process at a time."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from facepcl._files import writing
from facepcl.errors import OptionError

_logger = logging.getLogger("facepcl")

LOCK = "lock"


@contextmanager
def locked(folder: Path, refusal: str, is_needed: Callable[[], bool]) -> Iterator[None]:
    """Work in `folder`, which goes at the end unless it `is_needed`. Raises OptionError with the `refusal` if
    another process works there, WriteError if nothing can be written there."""
    lock = FileLock(folder / LOCK)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):  # the other one has just finished and cleared its folder away
        raise OptionError(refusal) from None
    except NotImplementedError:
        _logger.warning("%s: this file system has no locks; see to it that no job runs twice", folder)
    try:
        yield
    finally:
        needed = is_needed()
        if not needed:
            # while it is locked: a newcomer finds either this lock or no folder
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        if os.name == "nt" and not needed:  # there an open file cannot be deleted
            with suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()
