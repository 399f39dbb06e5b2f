"""Images a second of `pcl_facecycle` and of the views, one thread: float32 and bfloat16, forward and with
backward.

python benchmarks/encoder.py
"""

import argparse
import time
from collections.abc import Callable

import torch
from machine import describe

import facepcl
from facepcl import views

BATCH = 64


def rate(step: Callable[[], object], images: int, runs: int = 4) -> float:
    """Images a second of the fastest of several runs, after one that warms up."""
    best = float("inf")
    for number in range(runs + 1):
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start) if number else best
    return images / best


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    print(describe(), "\n")
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
