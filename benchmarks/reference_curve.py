"""The losses of PCL as it trains: examples/pcl_reference.py beside `facepcl pretrain`.

    python examples/synthetic_faces SHARDS --people 100 --images 5 --size 96
    mkdir FACES && tar -xf SHARDS/*.tar -C FACES
    OMP_NUM_THREADS=1 python benchmarks/reference_curve.py FACES

Both train pcl_facecycle from random weights with the paper's learning rate, in float32 and with equal
batches. Their random numbers differ, and the cosine of the learning rate falls by epoch in the file, by
step in the package. A cell is the mean loss over a sixth of the steps: mean and standard
deviation over the seeds.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jobs import FACEPCL
from machine import describe

REFERENCE = (sys.executable, Path(__file__).resolve().parents[1] / "examples/pcl_reference.py")
SIZES = ("--batch", "8", "--epochs", "2")
PACKAGE = ("--preset", "paper", "--source-size", "96", "--pose-batch", "8", "--dtype", "float32")
LOSSES, BLOCKS = ("disentangling", "face contrast", "pose contrast"), 6
STEP = re.compile(r"^step \d+: disentangle (\S+) face (\S+) pose (\S+)$", re.M)


def of_reference(faces: Path, out: Path, seed: int, negatives: int) -> np.ndarray:
    """The losses of each step, `[steps, 3]`."""
    command = [*REFERENCE, faces, "--out", out, *SIZES, "--negatives", negatives, "--seed", seed]
    words = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return np.array(STEP.findall(words.stdout), float)


def of_package(faces: Path, out: Path, seed: int, negatives: int) -> np.ndarray:
    """The losses of each step, `[steps, 3]`."""
    command = [*FACEPCL, "pretrain", faces, "--out", out, *PACKAGE, *SIZES, "--seed", seed]
    command += ["--pose-negatives", negatives, "--log-steps", "1", "--device", "cpu"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    log = map(json.loads, (out / "log.jsonl").read_text("utf-8").splitlines())
    return np.array([[of["reconstruction"] + of["orthogonality"], of["face"], of["pose"]] for of in log])


def cells(curves: np.ndarray) -> Iterator[str]:
    """Of curves `[seeds, steps]`: mean and standard deviation of every block of steps."""
    for block in np.array_split(curves, BLOCKS, axis=1):
        means = block.mean(1)
        yield f"{means.mean():.3f} ± {means.std(ddof=1):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("faces", type=Path, metavar="FACES", help="folder of images of 96 px")
    parser.add_argument("--seeds", type=int, default=4, help="two or more (default: 4)")
    parser.add_argument("--negatives", type=int, default=4, help="of the pose step (default: 4)")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, train in (("one file", of_reference), ("package", of_package)):
            runs = [
                train(args.faces, Path(folder, f"{name} {seed}"), seed, args.negatives)
                for seed in range(args.seeds)
            ]
            found[name] = np.stack(runs)
            print(f"{name}: {args.seeds} runs of {found[name].shape[1]} steps", file=sys.stderr)
    print(describe(), "\n")
    steps = [len(block) for block in np.array_split(found["package"][0], BLOCKS)]
    ends = np.cumsum(steps)
    spans = [f"{end - count + 1}-{end}" for count, end in zip(steps, ends, strict=True)]
    print(f"| loss | | {' | '.join(f'steps {span}' for span in spans)} |")
    print("|---" * (BLOCKS + 2) + "|")
    for number, loss in enumerate(LOSSES):
        for name, curves in found.items():
            print(f"| {loss} | {name} | {' | '.join(cells(curves[..., number]))} |")


if __name__ == "__main__":
    main()
