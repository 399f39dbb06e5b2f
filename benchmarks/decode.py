"""JPEG files of several sizes to the pixels of a network, by four decoders on one core.

    python benchmarks/decode.py [--size 64] [--sides 112 250 1024 4000]

CPU time of one thread, files in memory, the least of five runs; each way resizes as its users do. Differences
are levels of 255 from Pillow at full scale. simplejpeg is left out where it is missing (pip install
simplejpeg).
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from embed import decoders, milliseconds, write_files
from machine import describe
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from facepcl.images.decode import decode
from facepcl.images.transform import Transform
from facepcl.utils.memory import keep_freed_memory

OURS = "Pillow, reduced (ours)"
PIXELS = 4_000_000  # of the files of a size together, at least; and 3 to 64 files


def all_decoders(transform: Transform) -> dict[str, Callable[[bytes], np.ndarray]]:
    """Those of embed.py; Pillow before torch's resize, to tell a decoder from a resize; simplejpeg if it is
    installed."""
    ways = decoders(transform)

    def torch_resize(data: bytes) -> np.ndarray:
        image = torch.from_numpy(np.array(decode(data))).permute(2, 0, 1)
        return (
            tv.resize(
                image,
                [transform.resize_height, transform.resize_width],
                InterpolationMode.BICUBIC,
                antialias=True,
            )
            .permute(1, 2, 0)
            .numpy()
        )

    ways["Pillow, torch's resize"] = torch_resize
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        def by_simplejpeg(data: bytes, **scale: int | float) -> np.ndarray:
            return transform(Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", **scale)))

        least = {"min_height": transform.needed, "min_width": transform.needed, "min_factor": 1}
        ways["simplejpeg"] = by_simplejpeg
        ways["simplejpeg, reduced"] = lambda data: by_simplejpeg(data, **least)
    return ways


def compare(folder: Path, side: int, size: int, seconds: float) -> str:
    """A row of the table for each way; the fastest in a word."""
    count = int(np.clip(PIXELS / side**2, 3, 64))
    files = [path.read_bytes() for path in write_files(folder, count, side)]
    ways = all_decoders(Transform.square(size))
    took = {
        name: milliseconds(lambda way=way: [way(data) for data in files], count, seconds=seconds)
        for name, way in ways.items()
    }
    described = f"{side} px, {np.mean([*map(len, files)]) / 1000:,.0f} kB"
    pixels = {name: np.stack([way(data) for data in files]).astype(int) for name, way in ways.items()}
    for name in ways:
        off = np.abs(pixels[name] - pixels["Pillow"])
        speed = f"{1000 / took[name]:,.0f} | {took[OURS] / took[name]:.2f}"
        print(f"| {described} | {name} | {speed} | {off.max()} | {off.mean():.2f} |", flush=True)
    best = min(took, key=lambda name: took[name])
    return f"{side} px {best} {took[OURS] / took[best]:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="of the network's input")
    parser.add_argument("--sides", type=int, nargs="+", default=[112, 250, 1024, 4000], help="of the files")
    parser.add_argument("--seconds", type=float, default=1, help="of each of six runs of a way")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()  # as our command does
    print(describe(), f"\n\nTo {args.size} px\n")
    print(
        "| files | decoder | images/s | x ours | largest difference | mean difference |\n" + "|---" * 6 + "|"
    )
    with tempfile.TemporaryDirectory() as temporary:
        fastest = [compare(Path(temporary), side, args.size, args.seconds) for side in args.sides]
    print(f"\nFastest, and times as fast as ours: {', '.join(fastest)}")


if __name__ == "__main__":
    main()
