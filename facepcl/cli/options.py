"""Options and messages that several commands share."""

import argparse
from typing import TYPE_CHECKING

from facepcl.utils.streams import say

if TYPE_CHECKING:
    from facepcl.alignment import AlignSummary
    from facepcl.embedding.writers import Summary
    from facepcl.utils.launch import Share


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the sources of a job."""
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="image, folder, .tar shard, .csv with a column path, or 'glob/**/*.jpg'; also s3://, hf://, ...",
    )


def add_detector(parser: argparse.ArgumentParser) -> None:
    """Add the file of the face detector."""
    parser.add_argument(
        "--detector", metavar="PATH", help="YuNet's ONNX file (default: downloaded once from the Hub)"
    )


def add_all_files(parser: argparse.ArgumentParser) -> None:
    """Add what is read of folders and shards."""
    parser.add_argument(
        "--all-files",
        action="store_true",
        help="read all files of folders and shards, whatever their extension",
    )


def add_job_options(parser: argparse.ArgumentParser, model: str, dtypes: tuple[str, ...]) -> None:
    """Add how a table of images is filled."""
    parser.add_argument(
        "--model",
        default=model,
        help="a model with weights: its name, hf-hub:ORG/NAME or local-dir:FOLDER (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="B", help="images per batch (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="W",
        help="decoding processes; 0: none (default: half of the cores; all to find faces or with an "
        "accelerator)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=dtypes,
        help="auto: bfloat16 where the processor supports it and it is faster",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted job, with bit-identical output"
    )
    parser.add_argument(
        "--on-error",
        default="record",
        choices=("record", "raise"),
        help="record: a bad image becomes a row with the reason; raise: stop at a bad image",
    )
    parser.add_argument("--one", action="store_true", help="only the most prominent face of each photo")
    add_detector(parser)
    add_all_files(parser)
    parser.add_argument(
        "--rank",
        type=int,
        metavar="R",
        help="if OUT is a folder: which share to process (default: from torchrun or SLURM)",
    )
    parser.add_argument("--world-size", type=int, metavar="W", help="number of shares; ranks count from 0")


def prepare_process() -> None:
    """Take this process's cores, and leave some of them to batches side by side."""
    import torch

    from facepcl.utils import launch
    from facepcl.utils.cpus import cores

    launch.take_own_cores()
    # some batches side by side are a third faster than all cores on one (benchmarks/embed.py)
    torch.set_num_threads(max(1, cores() // 8))


def tell_summary(summary: "Summary", done: str, finds_faces: bool, drawn: str = "") -> int:
    """Print what a job of images did; its exit code."""
    tell_reasons(summary)
    counts = f"{summary.total - summary.failed - summary.faceless} {done}, {summary.failed} failed"
    if finds_faces:
        counts += f", {summary.faceless} photos without a face"
    if summary.share:
        return _tell_share(summary, summary.share, counts)
    return tell_end(summary, counts, f"{_rate(summary.images_per_second)} images/s", drawn)


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def tell_reasons(summary: "Summary | AlignSummary") -> None:
    """Print why images failed."""
    for reason in summary.reasons:
        say(f"  {reason}")
    if summary.failed > len(summary.reasons):
        say(f"  and {summary.failed - len(summary.reasons)} more, see the column error")


def tell_end(summary: "Summary | AlignSummary", counts: str, rate: str, drawn: str) -> int:
    """Print the last line of a job; its exit code."""
    if summary.seconds:
        print(f"wrote {summary.path}: {counts}, {rate}{drawn}")
    else:
        print(f"{summary.path} was already complete: {counts}{drawn}")
    return 1 if summary.failed else 0


def _tell_share(summary: "Summary", share: "Share", counts: str) -> int:
    """The last line of one process of several; its exit code."""
    rate = f", {_rate(summary.images_per_second)} images/s" if summary.embedded else ""
    shards = f"{summary.shards:,} {'shard' if summary.shards == 1 else 'shards'}"
    left = f"{summary.missing:,} of {summary.listed:,} shards are missing"
    print(
        f"{summary.path}: {share} has {shards}, {summary.total:,} rows: {counts}{rate}; "
        f"{left if summary.missing else 'no shard is missing'}"
    )
    return 1 if summary.failed and share.world_size == 1 else 0
