"""`facepcl pretrain`: an option for each field of `Config`, and a call of `facepcl.pretrain.run`."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from facepcl.errors import OptionError
from facepcl.utils.launch import is_first

_logger = logging.getLogger("facepcl")

DESCRIPTION = "Train an encoder on faces: PCL, pcl-relative, SimCLR, ablations, or supervised."
EXAMPLE = """example: facepcl pretrain faces/ --out runs/first --preset small --epochs 2

The same command resumes an interrupted run.

DATA is a folder of images, a folder with a subfolder per person, or .tar shards (NAME.jpg with NAME.json or
NAME.cls). With --stream it is .tar shards, local or behind URLs such as s3://.

two processes: torchrun --nproc-per-node 2 -m facepcl pretrain faces/ --out runs/first ..."""


def add(parser: argparse.ArgumentParser) -> None:
    from facepcl.pretrain.config import PRESETS, option_fields

    parser.add_argument(
        "data",
        nargs="+",
        metavar="DATA",
        help="folder or .tar shard of face images; with --stream also a URL",
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--preset", choices=PRESETS, default="paper", help="default values (default: paper)")
    for field in option_fields():
        option, help_ = "--" + field.name.replace("_", "-"), field.metadata["help"]
        if field.default is False:
            parser.add_argument(option, action="store_true", default=None, help=help_)
            continue
        paper, small = (PRESETS[preset].get(field.name) for preset in ("paper", "small"))
        shown = _shown(paper or field.default) + (f"; small {_shown(small)}" if small else "")
        parser.add_argument(
            option,
            type=type(field.default),
            choices=field.metadata["choices"],
            default=None,
            metavar=None if field.metadata["choices"] else field.name.rpartition("_")[2].upper(),
            help=f"{help_} (default: {shown})",
        )


def _shown(value: Any) -> str:
    return value or "none" if isinstance(value, str) else f"{value:g}"


def _skipped(run: Path) -> int:
    """The number of broken images: while reading them, or with --stream up to the last step."""
    from facepcl.pretrain.log import read_log

    config = json.loads((run / "config.json").read_text("utf-8"))
    if not config["stream"]:
        return len(config["skipped"])
    return next((line["skipped"] for line in reversed(read_log(run / "log.jsonl")) if "skipped" in line), 0)


def run(args: argparse.Namespace) -> int:
    from facepcl.pretrain import loop
    from facepcl.pretrain.config import PRESETS, option_fields, unread

    given = {f.name: getattr(args, f.name) for f in option_fields()}
    given = {name: value for name, value in given.items() if value is not None}
    numbers = {**PRESETS[args.preset], **given}
    lengths = [f"--{name} {given[name]:g}" for name in ("steps", "epochs", "minutes") if given.get(name)]
    if len(lengths) > 1:
        raise OptionError(f"{' and '.join(lengths)} are mutually exclusive: give one")
    if lengths and not given.get("epochs"):
        numbers["epochs"] = 0.0
    config = loop.Config(data=tuple(args.data), out=args.out, **numbers)
    if is_first() and (ignored := unread(config, given)):
        options = ", ".join("--" + name.replace("_", "-") for name in ignored)
        _logger.warning("these options have no effect with --method %s: %s", config.method, options)
    encoder = loop.run(config, progress=True)
    if is_first():
        skipped = _skipped(encoder.parent)
        broken = f"{skipped} broken images were skipped; " if skipped else ""
        call = f'facepcl.create_model("local-dir:{encoder}", pretrained=True)'
        print(f"{broken}wrote {encoder}; load it with {call}")
    return 0
