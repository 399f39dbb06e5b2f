"""Whole jobs, from JPEG files to a table of vectors, beside those that users have today.

    python benchmarks/peers.py [--only pcl_facecycle|pcl_resnet18|pcl_resnet50|recognition|tars]

`facepcl embed` beside the same encoder in a script as timm's inference.py, and beside two networks for face
recognition with random weights: facenet-pytorch's InceptionResnetV1 and ArcFace's IResNet-50 under
onnxruntime (facepcl[onnx]); benchmarks/peer_jobs.py has these jobs. facenet-pytorch pins an old torch, so it
is left out unless it is there (pip install --no-deps facenet-pytorch).

Commands take turns, and those of a round are compared. images/s: from the difference of a long and a short
job; start-up: what is left of the short one. Memory is looked at in a run of its own, which warms up too.
Wall time, so it wants a quiet machine; CPU milliseconds depend less on it.
"""

import argparse
import importlib.util
import os
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from embed import write_files
from jobs import FACEPCL, run
from machine import describe, peaks
from peer_jobs import FACENET_SIDE, IRESNET_SIDE, export_iresnet, iresnet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import facepcl
from facepcl.embedding.encoder import code
from facepcl.errors import MissingExtra
from facepcl.models.onnx import require_onnx

PEER = (sys.executable, Path(__file__).with_name("peer_jobs.py"))
ENCODERS = ("pcl_facecycle", "pcl_resnet18", "pcl_resnet50")
FACENET, IRESNET = "InceptionResnetV1", "IResNet-50"
GROUPS = (*ENCODERS, "recognition", "tars")


class Network(NamedTuple):
    side: int
    parameters: float  # millions
    gflop: float  # an image, a multiplication and an addition counted as two
    width: int


class Way(NamedTuple):
    """A job: what to type before the source, and between it and the table."""

    name: str
    network: str
    words: Sequence[object]
    table: str = "table.npz"
    rest: Sequence[object] = ()
    tar: bool = False


class Round(NamedTuple):
    seconds: float  # an image
    cpu: float  # of the processor, an image
    start: float


def ours(model: str, *options: str, tar: bool = False) -> Way:
    name = " ".join(["facepcl embed", *options])
    words = [*FACEPCL, "embed", "--model", model, *options]
    return Way(name, model, words, "table.parquet", ("-o",), tar)


def timm_script(model: str, *options: str, tar: bool = False) -> Way:
    name = " ".join(["timm's script", *options])
    return Way(name, model, [*PEER, "timm", "--model", model, *options], tar=tar)


def ways_of(group: str, onnx: Path) -> list[Way]:
    """What is compared; the first is what the others are compared with."""
    both = ("--amp", "--channels-last")
    if group == "tars":
        return [ours(ENCODERS[0], tar=True), timm_script(ENCODERS[0], *both, tar=True)]
    if group != "recognition":
        int8 = [ours(group, "--dtype", "int8")] if group == ENCODERS[0] and has_onnx() else []
        return [ours(group), *int8, timm_script(group), timm_script(group, *both)]
    ways = [ours(ENCODERS[0])]
    if importlib.util.find_spec("facenet_pytorch"):
        ways.append(Way("facenet-pytorch", FACENET, [*PEER, "facenet"]))
    else:
        print("facenet-pytorch is not installed and left out: pip install --no-deps facenet-pytorch\n")
    if has_onnx():
        export_iresnet(onnx)
        ways.append(Way("onnxruntime", IRESNET, [*PEER, "iresnet50", "--onnx", onnx]))
    else:
        print(
            "onnxruntime or onnx is not installed, so IResNet-50 is left out: pip install 'facepcl[onnx]'\n"
        )
    return ways


def has_onnx() -> bool:
    try:
        require_onnx()
    except MissingExtra:
        return False
    return True


def describe_network(name: str) -> Network:
    """Its size, by a pass of one image."""
    if name == FACENET:
        from facenet_pytorch import InceptionResnetV1

        model: nn.Module = InceptionResnetV1(classify=False).eval()
        side = FACENET_SIDE
    elif name == IRESNET:
        model, side = iresnet(), IRESNET_SIDE
    else:
        model = facepcl.create_model(name, pretrained=True, branches=False, num_classes=0).eval()
        side = model.pretrained_cfg["input_size"][-1]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made = getattr(model, "forward_features", model)(torch.zeros(1, 3, side, side))
        width = (code(model, "shared", made) if name in ENCODERS else made).shape[1]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Network(side, parameters / 1e6, counter.get_total_flops() / 1e9, width)


class Sources:
    """The same files in folders, and tars, of any number of images, made when they are asked for."""

    def __init__(self, folder: Path, most: int, side: int):
        (folder / "files").mkdir()
        self.folder, self.files = folder, write_files(folder / "files", most, side)

    def __call__(self, count: int, processes: int, tar: bool) -> list[Path]:
        """`count` images in as many parts as there are processes."""
        ends = [count * number // processes for number in range(processes + 1)]
        return [self._part(a, b, tar) for a, b in pairwise(ends)]

    def _part(self, first: int, last: int, tar: bool) -> Path:
        part = self.folder / f"{first}-{last}{'.tar' if tar else ''}"
        if tar and not part.exists():
            with tarfile.open(part, "w") as file:
                for image in self.files[first:last]:
                    file.add(image, image.name)
        elif not part.exists():
            part.mkdir()
            for image in self.files[first:last]:
                os.link(image, part / image.name)
        return part


class Comparison:
    """Ways that take turns, each with as many images as its network leaves time for."""

    def __init__(self, sources: Sources, networks: Mapping[str, Network], short: int, long: int):
        self.sources, self.networks, self.short, self.long = sources, networks, short, long

    def images(self, way: Way) -> int:
        """Of the long job beyond those of the short one: fewer where an image takes longer."""
        least = min(network.gflop for network in self.networks.values())
        share = least / self.networks[way.network].gflop
        return max(self.short, round(self.long * share / self.short) * self.short)

    def job(self, way: Way, count: int, processes: int, look: float = 0) -> tuple[float, float, float]:
        """Wall and CPU seconds and MB of a job of `count` images, which must leave as many vectors."""
        with tempfile.TemporaryDirectory(dir=self.sources.folder) as out:
            parts = self.sources(count, processes, way.tar)
            tables = [Path(out, f"{number}-{way.table}") for number in range(processes)]
            commands = [
                [*way.words, part, *way.rest, table] for part, table in zip(parts, tables, strict=True)
            ]
            spent = run(*commands, look=look, own_core=processes > 1)
            if (found := sum(map(vectors_in, tables))) != count:
                sys.exit(f"{way.name}: {found} vectors of {count} images")
        return spent

    def round(self, way: Way, processes: int) -> Round:
        more = self.images(way)
        short = self.job(way, self.short, processes)
        long = self.job(way, self.short + more, processes)
        wall, cpu = ((b - a) / more for a, b in zip(short[:2], long[:2], strict=True))
        return Round(wall, cpu, short[0] - self.short * wall)

    def rows(self, ways: Sequence[Way], processes: int, rounds: int, peak: float) -> None:
        """A row of the table for each way."""
        memory = [self.job(way, self.short + self.images(way), processes, look=0.2)[2] for way in ways]
        taken = [[self.round(way, processes) for way in ways] for _ in range(rounds)]
        for number, way in enumerate(ways):
            own = [turn[number] for turn in taken]
            wall, cpu, start = (median(values) for values in zip(*own, strict=True))
            times = median(turn[number].seconds / turn[0].seconds for turn in taken)
            done = self.networks[way.network].gflop / wall
            cells = [way.network, way.name + ", tar" * way.tar, processes, f"{1 / wall:.0f}", f"{times:.2f}"]
            cells += [f"{1000 * cpu:.2f}", f"{done:.0f} ({100 * done / peak:.0f} %)", f"{start:.1f}"]
            print(f"| {' | '.join(map(str, cells))} | {memory[number]:.0f} |", flush=True)


def vectors_in(table: Path) -> int:
    """How many vectors are in a table, each of numbers."""
    if table.suffix == ".parquet":
        vectors = facepcl.read_embeddings(table).vectors
    else:
        vectors = np.load(table)["vectors"]
    return int(np.isfinite(vectors).all(1).sum())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="of the comparisons")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="a core each, where several")
    parser.add_argument("--side", type=int, default=250, help="of the JPEG files, in pixels")
    parser.add_argument("--short", type=int, default=128, help="images of a short job")
    parser.add_argument("--long", type=int, default=3072, help="images of a long job beyond those")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args(arguments)
    peak = peaks()
    print(describe(), "\n")
    print("Matrix products, all threads: " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in peak.items()), "\n")
    with tempfile.TemporaryDirectory() as temporary:
        groups = [ways_of(group, Path(temporary, "iresnet50.onnx")) for group in args.only]
        names = dict.fromkeys(way.network for ways in groups for way in ways)
        networks = {name: describe_network(name) for name in names}
        print("| network | input, px | parameters, M | GFLOP an image | vector |\n" + "|---" * 5 + "|")
        for name, (side, parameters, gflop, width) in networks.items():
            print(f"| {name} | {side} | {parameters:.1f} | {gflop:.2f} | {width} |")
        print(f"\nJPEG files of {args.side} px; long jobs {args.long} images, fewer for larger networks\n")
        columns = "network | job | processes | images/s | times as long | CPU ms an image | GFLOP/s (of peak)"
        print(f"| {columns} | start-up, s | memory, MB |\n" + "|---" * 9 + "|")
        sources = Sources(Path(temporary), args.short + args.long, args.side)
        comparison = Comparison(sources, networks, args.short, args.long)
        for ways in groups:
            for processes in args.processes:
                comparison.rows(ways, processes, args.rounds, max(peak.values()))


if __name__ == "__main__":
    main()
