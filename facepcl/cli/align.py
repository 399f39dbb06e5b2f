"""`facepcl align`: options, then one call of `facepcl.align`."""

import argparse

from facepcl.cli.options import add_all_files, add_detector, add_source, tell_end, tell_reasons

DESCRIPTION = "Find the faces in photos and crop them as the weights expect."
EXAMPLE = """example: facepcl align photos/ crops/ --sheet faces.png && facepcl embed crops/ -o table.parquet

OUT will hold the crops, named after their photos (NAME_0.jpg, NAME_1.jpg ...), and faces.csv with crop,
photo, box, landmarks and score of each face. After an interruption, the same command continues. Exit code 0:
all photos were read (one without a face is a row that says so); 1: some could not be read; 2: the command was
wrong."""


def add(parser: argparse.ArgumentParser) -> None:
    from facepcl.alignment import align_photos
    from facepcl.images import detector, geometry

    add_source(parser)
    parser.add_argument("out", metavar="OUT", help="folder for the crops")
    parser.add_argument("--one", action="store_true", help="only the most prominent face of each photo")
    parser.add_argument(
        "--size",
        type=int,
        default=align_photos.SIZE,
        metavar="PX",
        help="side of a crop (default: %(default)s)",
    )
    parser.add_argument(
        "--template",
        default="face",
        choices=tuple(geometry.TEMPLATES),
        help="face: what the weights expect (default); arcface: what most face recognisers expect",
    )
    parser.add_argument(
        "--score",
        type=float,
        default=detector.SCORE,
        metavar="S",
        help="minimum detection score (default: %(default)s)",
    )
    add_detector(parser)
    parser.add_argument(
        "--landmarks",
        metavar="FILE.csv",
        help="use these landmarks instead of the detector; columns as in faces.csv",
    )
    parser.add_argument(
        "--format", default="jpg", choices=align_photos.FORMATS, help="default: jpg, quality 95"
    )
    parser.add_argument("--sheet", metavar="SHEET.jpg", help="draw the faces")
    add_all_files(parser)
    parser.add_argument(
        "--workers", type=int, metavar="W", help="processes (default: one per core; 0: this one)"
    )


def run(args: argparse.Namespace) -> int:
    from facepcl.alignment.align_photos import align

    summary = align(**vars(args), progress=True)
    tell_reasons(summary)
    drawn = f", sheet {args.sheet}" if args.sheet else ""
    counts = f"{summary.faces} faces of {summary.photographs} photos, {summary.faceless} without a face"
    counts += f", {summary.failed} failed"
    return tell_end(summary, counts, f"{summary.photographs_per_second:.1f} photos/s", drawn)
