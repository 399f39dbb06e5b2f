"""Memory of `facepcl embed` on 100 and on 10,000 files: the main process and its readers together.

    python benchmarks/memory.py [--dtype auto|float32|bfloat16|int8]

Proportional set size (a page that several processes share counts once), sampled five times a second; the
largest of each job, the median of three jobs. Linux only.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from embed import write_files
from jobs import FACEPCL, run
from machine import describe

FEW, MANY = 100, 10_000


def peak(folder: Path, count: int, dtype: str) -> float:
    """The largest memory while the first `count` files are embedded."""
    manifest = folder / f"{count}.csv"
    manifest.write_text("path\n" + "".join(f"{i:05d}.jpg\n" for i in range(count)))
    command = [*FACEPCL, "embed", manifest, "-o", folder / "e.parquet", "--dtype", dtype]
    return run(command, look=0.2).memory


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
