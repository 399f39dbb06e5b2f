"""`facepcl models`: what `facepcl.list_models` tells, or weights fetched ahead by `facepcl.download`."""

import argparse
import json
from dataclasses import asdict

from facepcl.utils.streams import is_terminal

DESCRIPTION = "List the models, or download weights in advance and print their folder."
EXAMPLE = """example: facepcl models
         facepcl models --download hf-hub:ORG/NAME

Use --download to build a container: the weights then load with HF_HUB_OFFLINE=1."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument(
        "--download",
        nargs="+",
        metavar="NAME",
        help="download hf-hub:ORG/NAME[@REVISION], or weights of the list, and print the folder of each",
    )


def run(args: argparse.Namespace) -> int:
    import facepcl

    if args.download:
        for name in args.download:
            print(facepcl.download(name, progress=is_terminal()), flush=True)
        return 0
    models = facepcl.list_models()
    if args.json:
        print(json.dumps([asdict(info) for info in models], indent=2))
        return 0
    rows = [("model", "parameters", "input", "weights", "licence")]
    for info in models:
        name = f"{info.name}.{info.tag}" if info.tag else info.name
        size = "x".join(map(str, info.input_size))
        rows.append((name, f"{info.parameters:,}", size, info.weights, info.license or ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
