"""Move the encoder and heads of a recorded run into the package, with a row of index.json.

    python tools/bundle_weights.py pcl_facecycle.synth_labels --data "..." --command "..." --size 64

takes MODEL.TAG.safetensors and MODEL.TAG.heads.safetensors from examples/synthetic_faces/runs/, where
tools/continue_training.py leaves them, and what run-N.json says of the heads; one of the two is enough. The
files stay as they are, so that the repository holds them once.
"""

import argparse
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from facepcl.models.io import HEADS_FILE
from facepcl.models.registry import WEIGHTS, Row, read_index, write_index
from facepcl.utils.files import sha256_file

RUNS = Path(__file__).resolve().parents[1] / "examples/synthetic_faces/runs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", help="MODEL.TAG")
    parser.add_argument("--data", help="what the weights saw, in a sentence")
    parser.add_argument("--command", help="the command that made them")
    parser.add_argument("--size", type=int, help="pixels they were trained at last")
    args = parser.parse_args()
    model, _, tag = args.name.partition(".")
    rows = {(row.model, row.tag): row for row in read_index()}
    row = rows.get((model, tag)) or Row(model, tag, "", 0, "CC0-1.0", "", "")
    encoder, heads = (RUNS / f"{args.name}.{name}" for name in ("safetensors", HEADS_FILE))
    if not (encoder.is_file() or heads.is_file()):
        parser.error(f"{RUNS} has neither {encoder.name} nor {heads.name}")
    if encoder.is_file():
        row = replace(row, **move_encoder(encoder))
    if heads.is_file():
        row = replace(row, heads=move_heads(heads))
    given = {"training_data": args.data, "command": args.command, "input_size": args.size}
    row = replace(row, **{name: value for name, value in given.items() if value is not None})
    write_index((rows | {(model, tag): row}).values())
    print(json.dumps(asdict(row), indent=2))


def move_encoder(path: Path) -> dict[str, Any]:
    """Move an encoder; what its row says of the file. Scores and heads of other weights are dropped."""
    target = Path(shutil.move(path, WEIGHTS / path.name))
    target.with_suffix(f".{HEADS_FILE}").unlink(missing_ok=True)
    dropped: dict[str, Any] = {"metrics": {}, "cosines": {}, "heads": {}}
    return {"file": path.name, "sha256": sha256_file(target), "bytes": target.stat().st_size, **dropped}


def move_heads(path: Path) -> dict[str, Any]:
    """Move heads; their description, out of the configuration of their run."""
    with safe_open(path, "pt") as file:
        number = file.metadata()["run"]
    shutil.move(path, WEIGHTS / path.name)
    return dict(json.loads((RUNS / f"run-{number}.json").read_text("utf-8"))["heads"])


if __name__ == "__main__":
    main()
