"""Whether an image is missing because its source is gone, as with a drive that was unmounted."""

import glob
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from facepcl.data.file_types import is_manifest_name
from facepcl.data.remote import is_url
from facepcl.errors import RemoteError
from facepcl.utils.storage import retried, unreadable


def check_there(sources: Iterable[str], path: str) -> None:
    """Raise RemoteError if an image that was listed is missing because one of the `sources` is gone, or has
    nothing in it any more, as when a drive is unmounted; so if the folder of an image is that only manifests
    name."""
    local = [source for source in sources if not is_url(source)]
    manifests = [source for source in local if is_manifest_name(source) and not os.path.isdir(source)]
    folders = {source: _folder_of(source, path) for source in local if source not in manifests}
    around = [source for source, folder in folders.items() if Path(path).is_relative_to(folder)]
    gone = [source for source in around if _has_vanished(folders[source], path)]
    gone += [source for source in manifests if not os.path.exists(source)]
    is_local = not is_url(path) and "\\x" not in path  # tables hold another form of names that are not UTF-8
    if manifests and not around and is_local and is_gone(parent := os.path.dirname(path) or "."):
        gone.append(parent)
    if gone:
        raise RemoteError(unreadable(gone[0], "all that was listed there has vanished"))


def _folder_of(source: str, path: str) -> Path:
    """The folder that all files of a source are in; the source itself if it is the file `path`."""
    folder = Path(source)
    while folder != Path(path) and glob.has_magic(str(folder)) and not os.path.lexists(folder):
        folder = folder.parent
    return folder


def _has_vanished(folder: Path, path: str) -> bool:
    if folder == Path(path):  # this one file may have been deleted
        return not folder.parent.exists()
    return is_gone(folder)


def is_gone(folder: str | Path) -> bool:
    """Whether a folder is not there or has nothing in it, as one that a drive was mounted to."""
    try:
        with retried(folder, partial(os.scandir, folder)) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # such as a tar: what it is can be seen, so it is there
        return False
