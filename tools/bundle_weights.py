"""Put a trained encoder into the package: float16 file in facepcl/weights/ and its row in index.json.

    python tools/bundle_weights.py RUN/encoder pcl_facecycle.TAG --license CC0-1.0 --data "..." \\
        --command "..." --metric fer2013=43.1 --metric lfw=66.2
"""

import argparse
import json
from dataclasses import asdict

import facepcl
from facepcl._files import sha256_file
from facepcl.checkpoints import write_json
from facepcl.index import WEIGHTS, Row, read_index
from facepcl.pretrained import save_tensors


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
    encoder = facepcl.create_model(f"local-dir:{args.folder}")
    path = WEIGHTS / f"{args.name}.safetensors"
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in encoder.state_dict().items()
    }
    save_tensors(halves, path, {"model": model, "tag": tag, "license": args.license})
    path.chmod(0o644)
    row = Row(
        model=model,
        tag=tag,
        sha256=sha256_file(path),
        bytes=path.stat().st_size,
        license=args.license,
        training_data=args.data,
        command=args.command,
        file=path.name,
        metrics={name: float(value) for name, _, value in (metric.partition("=") for metric in args.metric)},
    )
    others = [asdict(r) for r in read_index() if (r.model, r.tag) != (model, tag)]
    write_json({"weights": [*others, asdict(row)]}, WEIGHTS / "index.json")
    print(json.dumps(asdict(row), indent=2))


if __name__ == "__main__":
    main()
