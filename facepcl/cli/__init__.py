"""The `facepcl` command: each subcommand parses its options and calls one function of the library."""

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from facepcl._version import __version__
from facepcl.cli import align, convert, demo, embed, export, models, pretrain, probe, push
from facepcl.errors import FacepclError
from facepcl.pretrain.distributed import is_first
from facepcl.utils.device import keep_freed_memory

# each has add(subparsers) -> parser and run(args) -> exit code
COMMANDS = (align, embed, pretrain, probe, convert, export, push, models, demo)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="facepcl", description="Small, general face representations.")
    parser.add_argument("--version", action="version", version=f"facepcl {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = command.add(subparsers)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 = done, 1 = some inputs had errors, 2 = the command was wrong, 130 = Ctrl-C, 143 =
    SIGTERM."""
    args = build_parser().parse_args(argv)
    level = logging.INFO if is_first() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for chatty in ("timm", "httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    keep_freed_memory()
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FacepclError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"facepcl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if is_first():
            print(f"facepcl: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 128 + getattr(stop, "signal_number", signal.SIGINT)
