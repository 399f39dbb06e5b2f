"""Images that memory does not hold: `.tar` shards, here or behind a URL, a few of which are open at a time.

The shards of an epoch are shuffled and dealt to so many lanes in turn; at the end of an epoch the dealing
goes on with the next. A lane holds a shard as it lies on disk, and has the next one read meanwhile; its
images are shuffled, and decoded a little ahead of their batch by processes that are watched. A batch takes
as many images of each lane, and a process has the lanes of which its samples are: it reads no other shard,
and batches are the same whatever the number of processes.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facepcl.data.sources import Item, is_shard_name
from facepcl.data.workers import Prepared, Readers
from facepcl.errors import DataError, FacepclError
from facepcl.images.transform import Fit
from facepcl.pretrain import distributed
from facepcl.pretrain.config import Config
from facepcl.pretrain.label_heads import Outputs
from facepcl.pretrain.listing import Listing, read_whole, survey
from facepcl.pretrain.sampler import permutation
from facepcl.utils.device import cores
from facepcl.utils.futures import in_order

_logger = logging.getLogger("facepcl")

SHARDS, IMAGES = 4, 5  # streams of chance, besides those of the sub-steps
PIECE = 32  # images that are decoded together
BATCHES_AHEAD = 2
THREADS = 8  # that read shards
NAMED = 3  # of the images that a lane skips; of broken shards all are


@dataclass
class Place:
    """Where a lane is: in its which shard, at its which image, and how often it passed one that is broken."""

    shard: int = 0
    image: int = 0
    skipped: int = 0


class Lane:
    """The images of one shard after another from `place` on, `each` at a time.

    `load(k)` gives the images of the lane's k-th shard in the order in which they are seen, and `decode`
    their pixels; a rest of a shard that is smaller than `each` is left out. Raises DataError after `patience`
    shards in a row with none but a rest.
    """

    def __init__(
        self,
        place: Place,
        each: int,
        patience: int,
        load: Callable[[int], Future[list[Item]]],
        decode: Callable[[list[Item]], Future[list[Prepared]]],
    ):
        self.place, self.each, self.patience = place, each, patience
        self._load, self._decode = load, decode
        self._held: deque[Prepared] = deque()
        self._asked: deque[int] = deque()  # of which shard the pieces are that are being decoded
        piece = min(PIECE, each)
        pieces = self._cut(place.shard, place.image, piece, load(place.shard))
        self._decoded = in_order(self._submit, pieces, BATCHES_AHEAD * each // piece)
        self._named = 0

    def take(self) -> list[np.ndarray]:
        """The next `each` images, uint8 `[S, S, 3]`."""
        limit = self.place.shard + self.patience
        while sum(image.pixels is not None for image in self._held) < self.each:
            images, shard = next(self._decoded), self._asked.popleft()
            if shard != self.place.shard:
                while self._held:
                    self._pass()
                self.place.shard, self.place.image = shard, 0
            if shard > limit:
                raise DataError(
                    f"{self.patience} shards in a row held fewer than {self.each} good images, which each "
                    "step takes of a shard (--batch / --stream); lower --batch, or raise --stream"
                )
            self._held.extend(images)
        taken: list[np.ndarray] = []
        while len(taken) < self.each:
            pixels = self._pass()
            if pixels is not None:
                taken.append(pixels)
        return taken

    def _pass(self) -> np.ndarray | None:
        image = self._held.popleft()
        self.place.image += 1
        if image.error:
            self.place.skipped += 1
            self._named += 1
            if self._named <= NAMED or is_shard_name(image.path):
                _logger.warning("skipped %s: %s", image.path, image.error)
        return image.pixels

    def _cut(
        self, number: int, first: int, size: int, coming: Future[list[Item]]
    ) -> Iterator[tuple[int, list[Item]]]:
        """Pieces of the lane's shards, with the number of the shard, of which each has one at least."""
        while True:
            items = coming.result()
            coming = self._load(number + 1)
            for start in range(first, max(len(items), first + 1), size):
                yield number, items[start : start + size]
            number, first = number + 1, 0

    def _submit(self, piece: tuple[int, list[Item]]) -> Future[list[Prepared]]:
        self._asked.append(piece[0])
        return self._decode(piece[1])


class Stream:
    """The images of a run with `--stream`, as `sampler.Source` says; one batch serves all sub-steps of an
    iteration, the pose sub-step a part of it.

    What is broken is skipped, counted and named. Raises DataError for shards that are too few or too small,
    or others than those that the run was `begun` with, RemoteError if a server fails again and again.
    """

    def __init__(self, config: Config, listing: Listing, begun: Mapping[str, Any], device: torch.device):
        self.config, self.listing, self.count = config, listing, listing.images
        self.each = config.batch // config.stream
        self._check(begun)
        self.place = [[0, 0, 0] for _ in range(config.stream)]
        self.label_outputs: Outputs = {}
        self._workers = config.workers or default_workers(device)
        self._step, self._images = -1, torch.empty(0)
        self._lanes: list[Lane] = []
        self._open, self._stopped = ExitStack(), threading.Event()
        self._waited, self._since = 0.0, time.monotonic()

    @classmethod
    def of(cls, config: Config, begun: Mapping[str, Any], device: torch.device) -> "Stream":
        """Of the shards that the first process lists, for all."""
        found: Any = None
        if distributed.is_first():
            try:
                found = survey(config.data, config.stream, begun.get("images"))
            except FacepclError as error:
                found = error
        found = distributed.from_first(found)
        if isinstance(found, FacepclError):
            raise found
        return cls(config, found, begun, device)

    def _check(self, begun: Mapping[str, Any]) -> None:
        paths, out = self.listing.paths, Path(self.config.out)
        if self.count < self.each * len(paths):
            raise DataError(
                f"shards of about {self.count // len(paths)} images are too small: each step takes "
                f"{self.each} of each that is open (--batch / --stream); lower --batch, or raise --stream"
            )
        was, now = begun.get("shards", self.listing.facts), self.listing.facts
        if was != now:
            begun_with, found = (f"{s['count']:,} shards of {s['bytes']:,} bytes" for s in (was, now))
            raise DataError(
                f"{out} was begun with {begun_with}, and DATA now holds {found}"
                + (" with other names or sizes" if begun_with == found else "")
            )

    def __str__(self) -> str:
        shards = len(self.listing.paths)
        return f"about {self.count} faces in {shards} shards, {self.config.stream} of them open at a time"

    @property
    def facts(self) -> dict[str, Any]:
        return {"images": self.count, "shards": self.listing.facts}

    @property
    def figures(self) -> dict[str, float]:
        """The part of the time since they were last asked for in which this process waited for images, and
        how often any process has skipped one."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)  # a clock may tick 64 times a second
        share, self._waited, self._since = self._waited / seconds, 0.0, now
        return {"waited": round(share, 3), "skipped": sum(skipped for _, _, skipped in self.place)}

    def go_on(self, place: list[list[int]]) -> None:
        self.place = place

    def batch(self, step: int, stream: int, count: int) -> torch.Tensor:
        if step != self._step:
            began = time.monotonic()
            self._images, self._step = self._next(), step
            self._waited += time.monotonic() - began
        if count == self.config.batch:
            return self._images
        first = distributed.part(self.config.batch).start
        rows = [i * self.config.batch // count - first for i in range(count)[distributed.part(count)]]
        return self._images[rows]

    def _next(self) -> torch.Tensor:
        """This process's part of the batch that comes; all have come here, and all end where one cannot go
        on: with the same step done, and none of them waiting for another."""
        if not self._lanes:
            self._start()
        images, failed = [], None
        try:
            images = [image for lane in self._lanes for image in lane.take()]
        except FacepclError as error:
            failed = error
        rows = [[*astuple(lane.place), failed is not None] for lane in self._lanes]
        places = distributed.gather(torch.tensor(rows, dtype=torch.long)).tolist()
        if failed:
            raise failed
        if any(is_lost for *_, is_lost in places):
            raise DataError("another process cannot go on, and says why")
        self.place = [place for *place, _ in places]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _start(self) -> None:
        own = range(self.config.stream)[distributed.part(self.config.stream)]
        self._readers = self._open.enter_context(Readers(Fit.square(self.config.source_size), self._workers))
        threads = ThreadPoolExecutor(min(THREADS, len(own)), "facepcl-shard")
        self._open.callback(threads.shutdown, cancel_futures=True)
        self._open.callback(self._stopped.set)
        patience = min(100, len(self.listing.paths))

        def lane(number: int) -> Lane:
            def load(k: int) -> Future[list[Item]]:
                return threads.submit(self._dealt, k * self.config.stream + number)

            return Lane(Place(*self.place[number]), self.each, patience, load, self._readers.submit)

        self._lanes = [lane(number) for number in own]

    def _dealt(self, number: int) -> list[Item]:
        """The images of the shard that is dealt as the `number`-th of all, in the order of its epoch."""
        epoch, place = divmod(number, len(self.listing.paths))
        shard = int(permutation(len(self.listing.paths), self.config.seed, SHARDS, epoch)[place])
        items = read_whole(self.listing.paths[shard], self._stopped)
        return [items[i] for i in permutation(len(items), self.config.seed, IMAGES, epoch, shard).tolist()]

    def sample(self, limit: int) -> torch.Tensor:
        """About `limit` images of the first shard that has any, whatever was seen of it."""
        if not self._lanes:
            self._start()
        for path in self.listing.paths:
            items = read_whole(path, self._stopped)
            items = items[:: max(1, len(items) // limit)]
            pieces = [items[start : start + PIECE] for start in range(0, len(items), PIECE)]
            decoded = in_order(self._readers.submit, pieces, 2 * self._workers)
            images = [image.pixels for some in decoded for image in some if image.pixels is not None]
            if images:
                return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        raise DataError("no shard holds an image any more")

    def close(self) -> None:
        self._open.close()


def default_workers(device: torch.device) -> int:
    """Processes that decode for one that trains: a CPU that trains is slower than one of them."""
    own = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return 1 if device.type == "cpu" else max(1, own - 1)
