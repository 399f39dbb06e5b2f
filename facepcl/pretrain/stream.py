"""Images streamed from `.tar` shards, local or behind URLs, that need not fit into memory.

The shards of an epoch are shuffled and dealt to a fixed number of lanes in turn; the next epoch continues
the dealing. A lane holds the bytes of one shard and reads the next one ahead; worker processes decode its
shuffled images a little ahead of their batch. A batch takes equally many images from each lane. A process
reads the lanes of its slice of the batch and no other shard, so batches do not depend on the world size.
"""

import hashlib
import json
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from facepcl.data.file_types import Selection, is_shard_name
from facepcl.data.label_files import LABEL_SUFFIXES
from facepcl.data.remote import is_url, list_url, without_secrets
from facepcl.data.sources import Entry, Item, list_entries, read_items, stamp
from facepcl.data.workers import Prepared, Readers
from facepcl.errors import DataError, FacepclError, MissingPath, OptionError, RemoteError
from facepcl.images.transform import Transform
from facepcl.pretrain import distributed
from facepcl.pretrain.config import Config
from facepcl.pretrain.label_heads import Outputs
from facepcl.pretrain.rng import permutation
from facepcl.utils.cpus import cores
from facepcl.utils.futures import in_order
from facepcl.utils.launch import local_world_size
from facepcl.utils.storage import WAITS

_logger = logging.getLogger("facepcl")

SHARDS, IMAGES = 4, 5  # numbers of the random streams, after those of the tasks and labels
PIECE = 32  # images decoded together
BATCHES_AHEAD = 2
THREADS = 8  # that read shards
WARNINGS = 3  # about skipped images of a lane; every broken shard gets one


class Listing(NamedTuple):
    """The shards of a run, their sizes in bytes, and an estimate of their number of images."""

    paths: list[str]
    sizes: list[int]
    images: int

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the shards, wherever they are stored."""
        names = [os.path.basename(without_secrets(path)) for path in self.paths]
        named = list(zip(names, self.sizes, strict=True))
        digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()
        return {"count": len(self.paths), "bytes": sum(self.sizes), "sha256": digest}


def _list_shards(sources: Sequence[str]) -> list[tuple[str, int]]:
    """The shards of folders, tars, globs and URLs, with their sizes. Raises OptionError for any other
    file."""
    shards: list[tuple[str, int]] = []
    selection = Selection(labels=LABEL_SUFFIXES)
    for source in sources:
        if is_url(source):
            shards += list_url(source, selection.takes)
        else:
            shards += [(entry.path, _size(entry)) for entry in list_entries([source], selection)]
    selection.tell()
    for path, _ in shards:
        if not is_shard_name(path):
            raise OptionError(
                f"{path}: --stream reads only .tar shards; pack the images, or leave out --stream to load "
                "them all into memory"
            )
    if not shards:
        raise OptionError(f"no .tar shards in {', '.join(sources)}")
    return shards


def _size(entry: Entry) -> int:
    stamped = stamp(entry, Selection())
    if is_shard_name(entry.path) and not stamped:
        raise MissingPath(f"{entry.path}: there is no such .tar shard")
    return stamped[0] if stamped else 0


def survey(sources: Sequence[str], minimum: int, images: int | None) -> Listing:
    """List the shards. Without a known number of `images`, it is extrapolated from the first shard.

    Raises DataError for fewer than `minimum` shards, or if there are no images.
    """
    paths, sizes = map(list, zip(*_list_shards(sources), strict=True))
    if len(paths) < minimum:
        raise DataError(f"--stream {minimum} needs as many shards, and there are {len(paths)}; lower it")
    for path, size in zip(paths, sizes, strict=True):
        if images:
            break
        count = sum(item.error is None for item in read_whole(path))
        images = round(count * sum(sizes) / size) if size else 0
    if not images:
        raise DataError(f"no images to train on in {', '.join(sources)}")
    return Listing(paths, sizes, images)


def read_whole(path: str, stopped: threading.Event | None = None) -> list[Item]:
    """The encoded images of a shard, with an error item where it is truncated.

    Retries a failing server. Raises RemoteError, or CancelledError once `stopped` is set.
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


@dataclass
class Position:
    """Where a lane is: its number of shards before this one, of images in this one, and of skipped images."""

    shard: int = 0
    image: int = 0
    skipped: int = 0


def lane(
    position: Position,
    each: int,
    patience: int,
    load: Callable[[int], Future[list[Item]]],
    decode: Callable[[list[Item]], Future[list[Prepared]]],
) -> Iterator[list[np.ndarray]]:
    """Iterate over one shard after another: each time the next `each` images, uint8 `[S, S, 3]`.

    Args:
        position: Where to start; moves along.
        each: Images of a batch. A smaller rest of a shard is dropped.
        patience: Raise DataError after so many shards in a row with fewer than `each` images.
        load: Gives the images of the lane's k-th shard, shuffled.
        decode: Gives their pixels.
    """
    first = load(position.shard)  # now, so that all lanes load at once
    size, logged = min(PIECE, each), position.skipped

    def pieces() -> Iterator[tuple[int, list[Item]]]:
        """The number of a shard and `size` of its images; at least one piece per shard, even if empty."""
        number, start, loading = position.shard, position.image, first
        while True:
            items = loading.result()
            loading = load(number + 1)
            for begin in range(start, max(len(items), start + 1), size):
                yield number, items[begin : begin + size]
            number, start = number + 1, 0

    def pop(images: deque[Prepared]) -> list[np.ndarray]:
        image = images.popleft()
        position.image += 1
        if image.error:
            position.skipped += 1
            if position.skipped - logged <= WARNINGS or is_shard_name(image.path):
                _logger.warning("skipped %s: %s", image.path, image.error)
        return [] if image.pixels is None else [image.pixels]

    def batches() -> Iterator[list[np.ndarray]]:
        numbers: deque[int] = deque()  # of the shards whose pieces are being decoded

        def submit(piece: tuple[int, list[Item]]) -> Future[list[Prepared]]:
            numbers.append(piece[0])
            return decode(piece[1])

        images: deque[Prepared] = deque()
        limit = position.shard + patience
        for piece in in_order(submit, pieces(), BATCHES_AHEAD * each // size):
            if (shard := numbers.popleft()) != position.shard:
                while images:
                    pop(images)
                position.shard, position.image = shard, 0
            if shard > limit:
                raise DataError(
                    f"{patience} shards in a row held fewer than {each} good images, which each step takes "
                    "of a shard (--batch / --stream); lower --batch, or raise --stream"
                )
            images.extend(piece)
            while sum(image.pixels is not None for image in images) >= each:
                batch: list[np.ndarray] = []
                while len(batch) < each:
                    batch += pop(images)
                yield batch
                limit = position.shard + patience

    return batches()


class Stream:
    """The batches of a run with `--stream`, with the interface of `sampler.InMemory`.

    All tasks of an iteration see the same batch, the pose task a subset of it. Broken images are skipped,
    counted and logged. Raises DataError for too few or too small shards, or for other shards than
    `previous_config` records, and RemoteError if a server keeps failing.
    """

    def __init__(
        self, config: Config, listing: Listing, previous_config: Mapping[str, Any], device: torch.device
    ):
        self.config, self.listing, self.count = config, listing, listing.images
        self.each = config.batch // config.stream
        self._check(previous_config)
        self.place = [[0, 0, 0] for _ in range(config.stream)]
        self.label_outputs: Outputs = {}
        # one is enough for training on a CPU
        default = 1 if device.type == "cpu" else max(1, cores() // local_world_size() - 1)
        self._workers = default if config.workers < 0 else config.workers
        self._step, self._images = -1, torch.empty(0)
        self._lanes: list[tuple[Position, Iterator[list[np.ndarray]]]] = []
        self._open, self._stopped = ExitStack(), threading.Event()
        self._waited, self._since = 0.0, time.monotonic()

    @classmethod
    def of(cls, config: Config, previous_config: Mapping[str, Any], device: torch.device) -> "Stream":
        """List the shards in the first process, for all."""
        listing: Any = None
        if distributed.is_first():
            try:
                listing = survey(config.data, config.stream, previous_config.get("images"))
            except FacepclError as error:
                listing = error
        listing = distributed.broadcast_object(listing)
        if isinstance(listing, FacepclError):
            raise listing
        return cls(config, listing, previous_config, device)

    def _check(self, previous_config: Mapping[str, Any]) -> None:
        shards, facts = len(self.listing.paths), self.listing.facts
        if self.count < self.each * shards:
            raise DataError(
                f"shards of about {self.count // shards} images are too small: each step takes {self.each} "
                "of each that is open (--batch / --stream); lower --batch, or raise --stream"
            )
        previous = previous_config.get("shards", facts)
        if previous != facts:
            then, now = (f"{s.get('count')} shards of {s.get('bytes')} bytes" for s in (previous, facts))
            raise DataError(
                f"{Path(self.config.out)} was started with {then}, but DATA now holds {now}"
                + (" with other names or sizes" if then == now else "")
            )

    def __str__(self) -> str:
        shards = len(self.listing.paths)
        return f"about {self.count} faces in {shards} shards, {self.config.stream} of them open at a time"

    @property
    def facts(self) -> dict[str, Any]:
        return {"images": self.count, "shards": self.listing.facts}

    @property
    def metrics(self) -> dict[str, float]:
        """The fraction of time that this process waited for images since the last call, and the number of
        skipped images in all processes."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)  # a clock may tick 64 times a second
        fraction, self._waited, self._since = self._waited / seconds, 0.0, now
        return {"waited": round(fraction, 3), "skipped": sum(skipped for _, _, skipped in self.place)}

    def batch(self, step: int, stream: int, count: int) -> torch.Tensor:
        if step != self._step:
            start = time.monotonic()
            self._images, self._step = self._next(), step
            self._waited += time.monotonic() - start
        if count == self.config.batch:
            return self._images
        first = distributed.local_slice(self.config.batch).start
        rows = [i * self.config.batch // count - first for i in range(count)[distributed.local_slice(count)]]
        return self._images[rows]

    def _next(self) -> torch.Tensor:
        """This process's slice of the next batch. If one process fails all raise, at the same step, so that
        none waits for another."""
        if not self._lanes:
            self._start()
        images, failure = [], None
        try:
            images = [image for _, batches in self._lanes for image in next(batches)]
        except FacepclError as error:
            failure = error
        rows = [[*astuple(position), failure is not None] for position, _ in self._lanes]
        places = distributed.all_gather(torch.tensor(rows, dtype=torch.long)).tolist()
        if failure:
            raise failure
        if any(has_failed for *_, has_failed in places):
            raise DataError("another process cannot continue; its message has the reason")
        self.place = [place for *place, _ in places]
        return _stack(images)

    def _start(self) -> None:
        numbers = range(self.config.stream)[distributed.local_slice(self.config.stream)]
        self._readers = self._open.enter_context(
            Readers(Transform.square(self.config.source_size), self._workers)
        )
        threads = ThreadPoolExecutor(min(THREADS, len(numbers)), "facepcl-shard")
        self._open.callback(threads.shutdown, cancel_futures=True)
        self._open.callback(self._stopped.set)
        patience = min(100, len(self.listing.paths))

        def load(number: int, k: int) -> Future[list[Item]]:
            return threads.submit(self._read, number, k)

        for number in numbers:
            position = Position(*self.place[number])
            batches = lane(position, self.each, patience, partial(load, number), self._readers.submit)
            self._lanes.append((position, batches))

    def _read(self, number: int, k: int) -> list[Item]:
        """The shuffled images of the k-th shard of lane `number`."""
        epoch, place = divmod(k * self.config.stream + number, len(self.listing.paths))
        shard = int(permutation(len(self.listing.paths), self.config.seed, SHARDS, epoch)[place])
        items = read_whole(self.listing.paths[shard], self._stopped)
        return [items[i] for i in permutation(len(items), self.config.seed, IMAGES, epoch, shard).tolist()]

    def sample(self, limit: int) -> torch.Tensor:
        """About `limit` images, or all, of as many shards as it takes."""
        if not self._lanes:
            self._start()
        images: list[np.ndarray] = []
        for path in self.listing.paths:
            items = read_whole(path, self._stopped)
            items = items[:: max(1, math.ceil(len(items) / (limit - len(images))))]
            pieces = [items[start : start + PIECE] for start in range(0, len(items), PIECE)]
            decoded = in_order(self._readers.submit, pieces, 2 * max(1, self._workers))
            images += [image.pixels for piece in decoded for image in piece if image.pixels is not None]
            if len(images) >= limit / 2:
                break
        if not images:
            raise DataError("no shard has a readable image any more")
        return _stack(images)

    def close(self) -> None:
        self._open.close()


def _stack(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
