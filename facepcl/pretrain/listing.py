"""The shards of a run with `--stream`: their listing, about how many images they hold, and what is in one."""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from facepcl.data.remote import WAITS, is_url, list_url
from facepcl.data.sources import Entry, Item, is_image_name, is_shard_name, list_entries, read_items, stamp
from facepcl.errors import DataError, MissingPath, OptionError, RemoteError


class Listing(NamedTuple):
    """The shards of a run, their sizes in bytes, and about how many images they hold."""

    paths: list[str]
    sizes: list[int]
    images: int

    @property
    def facts(self) -> dict[str, Any]:
        """By what the same shards are known again, wherever they lie."""
        named = [[os.path.basename(path), size] for path, size in zip(self.paths, self.sizes, strict=True)]
        digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()
        return {"count": len(self.paths), "bytes": sum(self.sizes), "sha256": digest}


def list_shards(sources: Sequence[str]) -> list[tuple[str, int]]:
    """The shards of folders, tars, globs and URLs in order, with their sizes in bytes. Raises OptionError for
    anything else that is there."""
    found: list[tuple[str, int]] = []
    for source in sources:
        if is_url(source):
            found += list_url(source, lambda name: is_image_name(name) or is_shard_name(name))
        else:
            found += [(entry.path, _size(entry)) for entry in list_entries([source])]
    for path, _ in found:
        if not is_shard_name(path):
            raise OptionError(
                f"{path}: --stream reads .tar shards alone; pack the images, or leave out --stream to have "
                "them all in memory"
            )
    if not found:
        raise OptionError(f"no .tar shards in {', '.join(sources)}")
    return found


def _size(entry: Entry) -> int:
    stamped = stamp(entry)
    if is_shard_name(entry.path) and not stamped:
        raise MissingPath(f"{entry.path}: there is no such .tar shard")
    return stamped[0] if stamped else 0


def survey(sources: Sequence[str], least: int, known: int | None) -> Listing:
    """What is behind `sources`; the images are those that are `known`, or as many a byte as in the first
    shard. Raises DataError for fewer than `least` shards, or if there are no images."""
    paths, sizes = map(list, zip(*list_shards(sources), strict=True))
    if len(paths) < least:
        raise DataError(f"{len(paths)} shards are fewer than --stream {least}; lower it")
    for path, size in zip(paths, sizes, strict=True):
        if known:
            break
        count = sum(item.error is None for item in read_whole(path))
        known = round(count * sum(sizes) / size) if size else 0
    if not known:
        raise DataError(f"no images to train on in {', '.join(sources)}")
    return Listing(paths, sizes, known)


def read_whole(path: str, stopped: threading.Event | None = None) -> list[Item]:
    """The images of a shard as they lie on disk, and of one that breaks off an item that says so.

    A server that fails is asked three times. Raises RemoteError, or CancelledError once it is `stopped`.
    """
    stopped = stopped or threading.Event()
    for wait in (*WAITS, None):
        items: list[Item] = []
        try:
            for item in read_items([Entry(path)]):
                if stopped.is_set():
                    raise CancelledError
                items.append(item)
            return items
        except RemoteError:
            if wait is None or stopped.wait(wait):
                raise
    raise AssertionError
