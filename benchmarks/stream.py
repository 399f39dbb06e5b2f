"""Images of `facepcl pretrain --stream` without the training: how fast they come, and what memory they take.

    python benchmarks/stream.py shards/*.tar [--workers 1 2] [--steps 100]

`all in memory` is the same without --stream; each row is a process of its own. Images a second of a core,
which hold on a busy machine too, are those of a second of processor time: of the reading of tars, which the
process that trains does besides, and of the decoding, which the workers do.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import torch
from machine import describe

from facepcl.pretrain.config import Config
from facepcl.pretrain.sampler import InMemory
from facepcl.pretrain.stream import Stream, read_whole

CPU = torch.device("cpu")


def used(who: int) -> float:
    """Seconds of processor of this process, or of its ended children."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def measure(config: Config, steps: int) -> dict[str, float]:
    """One row, by this process."""
    own, shard = used(resource.RUSAGE_SELF), len(read_whole(config.data[0]))
    reading = used(resource.RUSAGE_SELF) - own
    start = time.perf_counter()
    source = Stream.of(config, {}, CPU) if config.stream else InMemory(config, {})
    with closing(source):
        source.batch(0, 0, config.batch)
        ready = time.perf_counter()
        for step in range(1, steps):
            source.batch(step, 0, config.batch)
        seconds = time.perf_counter() - ready
    decoding = used(resource.RUSAGE_CHILDREN)
    return {
        "first batch s": ready - start,
        "images/s": (steps - 1) * config.batch / seconds,
        "read/s of a core": shard / reading,
        "decoded/s of a core": steps * config.batch / decoding if config.stream else 0,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="SHARD.tar")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--stream", type=int, default=4)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)  # of so many workers, by this process
    args = parser.parse_args()
    if args.row is not None:
        stream = args.stream if args.row else 0
        config = Config(tuple(args.data), "-", stream=stream, workers=args.row, batch=args.batch)
        print(json.dumps(measure(config, args.steps)))
        return
    print(describe(), "\n")
    for workers in (*args.workers, 0):
        command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--row", str(workers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        if workers == args.workers[0]:
            print("| images |", " | ".join(row), "|\n|---" + "|---" * len(row) + "|")
        name = f"streamed, {workers} workers" if workers else "all in memory"
        print(f"| {name} |", " | ".join(f"{value:.3g}" for value in row.values()), "|", flush=True)


if __name__ == "__main__":
    main()
