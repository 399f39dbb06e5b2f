"""Put a trained encoder and its heads into the package: float16 in facepcl/weights/, a row of index.json.

    python tools/bundle_weights.py RUN/encoder pcl_facecycle.TAG --license CC0-1.0 --data "..." \\
        --command "..." --metric fer2013=43.1 --metric lfw=66.2
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

import facepcl
from facepcl.models.heads import describe_heads
from facepcl.models.io import HEADS_FILE, save_tensors
from facepcl.models.registry import WEIGHTS, Row, read_index, write_index
from facepcl.utils.files import sha256_file


def save_halves(network: nn.Module, name: str, about: dict[str, str]) -> Path:
    """Write the weights of a network in float16 to the package's folder of weights."""
    path = WEIGHTS / name
    tensors = network.state_dict().items()
    save_tensors({k: v.half() if v.is_floating_point() else v for k, v in tensors}, path, about)
    path.chmod(0o644)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", help="encoder folder of a run")
    parser.add_argument("name", help="MODEL.TAG")
    parser.add_argument("--license", required=True, help="SPDX name of the weights' licence")
    parser.add_argument("--data", required=True, help="what the weights saw, in a sentence")
    parser.add_argument("--command", required=True, help="the command that made them")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()

    model, _, tag = args.name.partition(".")
    known = {(row.model, row.tag): row for row in read_index()}
    row = bundle_encoder(args, model, tag)
    write_index((known | {(model, tag): row}).values())
    print(json.dumps(asdict(row), indent=2))


def bundle_encoder(args: argparse.Namespace, model: str, tag: str) -> Row:
    """Write the encoder of a run; its row."""
    folder = f"local-dir:{args.folder}"
    encoder: Any = facepcl.create_model(folder)
    about = {"model": model, "tag": tag, "license": args.license}
    path = save_halves(encoder, f"{args.name}.safetensors", about)
    heads: dict[str, Any] = {}
    if (Path(args.folder) / HEADS_FILE).is_file():
        layers = facepcl.create_heads(folder)
        save_halves(layers, f"{args.name}.{HEADS_FILE}", about)
        heads = describe_heads(layers.specs)
    return Row(
        model=model,
        tag=tag,
        sha256=sha256_file(path),
        bytes=path.stat().st_size,
        license=args.license,
        training_data=args.data,
        command=args.command,
        file=path.name,
        input_size=encoder.pretrained_cfg["input_size"][-1],
        heads=heads,
        metrics={name: float(value) for name, _, value in (metric.partition("=") for metric in args.metric)},
    )


if __name__ == "__main__":
    main()
