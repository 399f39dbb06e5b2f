"""`facepcl embed`: options, then one call of `facepcl.embed`."""

import argparse
from typing import Any

import facepcl
from facepcl.cli.options import (
    JOB_OPTIONS,
    add_job_options,
    add_source,
    prepare_process,
    tell_summary,
    values_of,
)
from facepcl.errors import OptionError
from facepcl.utils.launch import is_first

EXAMPLE = """example: facepcl embed photos/ -o embeddings.parquet --sheet sheet.png

What is done is kept in OUT.parts until the table is whole; after an interruption the same command with
--resume continues. Exit code 0: all embedded; 1: some images had errors (they are rows with a
reason); 2: the command was wrong.

many processes: torchrun --nproc-per-node 2 -m facepcl embed shards/ -o embeddings/ --resume
Each writes a Parquet file for every shard of its share into the folder embeddings/, which
facepcl.read_embeddings("embeddings/") reads as one table. Rows with errors leave the exit code at 0 there:
launchers end the other processes otherwise."""


def add(subparsers: Any) -> argparse.ArgumentParser:
    from facepcl.embedding import contact_sheet, encoder

    parser = subparsers.add_parser(
        "embed",
        description="Write the embeddings of face crops to a table, a row an image.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(parser)
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help="table: .parquet, .npz or .csv; or a folder, which gets a table for each shard",
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
    parser.add_argument(
        "--flip",
        action="store_true",
        help="average each code with that of the mirrored face: twice the time, slightly better identity",
    )
    add_job_options(parser, encoder.MODEL, ("auto", "float32", "bfloat16", "int8"))
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first: half a minute, pays on some machines",
    )
    parser.add_argument(
        "--sheet", metavar="SHEET.jpg", help="draw nearest neighbours by identity and under the pose code"
    )
    parser.add_argument(
        "--queries",
        type=_queries,
        default=contact_sheet.QUERIES,
        metavar="N|NAMES",
        help="the faces that --sheet shows: how many, or the names of images, as a.jpg,b.jpg "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--align",
        action="store_true",
        help="the sources are photos: find their faces and cut them out, a row a face",
    )
    return parser


def _queries(text: str) -> int | list[str]:
    """A number, or names of images."""
    return int(text) if text.isdecimal() else text.split(",")


def run(args: argparse.Namespace) -> int:
    from facepcl.embedding import contact_sheet

    prepare_process()
    options = values_of(args, *JOB_OPTIONS, "branch", "pool", "flip", "compile", "align", "queries")
    if args.sheet is None and args.queries != contact_sheet.QUERIES:
        raise OptionError("--queries belongs to a sheet: add --sheet sheet.jpg")
    summary = facepcl.embed(args.source, args.out, **options, progress=is_first())
    drawn = f", sheet {args.sheet}" if args.sheet else ""
    return tell_summary(summary, "embedded", "images", args.align, drawn)
