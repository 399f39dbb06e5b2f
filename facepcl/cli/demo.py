"""`facepcl demo`: options, then one call of `facepcl.demo.run`."""

import argparse

from facepcl.cli.options import add_detector

DESCRIPTION = (
    "Serve a local page that shows the faces of photos, their pose, expression and action "
    "units, how alike they are by identity and pose, and the nearest faces in a folder."
)
EXAMPLE = """example: facepcl demo --folder examples/faces

The page is served at http://127.0.0.1:7860 until Ctrl-C. It listens on localhost only, unless --host is
given. Apart from the first download of the detector, it makes no outgoing requests. Photos are deleted as
soon as their faces are cropped. On localhost, a visitor may search any folder of this machine for nearest
faces; with another --host, only --folder's."""


def add(parser: argparse.ArgumentParser) -> None:
    from facepcl import demo

    parser.add_argument("--model", default=demo.MODEL, help="weights with branches (default: %(default)s)")
    parser.add_argument("--host", default=demo.HOST, help="address to serve at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=demo.PORT, help="default: %(default)s")
    add_detector(parser)
    parser.add_argument("--crops", action="store_true", help="images are face crops: no detector is needed")
    parser.add_argument("--folder", metavar="FACES", help="folder to search for nearest faces")
    parser.add_argument(
        "--max-mb",
        type=int,
        default=demo.MAX_MB,
        metavar="MB",
        help="largest file accepted (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from facepcl import demo

    demo.run(**vars(args), progress=True)
    return 0
