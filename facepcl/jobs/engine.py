"""The loop of every job: images in order through a pipeline, their results to a writer, part by part."""

import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import closing
from typing import Any, NamedTuple, Protocol

from facepcl.data.file_types import Selection
from facepcl.data.sources import Entry, Item, read_items
from facepcl.jobs.state import Job
from facepcl.utils.progress import Progress

_logger = logging.getLogger("facepcl")

BYTES_PER_CHUNK = 32 << 20  # of encoded images out of tars: a chunk of large photos ends earlier


class Stream(NamedTuple):
    """Images whose results belong together, from number `start` on."""

    key: Any
    entries: Iterable[Entry]
    start: int = 0


class Pipeline(Protocol):
    """What turns images into results: one for each chunk, in order, whose length is its number of images."""

    @property
    def chunk_size(self) -> int: ...

    def of_chunks(self, pieces: Iterable[list[Item]], workers: int | None) -> Generator[Any, None, None]: ...


class Writer(Protocol):
    """Where results go, `part_images` images at a time."""

    job: Job
    done: int  # images, in parts
    part_images: int
    counts: dict[str, int]  # shown by the progress bar
    resume_option: str  # what continues the job, behind "the same command"

    def streams(self) -> Iterator[Stream]:
        """Yield what is missing, in order."""
        yield Stream(None, self.job.unchanged(self.job.shards()), self.done)

    def take(self, result: Any) -> Any:
        """Return what of a pipeline's result is to be written."""

    def write(self, stream: Stream, parts: Iterator[list[Any]]) -> None:
        """Write a stream's parts as they come."""

    def kept(self) -> str:
        """Say how much is done and where; empty if nothing is."""

    def finish(self) -> None:
        """Complete this process's share of the output."""

    def is_whole(self) -> bool:
        """Whether the output is whole, with the shares of other processes."""
        return True


def run(writer: Writer, pipeline: Pipeline, workers: int | None, bar: Progress) -> tuple[int, float]:
    """Process what is missing and finish the output; return the number of images and the seconds it took.

    Raises whatever reading, processing or writing raises; what is done by then is kept.
    """
    job = writer.job
    loop = _Loop(writer, pipeline, bar, job.selection)
    start = time.monotonic()
    try:
        with bar, closing(pipeline.of_chunks(loop.chunks(), workers)) as results:
            for result in results:
                stream = loop.pending[0]
                writer.write(stream, loop.parts(stream, result, results))
                loop.pending.popleft()
        seconds = time.monotonic() - start
        writer.finish()
    except BaseException:
        if kept := writer.kept():
            _logger.warning("%s; the same command%s continues", kept, writer.resume_option)
        elif job.is_new:
            job.release_when(lambda: True)
        raise
    job.tell_skipped()
    job.release_when(writer.is_whole)
    return bar.new, seconds


class _Loop:
    def __init__(self, writer: Writer, pipeline: Pipeline, bar: Progress, selection: Selection):
        self.writer, self.pipeline, self.bar, self.selection = writer, pipeline, bar, selection
        self.pending: deque[Stream] = deque()  # read from, and not yet written
        self.failure: tuple[Stream, Exception] | None = None

    def chunks(self) -> Iterator[list[Item]]:
        """Yield the chunks of all streams, an empty one at the end of each.

        They are read ahead: what fails then is raised in its turn, after the results before it are written.
        """
        for stream in self.writer.streams():
            self.pending.append(stream)
            try:
                items = read_items(stream.entries, stream.start, self.selection)
                yield from chunks(items, self.pipeline.chunk_size, self.writer.part_images)
            except Exception as error:
                self.failure = stream, error
            yield []
            if self.failure:
                return

    def parts(self, stream: Stream, result: Sized, results: Iterator[Sized]) -> Iterator[list[Any]]:
        """Yield the results of a stream, `part_images` images at a time, from the first `result` on."""
        waiting: list[Any] = []
        images = 0
        while len(result):
            waiting.append(self.writer.take(result))
            images += len(result)
            self.bar.update(len(result), **{name: n for name, n in self.writer.counts.items() if n})
            if images % self.writer.part_images == 0:
                yield waiting
                waiting = []
            result = next(results)
        if self.failure and self.failure[0] is stream:
            raise self.failure[1]
        if waiting:
            yield waiting


def chunks(items: Iterable[Item], size: int, part_images: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items or fewer that depend on their numbers only, never across a multiple of
    `part_images`, so that a resumed job has the same ones."""
    chunk: list[Item] = []
    held = 0
    for number, item in enumerate(items, 1):
        chunk.append(item)
        held += len(item.data or b"")
        if len(chunk) == size or held >= BYTES_PER_CHUNK or number % part_images == 0:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
