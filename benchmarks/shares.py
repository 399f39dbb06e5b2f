"""Tar shards embedded by one process and by several of torchrun on this machine: images/s without start-up.

    python benchmarks/shares.py [--processes 1 2] [--runs 3]

Wall time, so it wants a quiet machine; the difference of a long and a short job is free of start-up.
"""

import argparse
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from embed import write_files
from jobs import run
from machine import describe

IMAGES_A_SHARD = 512


def write_shards(folder: Path, count: int) -> list[Path]:
    """`count` tars of JPEG files of 250 px."""
    (folder / "files").mkdir()
    files = write_files(folder / "files", IMAGES_A_SHARD)
    shards = [folder / f"{number:04d}.tar" for number in range(count)]
    for shard in shards:
        with tarfile.open(shard, "w") as tar:
            for file in files:
                tar.add(file, file.name)
    return shards


def seconds(shards: list[Path], out: Path, processes: int, dtype: str) -> float:
    """Wall time of a whole job."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes]
    spent = run([*torchrun, "-m", "facepcl", "embed", *shards, "-o", out, "--dtype", dtype])
    shutil.rmtree(out)
    return spent.wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shards", type=int, nargs=2, default=[4, 20], metavar=("SHORT", "LONG"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    short, long = args.shards
    print(describe(), "\n")
    print(f"Best of {args.runs} runs of {short} and of {long} shards of {IMAGES_A_SHARD} images\n")
    print("| processes | images/s | ratio |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        shards = write_shards(Path(temporary), long)
        first = 0.0
        for processes in args.processes:
            times = [
                min(
                    seconds(shards[:count], Path(temporary, "out"), processes, args.dtype)
                    for _ in range(args.runs)
                )
                for count in (short, long)
            ]
            rate = (long - short) * IMAGES_A_SHARD / (times[1] - times[0])
            first = first or rate
            print(f"| {processes} | {rate:.0f} | {rate / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
