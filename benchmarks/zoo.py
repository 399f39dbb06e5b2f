"""Measure every model of facepcl, as timm's benchmark does: results/infer-DEVICE.csv, a row for each model,
dtype and batch size.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/zoo.py
    python benchmarks/zoo.py --device cuda

The network with both branches as facepcl embed runs it, from pixels in host memory to embeddings. Columns
have timm's names where timm has the column. Step times are the shortest of the rounds, in ms; memory is the
largest of the process in MB (on a GPU, of torch's allocations). It needs a quiet machine.
"""

import argparse
import csv
import multiprocessing
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, units
from torch.utils.flop_counter import FlopCounterMode

import facepcl
from facepcl.embedding.encoder import Encoder
from facepcl.utils.device import DTYPES, least_seconds
from facepcl.utils.memory import keep_freed_memory

RESULTS = Path(__file__).resolve().parents[1] / "results"
MODELS = ("pcl_facecycle", "pcl_resnet18", "pcl_resnet50")
BATCHES = (1, 64)


def measure(model: str, dtype: str, batch: int, device: str, rounds: int) -> dict[str, Any]:
    """A row of the table."""
    keep_freed_memory()  # as facepcl embed does
    encoder = Encoder(model, branch="concat", dtype=dtype, batch_size=batch, device=device)
    side = encoder.transform.shape[0]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    passes = {"pass": lambda: encoder.vectors(encoder.maps(pixels))}
    least_seconds(passes, 2)
    seconds = least_seconds(passes, rounds)["pass"]
    if device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters, gmacs = size_of(model, side)
    return {
        "model": model,
        "infer_img_size": side,
        "infer_batch_size": batch,
        "dtype": dtype,
        "infer_samples_per_sec": round(batch / seconds, 1),
        "infer_step_time": round(1000 * seconds, 2),
        "memory_mb": round(memory),
        "param_count": round(parameters / 1e6, 2),
        "infer_gmacs": round(gmacs, 2),
    }


def size_of(model: str, side: int) -> tuple[int, float]:
    """Parameters, and billions of multiplications and additions an image, of a model with both branches."""
    network: Any = facepcl.create_model(model, pretrained=False, num_classes=0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.forward_branches(torch.zeros(1, 3, side, side))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2e9


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=20, help="timed passes of a row (default: 20)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder (default: results)")
    args = parser.parse_args(words)
    is_cpu = args.device == "cpu"
    name = (units()[-1:] or ["cpu"])[0] if is_cpu else torch.cuda.get_device_name(args.device)
    path = args.out / f"infer-{name.lower().replace(' ', '-')}.csv"
    print(describe(), file=sys.stderr)
    rows = []
    fresh = multiprocessing.get_context("spawn")  # a process for each row, whose memory is that row's
    for model in args.models:
        for dtype in DTYPES:
            for batch in BATCHES:
                with fresh.Pool(1) as pool:
                    rows.append(pool.apply(measure, (model, dtype, batch, args.device, args.rounds)))
                print(*rows[-1].values(), sep=",", file=sys.stderr, flush=True)
    args.out.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
