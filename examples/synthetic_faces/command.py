"""The command line."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from facepcl.errors import FacepclError, MissingPath, OptionError
from facepcl.utils.files import atomic
from synthetic_faces.generator import SERIES
from synthetic_faces.shards import Job, write_faces
from synthetic_faces.sheet import draw_sheet

SHEET_ROWS = 12


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise OptionError(message)


def build_parser() -> argparse.ArgumentParser:
    job = Job()
    parser = _Parser(
        prog="python examples/synthetic_faces", description="Render faces with labels into tar shards."
    )
    add = parser.add_argument
    add("out", type=Path, help="a folder of shards, which a re-run completes, or one file that ends in .tar")
    add("--people", type=int, default=job.people, metavar="N", help=f"default {job.people}")
    add("--images", type=int, default=job.images, metavar="M", help=f"of each person; default {job.images}")
    add("--size", type=int, default=job.size, metavar="PIXELS", help=f"default {job.size}")
    add("--seed", type=int, default=job.seed, metavar="S", help=f"of all people; default {job.seed}")
    add("--start", type=int, default=job.start, metavar="ID", help="number of the first person; default 0")
    add("--workers", type=int, default=1, metavar="W", help="processes; the faces do not depend on it")
    add(
        "--quality", type=int, default=job.quality, metavar="Q", help=f"JPEG, 1 to 100; default {job.quality}"
    )
    add(
        "--series",
        nargs="+",
        choices=SERIES,
        default=[],
        help="only this changes within M images of a person",
    )
    add("--shard-images", type=int, default=job.shard_images, metavar="K", help=f"default {job.shard_images}")
    add("--sheet", type=Path, metavar="FILE.png", help="also draw the first people, a row each")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for what cannot work, 130 after Ctrl-C."""
    try:
        return run(build_parser().parse_args(arguments))
    except FacepclError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished shards are kept, the same command goes on", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    if args.sheet and args.sheet.suffix.lower() != ".png":
        raise OptionError(f"--sheet {args.sheet}: a sheet is a .png")
    if args.sheet and not args.sheet.absolute().parent.is_dir():
        raise MissingPath(f"--sheet {args.sheet}: there is no such folder to write to")
    options = {field.name: getattr(args, field.name) for field in fields(Job)}
    job = Job(**options | {"series": tuple(args.series)})
    shards = write_faces(args.out, job, args.workers, progress=True)
    print(f"{args.out}: {job.people * job.images_of_person} images in {len(shards)} shards")
    if args.sheet:
        columns = job.images if job.images > 1 else 10
        with atomic(args.sheet) as temporary:
            draw_sheet(shards, columns, SHEET_ROWS).save(temporary, "PNG")
        print(f"{args.sheet}: the first {min(SHEET_ROWS, job.people)} rows")
    return 0
