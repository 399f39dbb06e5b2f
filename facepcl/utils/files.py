"""Files that are whole or not there, their sha256, and folders for one process at a time."""

import errno
import glob
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from facepcl.errors import MissingPath, OptionError, WriteError

LOCK, SOFT_LOCK, LOCK_TRIES = ".lock", ".soft-lock", 5
NAME_BYTES = 255  # of a file name, on almost all file systems
SHOWN = 24  # letters of a name that a temporary one repeats, of up to four bytes
# by file systems that have no locks, or cannot wait for the disk
_UNSUPPORTED = {getattr(errno, n, 0) for n in ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")}
FULL = "there is no room left on the disk"
# of a file that is written, for whoever typed the command; other errors may be those of what is read for it
_REASONS = {
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)), FULL),
    errno.EROFS: "the disk is read-only",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "permission denied"),
    errno.ENAMETOOLONG: "the file system allows no path of this length",
    errno.ENOTDIR: "a folder in its path is a file",
}


def as_path(value: Any, name: str) -> Path:
    """The argument `name` as a path. Raises OptionError for what is none."""
    if not isinstance(value, (str, os.PathLike)) or value == "":
        raise OptionError(
            f"{name} must be a path, not {type(value).__name__ if value != '' else 'an empty string'}"
        )
    return Path(value)


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


def check_file(path: Path) -> None:
    """Raise OptionError, MissingPath or WriteError if no file can be written at `path`: before the work."""
    with writing(path):
        if _exists(path) and path.is_dir():
            raise OptionError(f"{path} is a folder; name a file")
        if not path.absolute().parent.is_dir():
            raise MissingPath(f"{path.absolute().parent}: there is no such folder to write to")
        with _temporary(path) as temporary:
            temporary.touch()


def check_exists(path: str | Path) -> None:
    """Raise MissingPath unless there is a file at `path`."""
    if not Path(path).is_file():
        raise MissingPath(f"{path}: there is no such file")


def check_outside(path: str | Path, sources: Sequence[str]) -> None:
    """Raise OptionError if the output `path`, a picture or a folder of them, is in a folder of the
    `sources`."""
    real = Path(os.path.realpath(path))
    for source in sources:
        if os.path.isdir(source) and real.is_relative_to(os.path.realpath(source)):
            raise OptionError(
                f"{path} is inside {source} and would be read with its images; choose another place"
            )


def check_folder(folder: Path) -> None:
    """Raise OptionError or WriteError if `folder` cannot be created or written to: before the work."""
    with writing(folder):
        _exists(folder)
        there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not there.is_dir():
            raise OptionError(f"{there} is a file, not a folder; choose another name for {folder}")
        with _temporary(there / (folder.name or "root")) as temporary:
            temporary.touch()


def _exists(path: Path) -> bool:
    """As `path.exists()`, but an OSError for a path that the file system does not allow."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def allocate(path: Path) -> None:
    """Take the room of a sparse file on the disk now: of a file in memory, a page that finds none later ends
    the process with a signal. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` at the end, and vanishes on any error.

    Raises WriteError if there is no room or no right to write.
    """
    with writing(path), _temporary(Path(path)) as temporary:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")


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


def beside(path: Path, suffix: str) -> Path:
    """`path` with `suffix` behind its name; of a name that would become too long, its start and a hash."""
    name = path.name + suffix
    if len(os.fsencode(name)) > NAME_BYTES:
        name = f"{_short(path)}{suffix}"
    return path.with_name(name)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, as long as file systems allow whatever `path` is called."""
    # at random, not by process id: on a shared file system other machines and containers have the same ids
    path = path if path.name else path.absolute()  # the working folder, "."
    return path.with_name(f".{_short(path)}.{secrets.token_hex(4)}.partial")


def remove_temporaries(path: Path) -> None:
    """Delete what killed processes left of `path`; only for a process that alone may write it."""
    for left in path.parent.glob(f".{glob.escape(_short(path))}.*.partial"):
        delete(left)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it can be deleted."""
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _short(path: Path) -> str:
    return f"{path.name[:SHOWN]}.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}"


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = temporary_name(path)
    try:
        yield temporary
    finally:
        with suppress(OSError):  # which would hide the error that matters
            temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until the bytes are on the disk: a name must not outlive a power cut without them."""
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _UNSUPPORTED:  # as some mounted drives say
                raise


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
    for tries_left in reversed(range(LOCK_TRIES)):
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = _lock(folder)
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
        if os.name == "nt" or isinstance(lock, SoftFileLock):  # a file of the lock was left in the folder
            _clear(folder)


def _lock(folder: Path) -> BaseFileLock:
    """The lock of a folder, acquired. Raises Timeout if another process has it."""
    lock: BaseFileLock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # Timeout has none
            raise
        lock = SoftFileLock(folder / SOFT_LOCK)  # as on NFS without its lock server
        lock.acquire(timeout=0)
    return lock


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
