"""`facepcl push`: options, then one call of `facepcl.hub.push`."""

import argparse
import logging
from typing import Any

from facepcl.utils.streams import is_terminal

DESCRIPTION = "Publish a folder of weights as a model repository, with a card; no pickle."
EXAMPLE = """example: facepcl push runs/first/encoder ORG/my-faces --dry-run
         facepcl push runs/first/encoder ORG/my-faces --license cc0-1.0

FOLDER: the encoder/ of a run, or what facepcl convert wrote. Log in first: hf auth login."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="folder of weights")
    parser.add_argument("repository", metavar="ORG/NAME", nargs="?", help="repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="check everything, send nothing")
    parser.add_argument(
        "--license", metavar="NAME", help="licence of the weights, such as cc0-1.0 (default: the folder's)"
    )
    parser.add_argument(
        "--dataset",
        dest="datasets",
        action="append",
        default=[],
        metavar="NAME",
        help="training data set by its name on the Hub; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    from facepcl import hub
    from facepcl.errors import OptionError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns when nothing has changed
    if not (args.folder and args.repository):
        raise OptionError("name the folder and the repository: facepcl push FOLDER ORG/NAME")
    print(describe(hub.push(**vars(args), progress=is_terminal())))
    return 0


def describe(pushed: Any) -> str:
    """What `hub.push` did, in a line."""
    if pushed.revision is None:
        files = ", ".join(f"{name} ({size:,} bytes)" for name, size in pushed.files.items())
        return f"would push {files} to {pushed.repository}; nothing was sent"
    if not pushed.changed:
        return f"nothing changed: {pushed.repository}@{pushed.revision} holds all this already"
    load = f'facepcl.create_model("hf-hub:{pushed.repository}", pretrained=True)'
    return f"pushed {len(pushed.files)} files to {pushed.repository}@{pushed.revision}; load them with {load}"
