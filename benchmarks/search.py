"""Exact search in a folder of Parquet tables, beside what pyarrow needs to read it and one matrix product.

    python benchmarks/search.py [--rows 1000000] [--dimension 256] [--queries 256] [--folder FOLDER]

The tables are random, as `facepcl embed shards/ -o embeddings/` lays them out, and stay in FOLDER if one is
named. Reading is pyarrow's own scanner, on all cores, of the column of embeddings alone; the product is
torch's, of the queries with blocks of the vectors, by all cores. The search has torch's threads set as the
command sets them, and keeps freed memory as it does. All is done once before, so that files lie in the
system's cache.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset
import torch
from jobs import run
from machine import describe

import facepcl
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.nearest import rows_per_block
from facepcl.embedding.tables import write_table
from facepcl.utils.cpus import cores
from facepcl.utils.memory import keep_freed_memory

SHARD = 8192  # rows of a table
SEARCH = """
import sys, numpy as np, torch, facepcl
queries = np.random.default_rng(1).standard_normal((int(sys.argv[2]), int(sys.argv[3])), dtype=np.float32)
torch.set_num_threads(int(sys.argv[4]))
facepcl.search(queries, sys.argv[1])
"""


def write_folder(folder: Path, rows: int, dimension: int) -> None:
    """Random vectors in tables of 8,192 rows, unless they are there."""
    meta = {"dimension": dimension, "model": "random", "branch": "shared", "pool": "code", "space": "random"}
    random = np.random.default_rng(0)

    def blocks(start: int, end: int) -> Iterator[Embeddings]:
        for first in range(start, end, 1024):
            count = min(1024, end - first)
            vectors = random.standard_normal((count, dimension), dtype=np.float32)
            paths = [f"faces/{row:09d}.jpg" for row in range(first, first + count)]
            yield Embeddings(vectors, paths, [None] * count, np.full((count, 2), 112, np.int32), meta)

    folder.mkdir(exist_ok=True)
    for number, start in enumerate(range(0, rows, SHARD)):
        if not (path := folder / f"{number:08d}-files.parquet").exists():
            write_table(path, meta, blocks(start, min(rows, start + SHARD)))


def read(folder: Path) -> None:
    for batch in pyarrow.dataset.dataset(folder).to_batches(columns=["embedding"]):
        batch.column(0).flatten().to_numpy()


def multiply(queries: np.ndarray, rows: int) -> None:
    count = rows_per_block(queries.shape[1])
    block = torch.from_numpy(np.random.default_rng(2).standard_normal((count, len(queries[0])), np.float32))
    room, left = torch.empty(len(queries), count), torch.from_numpy(queries)
    for _ in range(rows // count):
        torch.mm(left, block.T, out=room)


def search(queries: np.ndarray, folder: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // 8))
    facepcl.search(queries, folder)
    torch.set_num_threads(before)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """On the clock and of the processor."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="the parts one after the other, so many times")
    parser.add_argument("--folder", type=Path, help="keep the tables here")
    args = parser.parse_args(argv)
    print(describe(), "\n")
    keep_freed_memory()  # as our command does
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "embeddings"
        write_folder(folder, args.rows, args.dimension)
        queries = np.random.default_rng(1).standard_normal((args.queries, args.dimension), dtype=np.float32)
        parts: dict[str, Callable[[], object]] = {
            "pyarrow reads": lambda: read(folder),
            "matrix product": lambda: multiply(queries, args.rows),
            "facepcl.search": lambda: search(queries, folder),
        }
        for work in parts.values():
            work()
        rounds = [[seconds(work) for work in parts.values()] for _ in range(args.rounds)]
        # of each part the round that was disturbed least
        wall, cpu = (np.array(rounds)[:, :, place].min(0) for place in (0, 1))
        print("| part | wall, s | CPU, s |\n|---|---|---|")
        for place, name in enumerate(parts):
            print(f"| {name} | {wall[place]:.2f} | {cpu[place]:.2f} |")
        ratios = wall[2] / wall[:2].sum(), cpu[2] / cpu[:2].sum()
        print(f"| search / (reading + product) | {ratios[0]:.2f} | {ratios[1]:.2f} |")
        words = [sys.executable, "-c", SEARCH, folder, args.queries, args.dimension, max(1, cores() // 8)]
        nothing = run([sys.executable, "-c", "import facepcl.embedding.search"], look=0.05)
        print(f"\nmemory of a search: {run(words, look=0.05).memory:.0f} MB, ", end="")
        print(f"of which imports: {nothing.memory:.0f} MB")


if __name__ == "__main__":
    main()
