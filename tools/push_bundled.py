"""Publish the weights of the package on the Hugging Face Hub, and write their revisions into index.json.

    python tools/push_bundled.py ORG --dry-run
    python tools/push_bundled.py ORG

Every bundled row of facepcl/weights/index.json becomes ORG/MODEL.TAG, in float16 as in the package; its
`hf_hub_id` then names the revision.
"""

import argparse
import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from facepcl.cli.push import describe
from facepcl.hub import push
from facepcl.hub.card import CARD_FILE, Facts, card_of
from facepcl.models.factory import create_heads, create_model
from facepcl.models.io import load_tensors, save_encoder, save_tensors
from facepcl.models.registry import Row, read_index, write_index
from facepcl.utils.files import sha256_file


def write_folder(row: Row, folder: Path, name: str) -> Path:
    """Write the weights of a row as a folder with its card, for those who load it as `hf-hub:NAME`."""
    weights = f"{row.model}.{row.tag}"
    heads = create_heads(weights) if row.heads else None
    about = {"tag": row.tag, "license": row.license, "description": row.training_data}
    save_encoder(create_model(weights, pretrained=True), folder, None, about, heads)
    for path in folder.glob("*.safetensors"):
        halves = {k: v.half() if v.is_floating_point() else v for k, v in load_tensors(path).items()}
        save_tensors(halves, path)
    facts = Facts(row.training_data, row.command, metrics=row.metrics)
    (folder / CARD_FILE).write_text(card_of(folder, f"hf-hub:{name}", facts), "utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("organisation", metavar="ORG")
    parser.add_argument("--private", action="store_true", help="new repositories are private")
    parser.add_argument("--dry-run", action="store_true", help="check everything, send nothing")
    args = parser.parse_args()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns when nothing has changed
    options = {"private": args.private, "dry_run": args.dry_run, "progress": sys.stderr.isatty()}
    for row in [row for row in read_index() if row.path]:
        name = f"{args.organisation}/{row.model}.{row.tag}"
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_folder(row, Path(temporary) / "encoder", name)
            pushed = push(folder, name, **options)
            hashes = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
        if pushed.revision:  # at once: a push that fails later does not lose this one
            published = replace(row, hf_hub_id=f"{name}@{pushed.revision}", hub_sha256=hashes)
            write_index(published if (r.model, r.tag) == (row.model, row.tag) else r for r in read_index())
        print(describe(pushed))


if __name__ == "__main__":
    main()
