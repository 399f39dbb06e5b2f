"""Sources behind a URL, such as `s3://bucket/shards/`: listed and read by fsspec."""

import glob
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from facepcl.errors import (
    ImageError,
    MissingExtra,
    MissingPath,
    OptionError,
    RemoteError,
    one_line,
    require,
    shortened,
)
from facepcl.utils.storage import WAITS

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # two letters at least: C: is a drive
EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}  # of those protocols for which there is one
CHANGING = ("ETag", "etag", "blob_id", "md5Hash", "md5", "LastModified", "last_modified", "mtime", "created")
# Statuses of HTTP that belong to one file. Not 401, 403 (credentials, signatures that have expired), 408, 425
# and 429 (later).
REFUSED = {*range(400, 500)} - {401, 403, 408, 425, 429}
BLOCK = 8 << 20  # bytes of a shard that are asked for together
# Parameters of a query that give access, and those that are signed with them.
_SECRET = re.compile(
    r"x-(?:amz|goog|oss|cos|obs|tos|bce)-.*|.*signature|.*token|.*secret|.*password|sig|jwt|hdn[a-z]+|auth"
    r"|api[_-]?key",
    re.IGNORECASE,
)
_BESIDE = re.compile(
    r"expires|policy|key-pair-id|.*accesskeyid|googleaccessid|s[eiprtv]|spr|sk[a-z]+", re.IGNORECASE
)
_USER = re.compile(r"^([^/]+://)[^/?#@]*@")


def is_url(path: str) -> bool:
    """Whether `path` is for fsspec: `scheme://...`."""
    return URL.match(path) is not None


def without_secrets(path: str) -> str:
    """A URL without user, password, signature and tokens, as tables hold it. What else its query has may say
    which image it is, and stays. Any other path as it is."""
    if not is_url(path):
        return path
    address, _, query = _USER.sub(r"\1", path).partition("?")
    parts = [(part.partition("=")[0], part) for part in query.split("&")] if query else []
    if any(_SECRET.fullmatch(name) for name, _ in parts):
        parts = [one for one in parts if not (_SECRET.fullmatch(one[0]) or _BESIDE.fullmatch(one[0]))]
    kept = "&".join(part for _, part in parts)
    return f"{address}?{kept}" if kept else address


def list_url(url: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, int]]:
    """URLs and sizes in bytes of the file `url`, or of the wanted ones below a folder or of a glob, in order.

    The order is that of local folders: of each its files by name, then its subfolders. Raises MissingPath,
    MissingExtra, OptionError or RemoteError.
    """
    with _explained(url):
        fs, path = _file_system(url)
        try:
            files = {path: fs.info(path)}
        except FileNotFoundError:
            # of a web address ? begins the query
            if not glob.has_magic(path.partition("?")[0] if url.lower().startswith("http") else path):
                raise
            files, root = fs.glob(path, detail=True), ""
        else:
            if files[path]["type"] != "directory":
                return [(fs.unstrip_protocol(path), _size(files[path]))]
            files, root = fs.find(path, detail=True), path.rstrip("/") + "/"
        names = {name.removeprefix(root): name for name, info in files.items() if info["type"] == "file"}
        shown = (n for n in names if not (root and _is_hidden(n)) and is_wanted(n))
        found = [names[n] for n in sorted(shown, key=_files_first)]
        return [(fs.unstrip_protocol(name), _size(files[name])) for name in found]


def read_url(url: str) -> bytes:
    """The bytes of a file. Raises MissingPath, ImageError with the reason, or RemoteError if the network or
    the server fails again and again, which is nothing to put down to the image."""
    with _explained(url):
        fs, path = _file_system(url)
        for wait in (*WAITS, None):
            try:
                return fs.cat_file(path)
            except (PermissionError, IsADirectoryError) as error:
                raise ImageError(f"cannot be read: {one_line(error)}") from error
            except Exception as error:
                if getattr(error, "status", 0) in REFUSED:
                    raise ImageError(f"cannot be read: {one_line(error)}") from error
                if wait is None or isinstance(error, FileNotFoundError):
                    raise
                time.sleep(wait)
    raise AssertionError


class RemoteFile:
    """The file `url` to be read once, from its start. Raises MissingPath or RemoteError."""

    def __init__(self, url: str):
        self.url = url
        with _explained(url):
            fs, path = _file_system(url)
            self._file = fs.open(path, "rb", block_size=BLOCK)

    def read(self, size: int = -1) -> bytes:
        with _explained(self.url):
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()


def stamp_url(url: str) -> list[Any] | None:
    """Size and what changes with the content of a file, as JSON; None if it is not there."""
    with _explained(url):
        fs, path = _file_system(url)
        try:
            info = fs.info(path)
        except FileNotFoundError:
            return None
    changing = next((info[name] for name in CHANGING if info.get(name)), None)
    return [_size(info), str(changing)]


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0].lower()
    if scheme in EXTRAS:
        require(*EXTRAS[scheme])
    if "::" in url:
        raise OptionError(f"{shortened(url)}: chained URLs are not supported")
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        raise MissingExtra(
            f"{shortened(url)}: {scheme}:// needs a package that is not installed: {error}"
        ) from error
    except ValueError as error:
        raise OptionError(f"{shortened(url)}: {scheme}:// is not a protocol that fsspec supports") from error
    return fs, path


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (MissingExtra, OptionError, ImageError):
        raise
    except FileNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):  # nobody answered
            raise RemoteError(f"{shortened(url)} cannot be read: {one_line(cause)}") from error
        raise MissingPath(f"{shortened(url)}: there is no such file or folder") from None
    except PermissionError as error:
        raise RemoteError(
            f"{shortened(url)}: these credentials do not allow reading it ({one_line(error)})"
        ) from error
    except Exception as error:  # whatever a protocol's package raises
        raise RemoteError(f"{shortened(url)} cannot be read: {one_line(error)}") from error


def _size(info: dict[str, Any]) -> int:
    return int(info.get("size") or 0)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _files_first(name: str) -> list[tuple[bool, str]]:
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]
