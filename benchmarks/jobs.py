"""What whole commands take: wall and CPU seconds, and the largest memory of all their processes."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Thread
from typing import NamedTuple

FACEPCL = (sys.executable, "-m", "facepcl")


class Spent(NamedTuple):
    """What a job took: seconds on the clock and of the processor, and at most so many MB (0: not looked)."""

    wall: float
    cpu: float
    memory: float


def run(*commands: Sequence[object], look: float = 0, own_core: bool = False) -> Spent:
    """What commands take that run at the same time, until the last has ended. Linux only.

    `look`: every so many seconds at their memory; a look costs 10 to 20 ms of the processor a process, so
    none where time is what counts. `own_core`: one thread each, the first on the first core, and so on.
    Ends this program with the last words of a command that fails.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with TemporaryFile("w+") as words:
        jobs = [_start(command, words, n if own_core else None) for n, command in enumerate(commands)]
        largest, ended = [0.0], Event()
        watch = Thread(target=_watch, args=([job.pid for job in jobs], look, largest, ended))
        if look:
            watch.start()
        codes = [job.wait() for job in jobs]
        wall = time.perf_counter() - start
        ended.set()
        if look:
            watch.join()
        if any(codes):
            words.seek(0)
            sys.exit(f"{commands} ended with {codes}: {words.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(wall, cpu, largest[0])


def _start(command: Sequence[object], words: object, core: int | None) -> subprocess.Popen:
    cores = os.sched_getaffinity(0)
    environment = os.environ if core is None else {**os.environ, "OMP_NUM_THREADS": "1"}
    if core is not None:
        os.sched_setaffinity(0, {sorted(cores)[core % len(cores)]})  # what is started inherits it
    try:
        return subprocess.Popen(
            list(map(str, command)), stdout=words, stderr=subprocess.STDOUT, env=environment
        )
    finally:
        os.sched_setaffinity(0, cores)


def _watch(pids: Sequence[int], look: float, largest: list[float], ended: Event) -> None:
    while not ended.wait(look):
        largest[0] = max(largest[0], sum(map(memory, pids)))


def memory(pid: int) -> float:
    """MB of a process and all below it, proportional set size: a page that several share counts once."""
    total = 0
    with suppress(OSError, StopIteration):  # a process has just ended
        for one in tree(pid):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = [
        child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [pid] + [p for child in children for p in tree(int(child))]
