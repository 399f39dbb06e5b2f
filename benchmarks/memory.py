"""Memory of `facepcl embed` on 100 and on 10,000 files: the main process and its readers together.

    python benchmarks/memory.py [--dtype auto|float32|bfloat16|int8]

Proportional set size (a page that several processes share counts once), sampled five times a second; the
largest of each job, the median of three jobs. Linux only.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from embed import write_files
from machine import describe

FEW, MANY = 100, 10_000


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid] + [p for child in children.read_text().split() for p in tree(int(child))]


def memory(pid: int) -> float:
    """MB of a process and all below it."""
    total = 0
    for one in tree(pid):
        lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def largest_memory(*arguments: str) -> float:
    """The largest memory in MB of a `facepcl` command and all it starts, looked at five times a second."""
    command = [sys.executable, "-m", "facepcl", *arguments]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    largest = 0.0
    while job.poll() is None:
        with suppress(OSError, StopIteration):  # a process has just ended
            largest = max(largest, memory(job.pid))
        time.sleep(0.2)
    if job.returncode:
        sys.exit(f"facepcl {' '.join(arguments)} ended with {job.returncode}")
    return largest


def peak(folder: Path, count: int, dtype: str) -> float:
    """The largest memory while the first `count` files are embedded."""
    manifest = folder / f"{count}.csv"
    manifest.write_text("path\n" + "".join(f"{i:05d}.jpg\n" for i in range(count)))
    return largest_memory("embed", str(manifest), "-o", str(folder / "e.parquet"), "--dtype", dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtype", default="auto")
    dtype = parser.parse_args().dtype
    print(describe(), f"{len(os.sched_getaffinity(0))} cores\n")
    with tempfile.TemporaryDirectory() as temporary:
        write_files(Path(temporary), MANY)
        peaks = [[peak(Path(temporary), count, dtype) for count in (FEW, MANY)] for _ in range(3)]
    few, many = (statistics.median(some) for some in zip(*peaks, strict=True))
    print(f"{FEW} files {few:.0f} MB, {MANY:,} files {many:.0f} MB: {many - few:.0f} MB more")


if __name__ == "__main__":
    main()
