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
    nothing in it any more, as when a drive is unmounted."""
    for source in sources:
        if not is_url(source) and _has_vanished(source, path):
            raise RemoteError(unreadable(source, "all that was listed there has vanished"))


def _has_vanished(source: str, path: str) -> bool:
    if is_manifest_name(source):
        return not os.path.exists(source)
    folder = Path(source)
    if folder == Path(path):  # this one file may have been deleted
        return not folder.parent.exists()
    while glob.has_magic(str(folder)) and not os.path.lexists(folder):
        folder = folder.parent
    if not Path(path).is_relative_to(folder):
        return False
    try:
        with retried(folder, partial(os.scandir, folder)) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:  # a tar, or a folder that may not be listed: what it is can be seen, so it is there
        return False
