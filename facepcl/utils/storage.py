"""Reads from drives that fail for a while: tried again, then a RemoteError, never a bad image."""

import errno
import io
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

from facepcl.errors import RemoteError, shortened

WAITS = (1.0, 4.0)  # seconds before a read is tried again

# Errors of a drive, a network or this machine, whatever file is read. Not every system knows all of them.
_NAMES = """EIO ESTALE ETIMEDOUT ENOTCONN ENODEV ENXIO ENOMEDIUM EREMOTEIO EREMCHG ENOLINK ECOMM EPROTO
EUCLEAN EBADMSG EHOSTDOWN EHOSTUNREACH ENETDOWN ENETRESET ENETUNREACH ECONNABORTED ECONNREFUSED ECONNRESET
ESHUTDOWN EKEYEXPIRED EKEYREVOKED EAGAIN EBUSY EDEADLK EMFILE ENFILE ENOBUFS ENOMEM"""
_CODES = frozenset(getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name))
_WINDOWS = frozenset([21, 53, 55, 59, 64, 67, 121, 1117, 1167, 1231])  # which have no errno of their own

MISSING = "there is no such file"  # the reason of a row
ALONE = "there is no such file, and none beside it"  # nor was there when a manifest that names it was listed
SHORT = "the drive gives fewer bytes than the file has"  # some give up without an error

Read = TypeVar("Read")


def is_of_storage(error: OSError) -> bool:
    """Whether an error is one of the drive, the network or the machine rather than of one file."""
    return error.errno in _CODES or getattr(error, "winerror", None) in _WINDOWS


def is_temporary(reason: str | None, path: str) -> bool:
    """Whether the image of a row with this reason is worth another try: its file was missing, as on a drive
    that was not mounted, and is there now. Not asked of URLs, nor of names that are not UTF-8."""
    return reason in (MISSING, ALONE) and os.path.exists(path)


def unreadable(path: str | Path, reason: str) -> str:
    """The message about a file whose drive fails."""
    return f"{shortened(path)} cannot be read: {reason}; check the drive or network it is on"


def why_not(error: Exception, damage: str) -> str:
    """Why a tar or video was not read: the file system's reason, or else its `damage`."""
    reason = error.strerror if isinstance(error, OSError) else None
    return f"cannot be read: {reason}" if reason else f"{damage}: {error}"


def retried(path: str | Path, read: Callable[[], Read]) -> Read:
    """`read()`, tried again while the storage of `path` fails. Raises RemoteError if it keeps failing, any
    other OSError at once."""
    for wait in (*WAITS, None):
        try:
            return read()
        except OSError as error:
            if not is_of_storage(error):
                raise
            if wait is None:
                reason = f"{error.strerror or error}, {len(WAITS) + 1} times in a row"
                raise RemoteError(unreadable(path, reason)) from error
            time.sleep(wait)
    raise AssertionError


class RetriedFile(io.RawIOBase):
    """A file to read. Raises RemoteError if its storage keeps failing, any other OSError at once."""

    def __init__(self, path: str):
        self._path, self._place = path, 0
        self._file: io.BufferedIOBase = io.BytesIO()  # for `close`, if there is no file to open
        if not stat.S_ISREG(retried(path, partial(os.stat, path)).st_mode):  # opening a pipe waits for ever
            raise OSError(errno.EINVAL, "it is a folder, pipe or device, not a file", path)
        self._file = retried(path, lambda: open(path, "rb"))  # noqa: SIM115
        self._size = os.fstat(self._file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence] + offset
        if not self._file.closed:  # otherwise it is opened there
            self._file.seek(self._place)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = retried(self._path, partial(self._read, len(buffer)))
        self._place += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        if self._file.closed:  # a stale handle stays stale
            self._file = open(self._path, "rb")  # noqa: SIM115
            self._file.seek(self._place)
        try:
            data = self._file.read(size)
            if size and not data and self._place < self._size:
                raise OSError(errno.EIO, SHORT)
            return data
        except OSError:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()
        super().close()


def open_text(path: str | Path, encoding: str, errors: str = "strict", newline: str | None = None) -> TextIO:
    """A `RetriedFile` as text."""
    buffered = io.BufferedReader(RetriedFile(str(path)))
    return io.TextIOWrapper(buffered, encoding, errors, newline)
