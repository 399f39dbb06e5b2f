"""Embedding of JPEG files of 250 px on one core, beside what that core allows and the loop that users write.

    python benchmarks/embed.py [--dtype auto|float32|bfloat16] [--int8]

Milliseconds are CPU time, so that a busy machine disturbs little; steady state is the difference between a
long and a short job. The last part is wall time on all cores.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jobs import FACEPCL, run
from machine import describe
from PIL import Image

import facepcl
from facepcl.data.sources import list_entries, read_items
from facepcl.embedding.encoder import Encoder
from facepcl.images.decode import decode, decode_reduced
from facepcl.images.transform import Transform
from facepcl.utils.memory import keep_freed_memory

FACES = Path(__file__).resolve().parents[1] / "examples/faces"
SHORT, LONG = 1024, 5120


def write_files(folder: Path, count: int, side: int = 250) -> list[Path]:
    """The sample faces at `side` px, each a little different, quality 90: about 17 kB each at 250 px."""
    faces = [Image.open(path).convert("RGB") for path in sorted(FACES.glob("*.jpg"))]
    random = np.random.default_rng(0)
    paths = [folder / f"{i:05d}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        face, (left, top) = faces[i % len(faces)], random.uniform(0, 4, 2)
        face = face.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + 108, top + 108))
        grain = random.normal(0, 4, (side, side, 1))
        Image.fromarray((np.asarray(face) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def milliseconds(work: Callable[[], object], images: int, runs: int = 5, seconds: float = 1) -> float:
    """CPU milliseconds an image of the fastest of several runs of a second, after one that warms up.

    A second, for the luckiest moment of a noisy machine says nothing about a job of ten.
    """
    start = time.process_time()
    work()
    again = max(1, round(seconds / (time.process_time() - start)))
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        for _ in range(again):
            work()
        best = min(best, time.process_time() - start)
    return 1000 * best / (again * images)


def naive(paths: Sequence[Path]) -> float:
    """PIL, torchvision's transforms, the model image by image in float32, as it comes."""
    from torchvision import transforms

    model = facepcl.create_model("pcl_facecycle", pretrained=True).eval()
    bicubic = transforms.InterpolationMode.BICUBIC
    normalize = transforms.Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    steps = [transforms.Resize(64, bicubic), transforms.CenterCrop(64), transforms.ToTensor(), normalize]
    transform = transforms.Compose(steps)

    def loop() -> None:
        with torch.no_grad():
            for path in paths:
                model.forward_features(transform(Image.open(path).convert("RGB"))[None]).flatten().numpy()

    return milliseconds(loop, len(paths))


def decoders(transform: Transform) -> dict[str, Callable[[bytes], np.ndarray]]:
    """Ways from a JPEG file's bytes to the pixels that a network takes, `[H, W, 3]`, as their users go."""
    import torchvision
    from torchvision.transforms.v2 import functional as tv

    bicubic, read_rgb = tv.InterpolationMode.BICUBIC, torchvision.io.ImageReadMode.RGB

    def by_torchvision(data: bytes) -> np.ndarray:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = torchvision.io.decode_jpeg(encoded, read_rgb)
        return (
            tv.resize(image, [transform.resize_height, transform.resize_width], bicubic, antialias=True)
            .permute(1, 2, 0)
            .numpy()
        )

    return {
        "Pillow": lambda data: transform(decode(data)),
        "Pillow, reduced (ours)": lambda data: transform(*decode_reduced(data, transform.needed)),
        "torchvision": by_torchvision,
    }


def decoding(paths: Sequence[Path]) -> dict[str, float]:
    """CPU milliseconds from a file to pixels of 64 px, each way at its own."""
    return {
        name: milliseconds(lambda way=way: [way(p.read_bytes()) for p in paths], len(paths))
        for name, way in decoders(Transform.square(64)).items()
    }


def networks(dtypes: Sequence[str], compiled: bool) -> dict[str, float]:
    """The trunk alone on pixels at hand, batches of the embedder's size."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), dtype=np.uint8)
    found = {}
    for dtype in dtypes:
        backends = ["auto"] if dtype == "int8" else ["eager", "trace", *(["compile"] if compiled else [])]
        for backend in backends:
            encoder = Encoder(dtype=dtype, backend=backend)
            work = lambda encoder=encoder: encoder.vectors(encoder.maps(pixels))  # noqa: E731
            found[f"{encoder.meta['dtype']}, {encoder.meta['backend']}"] = milliseconds(work, len(pixels))
    return found


def batches(paths: Sequence[Path], dtype: str) -> dict[str, float]:
    """CPU milliseconds an image from files to vectors, without a table."""
    embedder = facepcl.FaceEmbedder(dtype=dtype)

    def spent(workers: int, count: int) -> float:
        before = cpu_seconds()
        for _ in embedder.batches(read_items(list_entries([str(path) for path in paths[:count]])), workers):
            pass
        return cpu_seconds() - before

    ways = {"files to vectors, in one process": 0, "with a decoding process, as the command": 1}
    return {
        name: 1000 * min(spent(workers, LONG) - spent(workers, SHORT) for _ in range(3)) / (LONG - SHORT)
        for name, workers in ways.items()
    }


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    spent = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent)


def whole_job(folder: Path, count: int, options: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of `facepcl embed` on the first `count` files, reader processes included."""
    manifest = folder / f"{count}.csv"
    manifest.write_text("path\n" + "".join(f"{i:05d}.jpg\n" for i in range(count)))
    spent = run([*FACEPCL, "embed", manifest, "-o", folder / "e.parquet", *options])
    return spent.cpu, spent.wall


def fastest(folder: Path, options: Sequence[str], runs: int) -> list[list[float]]:
    """The least CPU and wall seconds of a short and of a long job, as the parts too are at their best."""
    jobs = [[whole_job(folder, count, options) for count in (SHORT, LONG)] for _ in range(runs)]
    return [[min(seconds) for seconds in zip(*some, strict=True)] for some in zip(*jobs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtype", default="auto", help="of the whole job")
    parser.add_argument("--int8", action="store_true", help="int8 too, which needs facepcl[onnx]")
    parser.add_argument("--no-compile", action="store_true", help="leave out what is compiled")
    parser.add_argument("--runs", type=int, default=3, help="of each whole job")
    args = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # the jobs below inherit it
    torch.set_num_threads(1)
    print(describe(), "\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write_files(folder, LONG)
        print(f"{LONG} files, {np.mean([p.stat().st_size for p in paths]) / 1000:.1f} kB on average\n")
        by_loop = naive(paths[:128])
        keep_freed_memory()  # as our command does; the loop that users write is as it is
        decoded = decoding(paths[:256])
        dtypes = ["float32", "bfloat16", *(["int8"] if args.int8 else [])]
        ran = networks(dtypes, not args.no_compile)
        print("| part | CPU ms an image |\n|---|---|")
        print(f"| naive loop | {by_loop:.2f} |")
        for name, value in [*decoded.items(), *ran.items(), *batches(paths, args.dtype).items()]:
            print(f"| {name} | {value:.2f} |")

        mine = {k: v for k, v in ran.items() if args.dtype in ("auto", k.partition(",")[0])}
        if args.dtype == "auto":
            mine = {k: v for k, v in mine.items() if "int8" not in k}
        allowed = min(decoded.values()) + min(mine.values())
        print(f"\nWhat the core allows, decoding + network each at its best: {allowed:.2f} ms\n")
        print("| job | steady state, ms | images a CPU second | of what the core allows | x the naive loop |")
        print("|---|---|---|---|---|")
        options, starts = ["--dtype", args.dtype], []
        for extra in [[], *([] if args.no_compile or args.dtype == "int8" else [["--compile"]])]:
            job = " ".join(["facepcl embed", *options, *extra])
            short, long = fastest(folder, [*options, *extra], args.runs)
            steady = 1000 * (long[0] - short[0]) / (LONG - SHORT)
            rate, share, times = 1000 / steady, 100 * allowed / steady, by_loop / steady
            print(f"| {job} | {steady:.2f} | {rate:.0f} | {share:.0f} % | {times:.2f} |")
            cpu, wall = (seconds - SHORT * steady / 1000 for seconds in short)
            starts.append(f"{job}: start-up {cpu:.1f} s CPU, {wall:.1f} s wall")
        print("\n" + "\n".join(starts))

        os.sched_setaffinity(0, cores)
        short, long = fastest(folder, options, args.runs)
        cpu, wall = ((b - a) / (LONG - SHORT) for a, b in zip(short, long, strict=True))
        print(
            f"\n{len(cores)} cores: {1 / wall:.0f} images/s, {cpu / wall:.2f} of {len(cores)} cores at work"
        )


if __name__ == "__main__":
    main()
