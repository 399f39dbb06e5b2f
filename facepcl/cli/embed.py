"""`facepcl embed`: options, then one call of `facepcl.embed`."""

import argparse

import facepcl
from facepcl.cli.options import add_job_options, add_source, prepare_process, tell_summary
from facepcl.errors import OptionError
from facepcl.utils.launch import is_first

DESCRIPTION = "Write the embeddings of face crops to a table, one row per image."
EXAMPLE = """examples: facepcl embed crops/ -o embeddings.parquet --sheet sheet.png
          facepcl embed photos/ -o embeddings.parquet --align

Finished parts are kept in OUT.parts until the table is complete. After an interruption, run the same command
with --resume. Exit code 0: all images were embedded; 1: some have errors (rows with a reason); 2: the command
was wrong.

several processes: torchrun --nproc-per-node 2 -m facepcl embed shards/ -o embeddings/ --resume
Each writes one Parquet file per shard of its share to the folder embeddings/, which
facepcl.read_embeddings("embeddings/") reads as one table. Rows with errors do not change the exit code then,
because launchers would end the other processes."""


def add(parser: argparse.ArgumentParser) -> None:
    from facepcl.embedding import contact_sheet, encoder

    add_source(parser)
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help="table: .parquet, .npz or .csv; or a folder, for one table per shard",
    )
    parser.add_argument(
        "--branch",
        default=encoder.BRANCH,
        metavar="BRANCH",
        help=f"{', '.join(encoder.BRANCH_NAMES)}, or several, each in a column, such as face,pose "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--pool", default=encoder.POOL, choices=encoder.POOLS, help="default: the model's own code"
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="average each code but pose with the mirrored face's: twice the time, slightly better identity",
    )
    add_job_options(parser, encoder.MODEL, ("auto", "float32", "bfloat16", "int8"))
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first: takes half a minute, faster on some machines",
    )
    parser.add_argument(
        "--sheet",
        metavar="SHEET.jpg",
        help="draw faces beside their nearest neighbours by identity and by pose",
    )
    parser.add_argument(
        "--queries",
        type=_queries,
        default=contact_sheet.QUERIES,
        metavar="N|NAMES",
        help="the faces on the sheet: their number, or names such as a.jpg,b.jpg (default: %(default)s)",
    )
    parser.add_argument(
        "--align",
        action="store_true",
        help="sources are photos: find and crop their faces, one row per face",
    )


def _queries(text: str) -> int | list[str]:
    """A number, or names of images."""
    return int(text) if text.isdecimal() else text.split(",")


def run(args: argparse.Namespace) -> int:
    from facepcl.embedding import contact_sheet

    prepare_process()
    if args.sheet is None and args.queries != contact_sheet.QUERIES:
        raise OptionError("--queries needs a sheet: add --sheet sheet.jpg")
    summary = facepcl.embed(**vars(args), progress=is_first())
    drawn = f", sheet {args.sheet}" if args.sheet else ""
    return tell_summary(summary, "embedded", args.align, drawn)
