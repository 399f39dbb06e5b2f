"""How the cost of `facepcl embed` grows with images, batch and number of shards; and that of a listing.

    python benchmarks/growth.py [images] [batch] [shards] [files] [members] [packed]

Whole commands, `pcl_facecycle` in int8 (facepcl[onnx]), JPEG files of 112 px: 256 of them, each under many
names. `files` lists a folder of empty files, `members` reads a tar of tiny ones and `packed` the same as
.tar.gz, where they take hardly any room; no image is decoded there.
The start-up is that of the same with one image. The exponent is the slope of the logarithm of CPU seconds
without it over that of the count (1 is linear), of the rows that have more than half a second.
"""

import argparse
import gzip
import os
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from embed import write_files
from jobs import FACEPCL, run
from machine import describe

COUNTS = {
    "images": (100, 1000, 10_000, 100_000),
    "batch": (8, 16, 32, 64, 128, 256),
    "shards": (1, 4, 16, 64, 256),
    "files": (1000, 10_000, 100_000, 1_000_000),
    "members": (1000, 10_000, 100_000, 1_000_000),
    "packed": (1000, 10_000, 100_000, 1_000_000),
}
FILES, SIDE = 256, 112
LOOK = 1.0  # seconds from one look at the memory to the next, which costs some hundredths of that
LIST = """import sys
from facepcl.data.sources import list_entries, read_items
print(sum(1 for item in read_items(list_entries(sys.argv[1:]))))"""


class Jobs:
    """The commands of a sweep, and what they read: of `images` images where it is not they that grow."""

    def __init__(self, kind: str, folder: Path, images: int, dtype: str):
        self.kind, self.folder, self.images, self.dtype = kind, folder, images, dtype
        if kind in ("images", "batch", "shards"):
            (folder / "files").mkdir()
            self.files = write_files(folder / "files", FILES, SIDE)

    def images_of(self, count: int) -> int:
        return self.images if self.kind in ("batch", "shards") else count

    def start(self) -> Sequence[object]:
        """The same with one image."""
        return self._command(1, 1)

    def command(self, count: int) -> Sequence[object]:
        return self._command(count, self.images_of(count))

    def _command(self, count: int, images: int) -> Sequence[object]:
        source = self.folder / f"{self.kind}-{count}-{images}"
        if self.kind in ("members", "packed"):
            shard = source.with_suffix(".tar" if self.kind == "members" else ".tar.gz")
            write_members(shard, images)
            return [sys.executable, "-c", LIST, shard]
        source.mkdir()
        if self.kind == "files":
            for number in range(images):
                (source / f"{number:06d}.jpg").touch()
            return [sys.executable, "-c", LIST, source]
        if self.kind == "shards":
            self._write_shards(source, count, images)
        else:
            for number in range(images):
                os.link(self.files[number % FILES], source / f"{number:06d}.jpg")
        out = self.folder / f"{source.name}-out{'' if self.kind == 'shards' else '.parquet'}"
        batch = ["--batch-size", count] if self.kind == "batch" else []
        return [*FACEPCL, "embed", source, "-o", out, "--dtype", self.dtype, *batch]

    def _write_shards(self, folder: Path, count: int, images: int) -> None:
        for shard in range(count):
            with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
                for number in range(images * shard // count, images * (shard + 1) // count):
                    tar.add(self.files[number % FILES], f"{number:06d}.jpg")


def write_members(path: Path, count: int) -> None:
    """A tar of so many members of one byte."""
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        for number in range(count):
            info = tarfile.TarInfo(f"{number:07d}.jpg")
            info.size = 1
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + b"x".ljust(tarfile.BLOCKSIZE, b"\0"))
        file.write(bytes(2 * tarfile.BLOCKSIZE))


def exponent(counts: Sequence[int], seconds: Sequence[float]) -> str:
    """The slope of log seconds over log counts, by least squares."""
    some = [(np.log(a), np.log(b)) for a, b in zip(counts, seconds, strict=True) if b > 0.5]
    return f"{np.polyfit(*zip(*some, strict=True), 1)[0]:.2f}" if len(some) > 1 else "too short to tell"


def sweep(jobs: Jobs, counts: Sequence[int]) -> None:
    """A table, and the exponent below it."""
    print(f"\n| {jobs.kind} | wall, s | CPU, s | CPU s for 1,000 | memory, MB |\n" + "|---" * 5 + "|")
    start = run(jobs.start(), look=LOOK)
    print(f"| start-up | {start.wall:.1f} | {start.cpu:.1f} | | {start.memory:.0f} |", flush=True)
    seconds = []
    for count in counts:
        wall, cpu, memory = run(jobs.command(count), look=LOOK)
        seconds.append(cpu - start.cpu)
        each = 1000 * seconds[-1] / jobs.images_of(count)
        print(f"| {count:,} | {wall:.1f} | {cpu:.1f} | {each:.3f} | {memory:.0f} |", flush=True)
    print(f"\nExponent of CPU seconds over {jobs.kind}: {exponent(counts, seconds)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(COUNTS)} (default: all)")
    parser.add_argument("--counts", type=int, nargs="+", help="how it grows")
    parser.add_argument("--images", type=int, default=2048, help="where it is not they that grow")
    parser.add_argument("--dtype", default="int8", help="of the network")
    args = parser.parse_args(arguments)
    if unknown := set(args.kinds) - set(COUNTS):
        parser.error(f"{', '.join(sorted(unknown))}: choose {', '.join(COUNTS)}")
    print(describe(), f"{len(os.sched_getaffinity(0))} cores")
    for kind in args.kinds or COUNTS:
        with tempfile.TemporaryDirectory() as temporary:
            sweep(Jobs(kind, Path(temporary), args.images, args.dtype), args.counts or COUNTS[kind])


if __name__ == "__main__":
    main()
