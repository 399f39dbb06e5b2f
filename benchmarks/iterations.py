"""Whole iterations of supervised pretraining: views/s, share of the peak, and what takes the time.

    python examples/synthetic_faces FACES --people 200 --images 5 --size 96
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/iterations.py FACES

The peak is that of matrix products in the run's dtype, measured in the same process. Shares are of the time
of two profiled iterations: convolutions and their gradients; other matrix products; batch norms; activations
and softmax; making the views; Adam. It needs a quiet machine.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from machine import describe
from torch.profiler import ProfilerActivity, profile, record_function

from facepcl.pretrain import substeps
from facepcl.pretrain.config import PRESETS, Config
from facepcl.pretrain.log import Flops
from facepcl.pretrain.loop import Training, _start
from facepcl.pretrain.unfolded import unfolded_convs
from facepcl.utils.device import matmul_peak
from facepcl.utils.memory import keep_freed_memory

RUNS = (("pcl_facecycle", 64), ("pcl_resnet18", 96), ("pcl_resnet50", 96))
VIEWS, ADAM = "views", "Optimizer.step#Adam.step"
KINDS = {
    "convolutions": ("convolution", "unfold", "im2col", "col2im"),
    "products": ("aten::mm", "aten::bmm", "aten::addmm"),
    "norms": ("batch_norm",),
    "activations": ("relu", "threshold", "clamp_min", "softmax"),
}


def measure(config: Config, iterations: int) -> list[str]:
    """The cells of a row."""
    training, flops = _start(config, progress=False), Flops()
    with unfolded_convs(training.nets, training.unfold):
        with flops.counted("iteration"):
            training.iterate()
        seconds = min(_seconds(training) for _ in range(iterations))
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(2):
                training.iterate()
    peak = matmul_peak(training.tasks.device, training.tasks.dtype, 1)
    views = config.views_per_step
    return [
        f"`{config.model}`, {config.size} px",
        str(training.tasks.dtype).removeprefix("torch."),
        f"{views / seconds:.1f}",
        f"{flops.total / views / 1e9:.2f}",
        f"{flops.total / seconds / 1e9:.0f}",
        f"{flops.total / seconds / peak:.0%}",
        *(f"{share:.0%}" for share in _shares(profiler)),
    ]


def _seconds(training: Training) -> float:
    start = time.perf_counter()
    training.iterate()
    return time.perf_counter() - start


def _shares(profiler: profile) -> list[float]:
    """Of the time in operations: each of KINDS, the views, Adam, and the rest."""
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    kinds = [
        sum(event.self_cpu_time_total for event in events if any(part in event.key for part in parts))
        for parts in KINDS.values()
    ]
    whole = [sum(event.cpu_time_total for event in events if event.key == name) for name in (VIEWS, ADAM)]
    shares = [time / total for time in (*kinds, *whole)]
    return [*shares, 1 - sum(shares)]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("faces", metavar="FACES", help="folder of rendered faces")
    parser.add_argument("--batch", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--iterations", type=int, default=5, help="of which the fastest counts (default: 5)")
    parser.add_argument("--models", nargs="+", default=[model for model, _ in RUNS], metavar="MODEL")
    args = parser.parse_args(words)
    keep_freed_memory()  # as facepcl pretrain does
    make_views = substeps.label_views
    substeps.label_views = record_function(VIEWS)(make_views)
    print(describe(), "\n")
    heads = ("model", "dtype", "views/s", "GFLOP a view", "GFLOP/s", "of peak", *KINDS, VIEWS, "Adam", "rest")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    options = {name: value for name, value in PRESETS["small"].items() if name != "epochs"}
    options |= {"method": "labels", "batch": args.batch, "source_size": 96, "steps": 1000}
    for model, size in RUNS:
        if model in args.models:
            with tempfile.TemporaryDirectory() as out:
                config = replace(
                    Config(data=(args.faces,), out=str(Path(out) / "run"), **options), model=model, size=size
                )
                Path(config.out).mkdir()
                print(f"| {' | '.join(measure(config, args.iterations))} |", flush=True)
    substeps.label_views = make_views


if __name__ == "__main__":
    main()
