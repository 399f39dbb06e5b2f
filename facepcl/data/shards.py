"""A listing cut into shards: the pieces of a job that are done or not done."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from facepcl.data.remote import is_url, stamp_url
from facepcl.data.sources import SHARD_SUFFIXES, Entry, is_shard_name
from facepcl.errors import TableError

FILES_A_SHARD = 8192  # of loose images: 64 MB of vectors
LONGEST_NAME = 80


class Shard(NamedTuple):
    """Number `number` of a listing: a tar, or a group of files; each with the stamp it was listed with."""

    number: int
    listed: list[tuple[str, str | None, Any]]

    @property
    def table(self) -> str:
        """The name of its table; sorted, these names are the order of the listing."""
        (path, error, _), *others = self.listed
        name = "files" if others or error or not is_shard_name(path) else os.path.basename(path)
        for suffix in SHARD_SUFFIXES:
            name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:LONGEST_NAME]
        return f"{self.number:08d}-{name}.parquet"

    def to_line(self) -> str:
        return json.dumps(self.listed)

    @classmethod
    def from_line(cls, number: int, line: str) -> "Shard":
        return cls(number, json.loads(line))


def cut(entries: Iterable[Entry]) -> Iterator[Shard]:
    """The shards of a listing, in its order."""
    number = 0
    files: list[Entry] = []
    for entry in entries:
        is_tar = is_shard_name(entry.path) and not entry.error
        if files and (is_tar or len(files) == FILES_A_SHARD):
            yield Shard(number, [(*file, None) for file in files])
            number, files = number + 1, []
        if is_tar:
            yield Shard(number, [(*entry, stamp(entry))])
            number += 1
        else:
            files.append(entry)
    if files:
        yield Shard(number, [(*file, None) for file in files])


def stamp(entry: Entry) -> Any:
    """Size and time of a tar, as JSON: its images are found again by their number in it."""
    if entry.error or not is_shard_name(entry.path):
        return None
    if is_url(entry.path):
        return stamp_url(entry.path)
    with suppress(OSError):
        status = os.stat(entry.path)
        return [status.st_size, status.st_mtime_ns]
    return None


def unchanged(listed: Iterable[tuple[str, str | None, Any]], out: Path, work: Path) -> Iterator[Entry]:
    """What was listed. Raises TableError for a tar that has another stamp now."""
    for path, error, then in listed:
        entry = Entry(path, error)
        if then != stamp(entry):
            raise TableError(
                f"{path} has changed since the work on {out} began; delete {work} to begin again"
            )
        yield entry
