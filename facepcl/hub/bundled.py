"""`facepcl.hub.push_bundled`: the weights of the package onto the Hub, and where they are into the index."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from facepcl.errors import OptionError
from facepcl.hub.card import CARD_FILE, Facts, card_of
from facepcl.hub.push_folder import Pushed, push
from facepcl.models.factory import create_decoder, create_heads, create_model
from facepcl.models.io import load_tensors, save_encoder, save_tensors
from facepcl.models.registry import WEIGHTS, Row, read_index, write_index
from facepcl.utils.files import sha256_file


def push_bundled(
    organisation: str, *, private: bool = False, dry_run: bool = False, progress: bool = False
) -> list[Pushed]:
    """Publish every bundled row of `weights/index.json` as ORGANISATION/MODEL.TAG, in float16 as here.

    Each row's `hf_hub_id` then names the revision. Raises OptionError if the index cannot be written, and
    what `push` raises.
    """
    index = WEIGHTS / "index.json"
    if not os.access(WEIGHTS, os.W_OK):
        raise OptionError(f"{index} cannot be written: --bundled belongs into a checkout of facepcl")
    done = []
    for row in [row for row in read_index() if row.path]:
        name = f"{organisation}/{row.model}.{row.tag}"
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_folder(row, Path(temporary) / "encoder", name)
            pushed = push(folder, name, private=private, dry_run=dry_run, progress=progress)
            hashes = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
        done.append(pushed)
        if pushed.revision:  # at once: a push that fails later does not lose this one
            _record(row, f"{name}@{pushed.revision}", hashes)
    return done


def write_folder(row: Row, folder: Path, name: str) -> Path:
    """The weights of a row as a folder with its card, for those who load it as `hf-hub:NAME`."""
    weights = f"{row.model}.{row.tag}"
    decoder = create_decoder(weights) if row.decoder else None
    heads = create_heads(weights) if row.heads else None
    about = {"tag": row.tag, "license": row.license, "description": row.training_data}
    save_encoder(create_model(weights, pretrained=True), folder, decoder, about, heads)
    for path in folder.glob("*.safetensors"):
        halves = {k: v.half() if v.is_floating_point() else v for k, v in load_tensors(path).items()}
        save_tensors(halves, path)
    facts = Facts(row.training_data, row.command, metrics=row.metrics)
    (folder / CARD_FILE).write_text(card_of(folder, f"hf-hub:{name}", facts), "utf-8")
    return folder


def _record(row: Row, hub_id: str, hashes: Mapping[str, str]) -> None:
    there = replace(row, hf_hub_id=hub_id, hub_sha256=dict(hashes))
    if there != row:
        write_index(there if (r.model, r.tag) == (row.model, row.tag) else r for r in read_index())
