"""What is at a path, and which paths match a pattern."""

import glob
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from facepcl.utils.storage import retried


def mode_of(path: str | Path) -> int:
    """What a path is; 0 if there is nothing, or a link to nowhere. Raises RemoteError if its drive fails."""
    try:
        return retried(path, partial(os.stat, path)).st_mode
    except (OSError, ValueError):
        return 0


def expanded(pattern: Path) -> Iterator[Path]:
    """What matches a pattern without **. Not by glob, which leaves out what a drive fails to list."""
    if not glob.has_magic(str(pattern)):
        yield from (pattern,) if mode_of(pattern) else ()
        return
    for folder in filter(lambda path: stat.S_ISDIR(mode_of(path)), expanded(pattern.parent)):
        if not glob.has_magic(pattern.name):
            yield from (folder / pattern.name,) if mode_of(folder / pattern.name) else ()
            continue
        with suppress(PermissionError):
            for name in retried(folder, partial(os.listdir, folder)):
                if fnmatch(name, pattern.name) and (name[0] != "." or pattern.name[0] == "."):
                    yield folder / name


def matches(parts: tuple[str, ...], rule: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern, part by part, ** for any number of folders."""
    if not rule:
        return not parts
    if rule[0] == "**":
        return any(matches(parts[i:], rule[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], rule[0]) and matches(parts[1:], rule[1:])
