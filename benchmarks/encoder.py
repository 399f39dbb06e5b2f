"""Images a second of `pcl_facecycle` and of the views, one thread: float32 and bfloat16, forward and with
backward.

    python benchmarks/encoder.py
    python benchmarks/encoder.py --backends [--no-compile]

The second is what runs the bundled encoders fastest on a CPU, in CPU time; it needs facepcl[onnx].
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from machine import describe

import facepcl
from facepcl import views
from facepcl.embedding.encoder import Encoder
from facepcl.utils.device import least_seconds
from facepcl.utils.memory import keep_freed_memory

BATCH = 64
BACKENDS = (
    ("float32", "eager"),
    ("float32", "trace"),
    ("float32", "compile"),
    ("float32", "onnx"),
    ("bfloat16", "trace"),
    ("int8", "onnx"),
)


def rate(step: Callable[[], object], images: int) -> float:
    """Images a second of the fastest of five runs."""
    return images / least_seconds({"": step}, 5)[""]


def compare_backends(compiled: bool, rounds: int) -> None:
    """CPU milliseconds an image of every way to run each encoder (the trunk, pixels at hand), the least of
    several rounds; a round has each way in turn, so that a busy machine is so to all."""
    keep_freed_memory()  # as facepcl embed does
    ways = [way for way in BACKENDS if compiled or way[1] != "compile"]
    print("| model | batch | " + " | ".join(map(" ".join, ways)) + " |\n|---|---|" + "---|" * len(ways))
    for model in ("pcl_facecycle", "pcl_resnet18"):
        for batch in (1, 32):
            some = [way for way in ways if model == "pcl_facecycle" or way[0] != "int8"]
            best = one_by_one(model, batch, some, rounds)
            cells = [f"{best[w]:.2f} ms, {best[ways[0]] / best[w]:.2f}x" if w in best else "" for w in ways]
            print(f"| {model} | {batch} | " + " | ".join(cells) + " |", flush=True)


def one_by_one(
    model: str, batch: int, ways: Sequence[tuple[str, str]], rounds: int
) -> dict[tuple[str, str], float]:
    encoders = {
        (dtype, backend): Encoder(model, dtype=dtype, backend=backend, batch_size=batch)
        for dtype, backend in ways
    }
    shape = encoders[ways[0]].transform.shape
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
    best = dict.fromkeys(encoders, float("inf"))
    for _ in range(rounds + 1):  # the first warms up and is beaten
        for way, encoder in encoders.items():
            again, start = 0, time.process_time()
            while (spent := time.process_time() - start) < 0.3 or not again:
                encoder.vectors(encoder.maps(pixels))
                again += 1
            best[way] = min(best[way], 1000 * spent / (again * batch))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backends", action="store_true", help="compare what runs the network")
    parser.add_argument("--no-compile", action="store_true", help="leave out what is compiled")
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(describe(), "\n")
    if args.backends:
        compare_backends(not args.no_compile, args.rounds)
        return
    print("| layout | dtype | forward, images/s | forward and backward, images/s |\n|---|---|---|---|")
    for layout in (torch.contiguous_format, torch.channels_last):
        model = facepcl.create_model("pcl_facecycle").to(memory_format=layout)
        images = torch.rand(BATCH, 3, 64, 64).contiguous(memory_format=layout)
        for dtype in (torch.float32, torch.bfloat16):

            def forward(model=model, images=images, dtype=dtype) -> torch.Tensor:
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    return sum(maps.float().square().mean() for maps in model.forward_branches(images))

            with torch.inference_mode():
                plain = rate(forward, BATCH)
            trained = rate(lambda forward=forward: forward().backward(), BATCH)
            names = [str(x).removeprefix("torch.") for x in (layout, dtype)]
            print(f"| {names[0]} | {names[1]} | {plain:.0f} | {trained:.0f} |", flush=True)

    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (BATCH, 3, 112, 112), dtype=torch.uint8)
    faces = rate(lambda: views.face_views(pictures, 64, generator), 2 * BATCH)
    poses = rate(lambda: views.pose_views(pictures[:4], 64, 16, generator), 4 * 18)
    print(f"\nface views {faces:.0f} a second, pose views {poses:.0f} a second (112 px to 64 px)")


if __name__ == "__main__":
    main()
