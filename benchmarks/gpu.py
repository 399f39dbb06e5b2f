"""Check on one GPU what has run on CPUs only, and measure it: a table for benchmarks/RESULTS.md.

    python benchmarks/gpu.py [--device cuda] [--minutes 10]

Each check is a line of the table: what it found, why it failed, or why it was skipped. Checks that no longer
fit into the time are skipped. The exit code is 1 if a check failed. It needs no data. With `--device cpu`, it
shows that the checks themselves work; its figures mean nothing then.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from embed import write_files
from jobs import FACEPCL, run
from machine import describe

import facepcl
from facepcl.embedding.encoder import Encoder
from facepcl.pretrain.log import read_log
from facepcl.utils.device import DTYPES, find_device, least_seconds, matmul_peak

MODELS = ("pcl_facecycle", "pcl_resnet18", "pcl_resnet50")
FACES = sorted((Path(__file__).resolve().parents[1] / "examples/faces").glob("*.jpg"))
COSINE = {"float32": 0.9999, "bfloat16": 0.995}  # least that counts as the same embedding
DEGREES, PROBABILITY = 0.5, 0.02  # of head pose, expressions and action units, in float32


class Bench(NamedTuple):
    """What the checks have: a device, an empty folder, and the sizes of their jobs."""

    device: str
    folder: Path
    images: int
    steps: int
    rounds: int


class CheckFailed(Exception):
    """What a check found instead of what it wanted."""


class Skipped(Exception):
    """Why a check says nothing here."""


def wanted(holds: bool, found: str) -> str:
    if not holds:
        raise CheckFailed(found)
    return found


def embeddings(bench: Bench) -> Iterator[str]:
    """The embeddings of every model equal those of the CPU."""
    for model in MODELS:
        exact = facepcl.FaceEmbedder(model, branch="concat", device="cpu", dtype="float32")(FACES)
        for dtype, least in COSINE.items():
            found = facepcl.FaceEmbedder(model, branch="concat", device=bench.device, dtype=dtype)(FACES)
            cosine = facepcl.similarity(exact, found).diagonal().min()
            yield wanted(cosine >= least, f"{model} {dtype}: cosine {cosine:.5f}")


def analysis(bench: Bench) -> Iterator[str]:
    """Head pose, expressions and action units equal those of the CPU."""
    ours, exact = (
        facepcl.FaceAnalyzer(crops=True, device=device, dtype="float32")(FACES)
        for device in (bench.device, "cpu")
    )
    pairs = list(zip(ours, exact, strict=True))
    turned = max(abs(getattr(a, n) - getattr(b, n)) for a, b in pairs for n in ("yaw", "pitch", "roll"))
    other = max(
        abs(getattr(a, kind)[name] - value)
        for a, b in pairs
        for kind in ("expressions", "action_units")
        for name, value in getattr(b, kind).items()
    )
    yield wanted(turned < DEGREES, f"angles differ by at most {turned:.3f} degrees")
    yield wanted(other < PROBABILITY, f"expressions and action units by {other:.4f}")


def network(bench: Bench) -> Iterator[str]:
    """Images/s of the trunk from pixels in host memory, in batches of 1, 64 and 256."""
    for model in MODELS:
        for dtype in DTYPES:
            for backend in ("eager", "compile"):
                rates = []
                for batch in (1, 64, 256):
                    encoder = Encoder(
                        model, device=bench.device, dtype=dtype, backend=backend, batch_size=batch
                    )
                    rates.append(f"{images_per_s(encoder, batch, bench.rounds):,.0f}")
                yield f"{model} {dtype} {backend}: {' / '.join(rates)}"


def images_per_s(encoder: Encoder, batch: int, rounds: int) -> float:
    side = encoder.transform.shape[0]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    # vectors are copied to the host, so the device is waited for
    passes = {"pass": lambda: encoder.vectors(encoder.maps(pixels))}
    return batch / least_seconds(passes, rounds + 1)["pass"]


def channels_last(bench: Bench) -> Iterator[str]:
    """A training pass (forward and backward) in channels_last beside contiguous tensors."""
    images = torch.rand(64, 3, 64, 64, device=bench.device)

    def train_pass(layout: torch.memory_format, kind: torch.dtype) -> Callable[[], float]:
        model = facepcl.create_model(MODELS[0]).to(bench.device).to(memory_format=layout)
        batch = images.to(memory_format=layout)

        def one_pass() -> float:
            with torch.autocast(batch.device.type, kind, enabled=kind != torch.float32):
                model.forward_features(batch).float().square().mean().backward()
            return float(next(model.parameters()).grad.sum())  # waits for the device

        return one_pass

    for dtype, kind in DTYPES.items():
        layouts = (torch.contiguous_format, torch.channels_last)
        passes = {layout: train_pass(layout, kind) for layout in layouts}
        seconds = least_seconds(passes, bench.rounds + 1)
        ratio = seconds[torch.contiguous_format] / seconds[torch.channels_last]
        yield f"{dtype}: {64 / seconds[torch.channels_last]:,.0f} images/s, {ratio:.2f} x contiguous"


def embed(bench: Bench) -> Iterator[str]:
    """`facepcl embed` on JPEG files of 112 px, start-up and all; the table equals the embedder's vectors."""
    files = write_files(new_folder(bench.folder / "jpegs"), bench.images, 112)
    for model in MODELS:
        table = bench.folder / f"{model}.parquet"
        spent = run(
            [*FACEPCL, "embed", files[0].parent, "-o", table, "--model", model, "--device", bench.device]
        )
        rows = facepcl.read_embeddings(table)
        exact = facepcl.FaceEmbedder(model, device="cpu", dtype="float32")(files[:8])
        cosine = facepcl.similarity(exact, rows.vectors[:8]).diagonal().min()
        rate = len(rows) / spent.wall
        found = f"{model}: {rate:,.0f} images/s in {spent.wall:.0f} s, cosine to the CPU {cosine:.4f}"
        yield wanted(len(rows) == len(files) and cosine >= COSINE["bfloat16"], found)


def out_of_memory(bench: Bench) -> Iterator[str]:
    """A batch that does not fit is halved, with a warning and the same embeddings."""
    if torch.device(bench.device).type != "cuda":
        raise Skipped("only CUDA has a limit of memory that can be set")
    embedder = facepcl.FaceEmbedder(device=bench.device, dtype="float32", batch_size=4096)
    images = list(np.random.default_rng(0).integers(0, 256, (4096, 64, 64, 3), np.uint8))
    whole = embedder(images)
    most, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.75 * most / total)
    try:
        with warnings_of("facepcl") as said:
            halved = embedder(images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    difference = float(np.abs(halved - whole).max())
    yield wanted(any("going on with batches of 2048" in line for line in said), f"said: {said}")
    yield wanted(difference < 1e-3, f"embeddings differ by at most {difference:.1e}")


@contextmanager
def warnings_of(logger: str) -> Iterator[list[str]]:
    """What a logger says meanwhile."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(logger).addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger(logger).removeHandler(handler)


def pretraining(bench: Bench) -> Iterator[str]:
    """Every method trains, in float32 and bfloat16: losses are finite and the encoder loads. PCL draws the
    masks of its contrasts on the device."""
    faces = labelled_faces(bench.folder / "labelled")
    for method in ("pcl", "pcl-relative", "simclr", "labels"):
        for dtype in DTYPES:
            out = bench.folder / f"{method}-{dtype}"
            run([*FACEPCL, *train(bench, faces, out), "--method", method, "--dtype", dtype])
            yield trained(out, f"{method} {dtype}")


def pretraining_compiled(bench: Bench) -> Iterator[str]:
    """`--compile` trains."""
    out = bench.folder / "compiled"
    run([*FACEPCL, *train(bench, labelled_faces(bench.folder / "labelled"), out), "--compile"])
    yield trained(out, "pcl --compile")


def one_process(bench: Bench) -> Iterator[str]:
    """torchrun with one process (nccl on CUDA) ends with the loss of a run without it."""
    faces = labelled_faces(bench.folder / "labelled")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    commands = {"alone": FACEPCL, "torchrun": [*torchrun, "-m", "facepcl"]}
    losses = []
    for name, command in commands.items():
        out = bench.folder / name
        run([*command, *train(bench, faces, out), "--dtype", "float32"])
        yield trained(out, name)
        losses.append(read_log(out / "log.jsonl")[-1]["reconstruction"])
    yield wanted(abs(losses[0] / losses[1] - 1) < 0.01, f"reconstruction {losses[0]:.4f} and {losses[1]:.4f}")


def resumed(bench: Bench) -> Iterator[str]:
    """A run resumes from an earlier checkpoint on the device."""
    faces, out = labelled_faces(bench.folder / "labelled"), bench.folder / "resumed"
    words = train(bench, faces, out)
    run([*FACEPCL, *words, "--checkpoint-minutes", "0"])
    *_, earlier, newest = sorted(out.glob("checkpoint-*"))
    newest.unlink()
    shutil.rmtree(out / "encoder")
    run([*FACEPCL, *words])
    yield trained(out, f"resumed from {earlier.stem}")


def train(bench: Bench, faces: Path, out: Path) -> list[object]:
    options = ["--preset", "small", "--batch", 32, "--steps", bench.steps, "--log-steps", 1]
    return ["pretrain", faces, "--out", out, "--device", bench.device, *options]


def trained(out: Path, name: str) -> str:
    lines = read_log(out / "log.jsonl")
    losses = [value for line in lines for key, value in line.items() if not key.startswith("grad_norm")]
    facepcl.create_model(f"local-dir:{out / 'encoder'}", pretrained=True)
    rate = max(line.get("views_per_s") or 0 for line in lines)
    finite = bool(np.isfinite([loss for loss in losses if loss is not None]).all())
    return wanted(finite, f"{name}: {rate:,.0f} views/s")


def labelled_faces(folder: Path) -> Path:
    """256 faces with invented labels: 64 people, 4 images each."""
    if folder.is_dir():
        return folder
    random = np.random.default_rng(0)
    for number, path in enumerate(write_files(new_folder(folder), 256, 112)):
        yaw, pitch, roll = random.uniform(-20, 20, 3)
        label = {
            "identity": f"{number // 4}",
            "yaw": yaw,
            "pitch": pitch,
            "roll": roll,
            "au": {"AU12": random.random()},
            "expression": ("happy", "sad")[number % 2],
        }
        path.with_suffix(".json").write_text(json.dumps(label))
    return folder


def new_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def matrix_products(bench: Bench) -> Iterator[str]:
    """The device's peak, by matrix products."""
    device = find_device(bench.device)
    for name, dtype in DTYPES.items():
        yield f"{name}: {matmul_peak(device, dtype) / 1e12:.2f} TFLOP/s"


CHECKS: tuple[Callable[[Bench], Iterator[str]], ...] = (
    matrix_products,
    embeddings,
    analysis,
    out_of_memory,
    pretraining,
    one_process,
    resumed,
    embed,
    channels_last,
    pretraining_compiled,
    network,
)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0, help="of all checks (default: 10)")
    parser.add_argument("--images", type=int, default=4096, help="of facepcl embed (default: 4096)")
    parser.add_argument("--steps", type=int, default=20, help="of each training run (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="of each timing (default: 5)")
    parser.add_argument("--only", nargs="+", choices=[check.__name__ for check in CHECKS], metavar="CHECK")
    args = parser.parse_args(words)
    device = find_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{name}; {describe()}\n\n| check | result | seconds |\n|---|---|---|", flush=True)
    end, failed = time.monotonic() + 60 * args.minutes, False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.device, Path(folder), args.images, args.steps, args.rounds)
        for check in CHECKS:
            if args.only and check.__name__ not in args.only:
                continue
            start = time.monotonic()
            result = run_check(check, bench) if start < end else "skipped: no time left"
            failed |= "FAILED" in result
            print(f"| {check.__name__} | {result} | {time.monotonic() - start:.0f} |", flush=True)
    return int(failed)


def run_check(check: Callable[[Bench], Iterator[str]], bench: Bench) -> str:
    """What a check found; one that fails does not keep the others from running."""
    found: list[str] = []
    try:
        found.extend(check(bench))
    except Skipped as reason:
        return f"skipped: {reason}"
    except CheckFailed as reason:
        return "; ".join([*found, f"**FAILED**: {reason}"])
    except (Exception, SystemExit) as error:
        return "; ".join([*found, f"**FAILED**: {type(error).__name__}: {str(error).splitlines()[-1]:.300}"])
    return "; ".join(found)


if __name__ == "__main__":
    sys.exit(main())
