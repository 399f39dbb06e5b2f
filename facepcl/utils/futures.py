"""Futures that are submitted ahead, with results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_order(submit: Callable[[Given], Future[Made]], work: Iterable[Given], ahead: int) -> Iterator[Made]:
    """Results in the order of `work`, of which at most `ahead` pieces wait, so that memory does not grow.

    What fails in `work` itself is raised after the results before it.
    """
    with closing(futures_in_order(submit, work, ahead)) as futures:
        for future in futures:
            yield future.result()


def futures_in_order(
    submit: Callable[[Given], Future[Made]], work: Iterable[Given], ahead: int
) -> Generator[Future[Made], None, None]:
    """As `in_order`, the futures, of which some may have failed."""
    waiting: deque[Future[Made]] = deque()
    failure: Exception | None = None
    pieces = iter(work)
    try:
        while failure is None:
            try:
                piece = next(pieces)
            except StopIteration:
                break
            except Exception as error:
                failure = error
            else:
                waiting.append(submit(piece))
                if len(waiting) > ahead:
                    yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
        if failure:
            raise failure
    finally:
        for future in waiting:  # after Ctrl-C nothing that waits is started
            future.cancel()


def side_by_side(streams: Iterable[Iterator[Made]], count: int) -> Iterator[Made]:
    """What the streams give, each in its order. So many threads read twice as many streams, each one piece
    ahead; a stream is begun where another has ended."""
    unread = iter(streams)
    with ThreadPoolExecutor(count) as threads:
        waiting: deque[tuple[Iterator[Made], Future[Made | None]]] = deque()

        def ask(some: Iterable[Iterator[Made]]) -> None:
            waiting.extend((stream, threads.submit(next, stream, None)) for stream in some)

        ask(islice(unread, 2 * count))
        try:
            while waiting:
                stream, future = waiting.popleft()
                if (piece := future.result()) is None:
                    ask(islice(unread, 1))
                else:
                    ask([stream])
                    yield piece
        finally:
            for _, future in waiting:
                future.cancel()
