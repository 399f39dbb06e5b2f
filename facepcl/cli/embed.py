"""`facepcl embed`: options, then one call of `facepcl.embed`."""

import argparse
from typing import TYPE_CHECKING, Any

import facepcl
from facepcl.utils.streams import say

if TYPE_CHECKING:
    from facepcl.embedding.writers import Summary
    from facepcl.utils.launch import Share

EXAMPLE = """example: facepcl embed photos/ -o embeddings.parquet --sheet sheet.png

What is done is kept in OUT.parts until the table is whole; after an interruption the same command with
--resume continues. Exit code 0: all embedded; 1: some images had errors (they are rows with a
reason); 2: the command was wrong.

many processes: torchrun --nproc-per-node 2 -m facepcl embed shards/ -o embeddings/ --resume
Each writes a Parquet file for every shard of its share into the folder embeddings/, which
facepcl.read_embeddings("embeddings/") reads as one table. Rows with errors leave the exit code at 0 there:
launchers end the other processes otherwise."""


def add(subparsers: Any) -> argparse.ArgumentParser:
    from facepcl.embedding import encoder

    parser = subparsers.add_parser(
        "embed",
        description="Write the embeddings of face crops to a table, a row an image.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="image, folder, .tar shard, .csv with a column path, or 'glob/**/*.jpg'; also s3://, hf://, ...",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help="table: .parquet, .npz or .csv; or a folder, which gets a table for each shard",
    )
    parser.add_argument(
        "--model",
        default=encoder.MODEL,
        help="a model with weights: its name, hf-hub:ORG/NAME or local-dir:FOLDER (default: %(default)s)",
    )
    parser.add_argument(
        "--branch",
        default=encoder.BRANCH,
        metavar="BRANCH",
        help=f"{', '.join(encoder.BRANCH_NAMES)}, or several with a column each, as face,pose "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--pool", default=encoder.POOL, choices=encoder.POOLS, help="default: the model's own code"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="default: %(default)s")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="W",
        help="processes that decode (default: half of the cores, all beside an accelerator)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "int8"),
        help="auto: bfloat16 where the processor has units for it and it is faster",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first: half a minute, pays on some machines",
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted job, bit-identically")
    parser.add_argument(
        "--on-error",
        default="record",
        choices=("record", "raise"),
        help="a bad image is a row, or ends the command",
    )
    parser.add_argument(
        "--sheet", metavar="SHEET.png", help="draw nearest neighbours under face and pose code"
    )
    parser.add_argument(
        "--align",
        action="store_true",
        help="the sources are photos: find their faces and cut them out, a row a face",
    )
    parser.add_argument(
        "--one", action="store_true", help="with --align: only the most prominent face of each photo"
    )
    parser.add_argument(
        "--detector", metavar="PATH", help="with --align: YuNet's ONNX file (default: fetched from the Hub)"
    )
    parser.add_argument(
        "--all-files",
        action="store_true",
        help="read all files of folders and shards, whatever their names end in",
    )
    parser.add_argument(
        "--rank",
        type=int,
        metavar="R",
        help="with a folder: which share to embed (default: as torchrun or SLURM says)",
    )
    parser.add_argument("--world-size", type=int, metavar="W", help="of how many shares, counted from 0")
    return parser


def run(args: argparse.Namespace) -> int:
    import torch

    from facepcl.utils import launch
    from facepcl.utils.cpus import cores
    from facepcl.utils.launch import is_first

    names = ["model", "branch", "pool", "batch_size", "workers", "device", "dtype"]
    names += ["compile", "resume", "on_error", "sheet", "align", "one", "detector", "all_files"]
    names += ["rank", "world_size"]
    options = {name: getattr(args, name) for name in names}
    launch.take_own_cores()
    # some batches side by side are a third faster than all cores on one (benchmarks/embed.py)
    torch.set_num_threads(max(1, cores() // 8))
    summary = facepcl.embed(args.source, args.out, **options, progress=is_first())
    for reason in summary.reasons:
        say(f"  {reason}")
    if summary.failed > len(summary.reasons):
        say(f"  and {summary.failed - len(summary.reasons)} more, see the column error")
    drawn = f", sheet {args.sheet}" if args.sheet else ""
    counts = f"{summary.total - summary.failed - summary.faceless} embedded, {summary.failed} failed"
    if args.align:
        counts += f", {summary.faceless} photos without a face"
    if summary.share:
        return _tell_share(summary, summary.share, counts)
    if summary.seconds:
        print(f"wrote {summary.path}: {counts}, {summary.images_per_second:.0f} images/s{drawn}")
    else:
        print(f"{summary.path} was there already: {counts}{drawn}")
    return 1 if summary.failed else 0


def _tell_share(summary: "Summary", share: "Share", counts: str) -> int:
    """The last line of one process of several; its exit code."""
    rate = f", {summary.images_per_second:.0f} images/s" if summary.embedded else ""
    left = f"{summary.missing:,} of {summary.listed:,} shards are missing"
    print(
        f"{summary.path}: {share} has {summary.shards:,} shards, {summary.total:,} rows: {counts}{rate}; "
        f"{left if summary.missing else f'all {summary.listed:,} are there'}"
    )
    return 1 if summary.failed and share.world_size == 1 else 0
