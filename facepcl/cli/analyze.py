"""`facepcl analyze`: options, then one call of `facepcl.analyze`, or a table in the terminal."""

import argparse
import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import facepcl
from facepcl.cli.options import add_job_options, add_source, prepare_process, tell_summary
from facepcl.errors import OptionError
from facepcl.utils.launch import is_first

if TYPE_CHECKING:
    from facepcl.embedding.embeddings import Row

DESCRIPTION = "Predict head pose, expression, action units and identity of faces in photos and videos."
EXAMPLE = """examples: facepcl analyze photo.jpg
          facepcl analyze photos/ -o faces.parquet --sheet faces.jpg
          facepcl analyze clip.mp4 --html clip.html

Without -o, one line per face is printed; for videos, the face column has the number of the track. The table
has the columns of facepcl embed --align --branch identity, and yaw, pitch and roll in degrees (> 0: the nose
points to the right of the image, or up; the head tilts clockwise), expression, its probabilities, and action
units from 0 to 1. Videos (facepcl[video]) also have time in seconds and track. Probabilities are not
calibrated; action units are not validated on photos. Exit code 0: all images were read (a photo without a
face is a row that says so); 1: some could not be read; 2: the command was wrong."""
PATH = 30  # letters of a path in the terminal


def add(parser: argparse.ArgumentParser) -> None:
    from facepcl.analysis import analyze_photos
    from facepcl.embedding import encoder

    add_source(parser)
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        help="table: .parquet, .npz or .csv; or a folder, for one table per shard (default: print)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        default=analyze_photos.FPS,
        metavar="N",
        help="maximum frames per second of a video (default: %(default)g; 0: leave videos out)",
    )
    parser.add_argument("--crops", action="store_true", help="the sources are face crops, not photos")
    parser.add_argument("--sheet", metavar="SHEET.jpg", help="draw some photos with their analysis")
    parser.add_argument(
        "--html", metavar="PAGE.html", help="write a page with photos, and curves of head pose for videos"
    )
    add_job_options(parser, encoder.MODEL, ("auto", "float32", "bfloat16"))


def run(args: argparse.Namespace) -> int:
    prepare_process()
    if args.out is None:
        return _print_faces(args)
    summary = facepcl.analyze(**vars(args), progress=is_first())
    drawn = f", sheet {args.sheet}" if args.sheet else ""
    drawn += f", page {args.html}" if args.html else ""
    return tell_summary(summary, "faces", not args.crops, drawn)


def _print_faces(args: argparse.Namespace) -> int:
    from facepcl.analysis.analyze_photos import draw
    from facepcl.analysis.analyzer import AttributeEmbedder
    from facepcl.analysis.tracks import with_tracks
    from facepcl.data.file_types import ADVICE, Selection
    from facepcl.data.sources import as_sources, list_entries, no_images, read_items
    from facepcl.embedding.embeddings import joined
    from facepcl.embedding.job import check_drawings
    from facepcl.images.face import NO_FACE
    from facepcl.images.html import check_page
    from facepcl.images.sheet import check_sheet

    for name, default in (("resume", False), ("on_error", "record"), ("rank", None), ("world_size", None)):
        if getattr(args, name) != default:
            raise OptionError(f"--{name.replace('_', '-')} needs a table: add -o faces.parquet")
    sources, selection = as_sources(args.source), Selection(args.all_files, args.fps)
    check_drawings(sources, None, (args.sheet, check_sheet), (args.html, check_page))
    drawn = [file for file in (args.sheet, args.html) if file]
    entries = list_entries(sources, selection)  # raises before the weights are loaded
    options = {name: getattr(args, name) for name in ("batch_size", "device", "dtype", "one", "detector")}
    embedder = AttributeEmbedder(args.model, args.fps, align=not args.crops, **options)
    batches = embedder.batches(read_items(entries, selection=selection), args.workers)
    print(_HEAD)
    blocks, count, failed = [], 0, 0
    for rows in with_tracks(batch.rows for batch in batches):
        count += len(rows)
        for row in rows.rows():
            print(_line(row), flush=True)
            failed += row.error not in (None, NO_FACE)
        if drawn:
            blocks.append(replace(rows, vectors=rows.vectors[:, :0].copy()))
    if not count:  # of shards this is not known before
        raise no_images(sources, selection)
    selection.tell(ADVICE)
    if drawn:
        draw(joined(blocks), sources, args.sheet, args.html, args.workers)
        print(f"wrote {', '.join(drawn)}")
    return 1 if failed else 0


_HEAD = f"{'photo':{PATH}}  face  score    yaw  pitch   roll  expression     strongest action units"


def _line(row: "Row") -> str:
    """A face, or why there is none, as a line of text."""
    from facepcl.analysis.words import describe_expression, strongest

    cut = len(row.path) > PATH and sys.stdout.isatty()
    path = "…" + row.path[1 - PATH :] if cut else row.path
    if row.error or row.attributes is None:
        return f"{path:{PATH}}  {row.error}"
    track = row.attributes["track"]
    number = "" if row.number is None else row.number
    number = number if math.isnan(track) else int(track)
    score = "" if row.face is None else f"{row.face.score:.2f}"
    pose = "  ".join(f"{row.attributes.get(angle, math.nan):+5.0f}" for angle in ("yaw", "pitch", "roll"))
    units = "  ".join(f"{name} {value:.2f}" for name, value in strongest(row.attributes))
    expression = describe_expression(row.attributes)
    return f"{path:{PATH}}  {number:>4}  {score:>5}  {pose}  {expression:13}  {units}"
