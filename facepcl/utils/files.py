"""Files that are whole or not there, their sha256, and folders for one process at a time."""

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from facepcl.errors import OptionError, WriteError

LOCK, LOCK_TRIES = ".lock", 5
FULL = "there is no room left on the disk"
# of a file that is written, for whoever typed the command; other errors may be those of what is read for it
_REASONS = {
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)), FULL),
    errno.EROFS: "the disk is read-only",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "you may not write there"),
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns a disk that is full, and a place that may not be written to, into a WriteError that names
    `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise WriteError(f"{path} could not be written: {_REASONS[error.errno]}") from error


def unwritable_hub_cache(error: BaseException) -> str:
    """What to do if huggingface_hub cannot write to its cache, as without a home; "" for another error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EPERM):
        place = error.filename or "the cache of huggingface_hub"
        return f"{place} cannot be written to; set HF_HOME to a folder that can"
    return ""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` at the end, and vanishes on any error.

    Raises WriteError if there is no room or no right to write.
    """
    with writing(path), _temporary(Path(path)) as temporary:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)


@contextmanager
def atomic_first(path: str | Path) -> Iterator[Path]:
    """As `atomic`, but where another process was first, what it wrote stays."""
    with writing(path), _temporary(Path(path)) as temporary:
        yield temporary
        _to_disk(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not os.path.exists(path):
                os.replace(temporary, path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    # at random, not by process id: on a shared file system other machines have the same ids
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield temporary
    finally:
        with suppress(OSError):  # which would hide the error that matters
            temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until the bytes are on the disk: a name must not outlive a power cut without them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sha256_file(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def alone(folder: Path, refusal: str) -> Iterator[None]:
    """Make `folder` and keep other processes out of it; an empty one goes at the end.

    Raises OptionError with the `refusal` if another process is in it, WriteError if nothing can be written
    there.
    """
    lock = FileLock(folder / LOCK)
    for tries_left in reversed(range(LOCK_TRIES)):
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
            break
        except (Timeout, FileNotFoundError, FileExistsError):
            # another process is in it, or clears it away, or looks whether anybody is
            if not tries_left:
                raise OptionError(refusal) from None
            time.sleep(0.05)
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
