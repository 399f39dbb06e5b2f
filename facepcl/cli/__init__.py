"""The `facepcl` command: each subcommand parses its options and calls one function of the library."""

import argparse
import importlib
import logging
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from facepcl._version import __version__
from facepcl.errors import FacepclError, near
from facepcl.utils.launch import is_first
from facepcl.utils.memory import keep_freed_memory
from facepcl.utils.streams import drop_unwritten_output, repair_streams, say

# Each has a module here with DESCRIPTION, EXAMPLE, add(parser), which adds its options, and run(args) -> exit
# code. It is imported when the command is typed: most need torch, which takes seconds.
COMMANDS = {
    "align": "find faces in photos and write upright crops",
    "analyze": "head pose, expression and action units of faces in photos and videos",
    "embed": "embed files, folders and .tar shards",
    "search": "find the faces in a table that are most similar to a query",
    "pretrain": "train an encoder on faces",
    "probe": "evaluate frozen features by linear probes",
    "convert": "convert a third-party checkpoint to a folder that timm loads",
    "export": "write an encoder to a file that runs without facepcl",
    "push": "publish weights on the Hugging Face Hub",
    "models": "list models and weights, or download weights in advance",
    "demo": "serve a local page that compares the faces of photos",
}
UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h


class Parser(argparse.ArgumentParser):
    """argparse's, which says what a mistyped command, option or value was probably meant to be."""

    def error(self, message: str) -> NoReturn:
        """Add the nearest name to argparse's `message`, and exit with code 2."""
        meant = ""
        if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            meant = near(match[1], re.findall(r"[\w.-]+", match[2]))
        elif match := re.search(r"unrecognized arguments: (-\S+)", message):
            meant = near(match[1].partition("=")[0], self._options())
        super().error(f"{message}; did you mean {meant}?" if meant else message)

    def _options(self) -> Iterator[str]:
        """The options of this parser and of the commands below it."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser._options()


def build_parser(typed: str = "") -> argparse.ArgumentParser:
    """The parser of all commands; only the one that is `typed` has its options."""
    parser = Parser(
        prog="facepcl", description="Embeddings, head pose, expression, action units and search for faces."
    )
    parser.add_argument("--version", action="version", version=f"facepcl {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, help in COMMANDS.items():
        if name != typed:
            subparsers.add_parser(name, help=help)
            continue
        command = importlib.import_module(f"facepcl.cli.{name}")
        sub = subparsers.add_parser(
            name,
            help=help,
            description=command.DESCRIPTION,
            epilog=command.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 = done, 1 = some inputs had errors, 2 = the command was wrong, 70 = a fault of
    facepcl, 130 = Ctrl-C, 143 = SIGTERM."""
    repair_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser(words[0] if words else "").parse_args(words)
    options = vars(args)  # of the command alone from here on, as the library's function names them
    run, debug = options.pop("run"), options.pop("debug")
    level = logging.INFO if is_first() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for chatty in ("timm", "httpx", "httpx2", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of every attempt, twice
    logging.raiseExceptions = False  # where stderr takes no messages the work goes on
    keep_freed_memory()
    try:
        code = run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads our output has seen enough, as `head` does
        return 1
    except (FacepclError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        say(f"facepcl: {str(error) or 'not enough memory'}")
        return 2
    except Exception as error:
        traceback.print_exc()
        say(f"facepcl: unexpected {type(error).__name__}, a fault of facepcl; please report the lines above")
        return UNEXPECTED
    except KeyboardInterrupt as stop:
        if is_first():
            say(f"facepcl: {str(stop) or 'interrupted'}")
        return 128 + getattr(stop, "signal_number", signal.SIGINT)
    finally:
        drop_unwritten_output()
