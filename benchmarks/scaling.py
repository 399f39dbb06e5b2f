"""What a step of PCL costs each of W processes that train together: on paper, and measured where they fit.

python benchmarks/scaling.py                    # on paper: calls, bytes, operations, memory
python benchmarks/scaling.py --measure 1 2 4    # real processes on this machine
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from losses import peak_bytes
from machine import describe
from PIL import Image
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from facepcl import losses
from facepcl.pretrain import distributed
from facepcl.pretrain.config import CONTRASTS, Config
from facepcl.pretrain.networks import Networks
from facepcl.pretrain.substeps import Tasks

SIZE, D, CODE = 64, 512, 2048  # side of the views; numbers of a projection and of a code
# What the paper's columns assume of a GPU: A100, half of its bfloat16 peak; 25 GB/s to the other machines.
OPERATIONS_A_SECOND, BYTES_A_SECOND = 156e12, 25e9
ON_PAPER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Noise:
    """Images of noise for every batch: a step costs the same."""

    def batch(self, step: int, stream: int, count: int) -> torch.Tensor:
        """This process's slice of a batch of `count`, as `facepcl.pretrain.sampler.InMemory` says."""
        own = len(range(count)[distributed.local_slice(count)])
        return torch.randint(0, 256, (own, 3, SIZE, SIZE), dtype=torch.uint8)


@contextmanager
def pretended(processes: int) -> Iterator[Counter[str]]:
    """As the first of so many processes, whom nobody answers; counts its calls and the bytes of each kind."""
    counted: Counter[str] = Counter()
    all_gather, all_reduce = dist.all_gather, dist.all_reduce

    def gather(parts: list[torch.Tensor], own: torch.Tensor, *args: Any) -> Any:
        counted["calls"] += 1
        counted["gathered"] += sum(part.nbytes for part in parts)
        return all_gather(parts, own, *args)

    def reduce(tensor: torch.Tensor, *args: Any) -> Any:
        counted["calls"] += 1
        kind = "returned" if tensor.dim() > 1 else "gradients" if len(tensor) > 1e6 else "norms"
        counted[kind] += tensor.nbytes
        return all_reduce(tensor, *args)

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    dist.all_gather, dist.all_reduce = gather, reduce
    try:
        yield counted
    finally:
        dist.all_gather, dist.all_reduce = all_gather, all_reduce
        dist.destroy_process_group()


def count_step(model: str, processes: int, batch: int) -> Counter[str]:
    """What one process counts in an iteration with `batch` images of its own."""
    whole = batch * processes
    config = Config(data=(), out="", model=model, batch=whole, pose_batch=whole // 8, pose_negatives=16)
    torch.manual_seed(0)
    nets = Networks(model, {}, config.tasks).train()
    with (
        pretended(processes) as counted,
        distributed.sync_batch_norms(nets),
        FlopCounterMode(display=False) as flops,
    ):
        tasks = Tasks(config, Noise(), nets, SIZE, torch.float32)
        losses_of_step = tasks.of_step(0, 0.5, dict.fromkeys(CONTRASTS, 1.0))
        while True:
            with kept_for_backward(nets) as kept:
                loss = next(losses_of_step, None)
            if loss is None:
                break
            counted["kept"] = max(counted["kept"], sum(kept.values()))  # of the largest task
            nets.zero_grad()
            loss.total.backward()
            distributed.all_reduce_gradients(nets)
    counted["operations"] = flops.get_total_flops()
    counted["weights"] = sum(weight.nbytes for weight in nets.parameters())
    return counted


@contextmanager
def kept_for_backward(nets: Networks) -> Iterator[dict[int, int]]:
    """Bytes by address of what a forward pass leaves for its backward, but the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in nets.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def face_contrast_bytes(own: int, batch: int) -> int:
    """What a process holds at most for its `own` samples' face contrast in a whole batch, there and back."""
    features, part = torch.randn(2 * batch, D, requires_grad=True), slice(0, own)
    mixed = losses.mixing(batch, 2 * batch - 2, torch.Generator().manual_seed(0), part)
    return peak_bytes(lambda: losses.face_contrast(features, *mixed, part).backward())


def on_paper(model: str, batch: int) -> None:
    """Count at 2, 4 and 8 processes W; go on to 1,024 by what is constant and what grows with W."""
    counts = {w: count_step(model, w, batch) for w in (2, 4, 8)}
    linear = (counts[4]["operations"] - counts[2]["operations"]) / 2
    constant = counts[2]["operations"] - linear * 2
    predicted = constant + linear * 8
    if abs(predicted / counts[8]["operations"] - 1) > 0.02:
        raise SystemExit(f"{counts[8]['operations']:,} operations at 8 processes, not {predicted:,.0f}")
    held = {w: face_contrast_bytes(batch, batch * w) for w in (32, 64)}
    a_process = (held[64] - held[32]) / 32
    sent = counts[8]
    print(
        f"\n`{model}` at {SIZE} px, {batch} images a process, float32. A step: {sent['calls']} collective "
        f"calls, gradients {sent['gradients'] / 1e6:.1f} MB,\nstatistics of batch norms "
        f"{sent['norms'] / 1e6:.1f} MB; the face contrast holds {a_process / 1e6:.1f} MB for each process.\n"
    )
    print(
        f"Held: weights, gradients and Adam's two means {4 * sent['weights'] / 1e6:,.0f} MB; for "
        f"backward {counts[2]['kept'] / 1e6:,.0f} MB at most.\n"
    )
    print(
        "| processes | batch | gathered, MB | compute, GFLOP | share of losses "
        "| memory of the face contrast, GB | compute time, ms | communication time, ms |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for w in ON_PAPER:
        several = w > 1
        gathered, returned = (sent[kind] / 8 * w * several for kind in ("gathered", "returned"))
        operations, memory = constant + linear * w, held[32] + a_process * (w - 32)
        seconds = (gathered + 2 * (returned + sent["gradients"] * several)) / BYTES_A_SECOND
        print(
            f"| {w:,} | {w * batch:,} | {gathered / 1e6:,.0f} | {operations / 1e9:,.0f} "
            f"| {linear * w / operations:.0%} | {memory / 1e9:,.2f} "
            f"| {operations / OPERATIONS_A_SECOND * 1e3:,.0f} | {seconds * 1e3:,.0f} |"
        )


def measured(model: str, processes: int, batch: int, steps: int) -> float:
    """Views a second of a run of so many processes of one thread, start-up and first steps left out."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "faces"), Path(folder, "run")
        data.mkdir()
        rng = np.random.default_rng(0)
        for number in range(max(64, batch)):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data / f"{number:03d}.jpg")
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
            *("-m", "facepcl", "pretrain", str(data), "--out", str(out), "--model", model),
            *(f"--batch={batch}", f"--pose-batch={batch // 8}", "--pose-negatives=16", f"--size={SIZE}"),
            *(f"--source-size={SIZE}", f"--steps={steps}", "--log-steps=1", "--dtype=float32"),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return float(np.median([line["views_per_s"] for line in log[2:]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="pcl_facecycle")
    parser.add_argument(
        "--batch", type=int, default=32, help="images of a process; measured: of all processes"
    )
    parser.add_argument("--measure", type=int, nargs="+", metavar="PROCESSES", help="real runs of so many")
    parser.add_argument("--steps", type=int, default=8, help="steps of a real run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    if not args.measure:
        on_paper(args.model, args.batch)
        return
    print(f"\n`{args.model}` at {SIZE} px, {args.batch} images a step in all:\n")
    print("| processes | views/s | ratio |\n|---|---|---|")
    first = 0.0
    for processes in args.measure:
        speed = measured(args.model, processes, args.batch, args.steps)
        first = first or speed
        print(f"| {processes} | {speed:.1f} | {speed / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
