"""What starting facepcl costs: whole processes in turn, user + system seconds, medians.

    python benchmarks/import_time.py

`import facepcl` beside `import timm`, and `facepcl embed` of one image beside `import torch, timm`.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jobs import run
from machine import describe

FACE = Path(__file__).resolve().parents[1] / "examples/faces/person1_yaw+06_surprise.jpg"
PYTHON = (sys.executable, "-c")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="of each process (default: 15)")
    runs = parser.parse_args(words).runs
    print(describe(), "\n\n| process | CPU s | times the first |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        embed = [sys.executable, "-m", "facepcl", "embed", FACE, "-o"]
        compare(
            {"import timm": [*PYTHON, "import timm"], "and facepcl": [*PYTHON, "import timm, facepcl"]}, runs
        )
        compare(
            {
                "import torch, timm": [*PYTHON, "import torch, timm"],
                "facepcl embed, one image": [*embed, f"{folder}/one.parquet"],
                "without a decoding process": [*embed, f"{folder}/one.npz", "--workers", 0],
                "in float32": [*embed, f"{folder}/one.npz", "--workers", 0, "--dtype", "float32"],
            },
            runs,
        )


def compare(commands: dict[str, Sequence[object]], runs: int) -> None:
    """A row for each command; the ratio is the median over the rounds, in which all take turns."""
    rounds = [[run(command).cpu for command in commands.values()] for _ in range(runs)]
    for name, seconds in zip(commands, zip(*rounds, strict=True), strict=True):
        ratio = statistics.median(s / first[0] for s, first in zip(seconds, rounds, strict=True))
        print(f"| {name} | {statistics.median(seconds):.2f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
