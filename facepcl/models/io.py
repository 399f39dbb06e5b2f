"""Tensors to files and back: safetensors only, contiguous, under a temporary name until whole."""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn

from facepcl.errors import MissingPath, WeightsError
from facepcl.models.branched import BranchedModel, check_input
from facepcl.models.branches import is_branch
from facepcl.models.heads import Heads, describe_heads
from facepcl.models.model_args import record_model_args
from facepcl.models.pcl_resnet import PclResNet
from facepcl.utils.files import atomic, check_exists, remove_temporaries, temporary_name

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
BRANCHES_FILE = "branches.safetensors"
DECODER_FILE = "decoder.safetensors"
HEADS_FILE = "heads.safetensors"  # those of `facepcl.create_heads`, described in config.json
ORIGINAL_HEADS_FILE = "original_heads.safetensors"  # of a converted checkpoint: projection heads, probe
ABOUT = "about"  # of config.json's `facepcl`: what is known of these weights
DESCRIPTIVE = ("tag", "license", "description", "origin_url", "notes")  # of weights, not of an architecture
PARTS = ("pretrained_cfg", "model_args", "facepcl")  # of config.json, each an object
STOCK_NAMES = {"pcl_resnet18": "resnet18", "pcl_resnet50": "resnet50"}


def save_tensors(
    tensors: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors of any memory layout to a safetensors file."""
    # safetensors refuses channels_last tensors and ones that share memory; a contiguous copy is neither
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary, _room_for(path):
        temporary.touch()
        rights = temporary.stat().st_mode
        save_file(plain, str(temporary), dict(metadata or {}))
        temporary.chmod(rights)  # safetensors leaves a file that nobody else may read


@contextmanager
def _room_for(path: str | Path) -> Iterator[None]:
    """Turns a disk that is full into one sentence; safetensors hides the system's error in its own."""
    try:
        yield
    except SafetensorError as error:
        raise WeightsError(f"{path} could not be written ({error})") from error


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file. Raises MissingPath, or WeightsError if it is none or is cut off."""
    with _explained(path):
        return load_file(str(path))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors. Raises as `load_tensors` does."""
    with _explained(path), safe_open(str(path), "pt") as file:
        return file.metadata() or {}


def read_shapes(path: str | Path) -> dict[str, list[int]]:
    """Name and shape of every tensor of a safetensors file, without reading them. Raises as
    `load_tensors`."""
    with _explained(path), safe_open(str(path), "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Turns a missing or damaged file into one sentence that names it."""
    check_exists(path)
    try:
        yield
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a complete safetensors file ({_kind(path) or error})") from error


def _kind(path: str | Path) -> str:
    """What a download has often left in the place of weights."""
    with open(path, "rb") as file:
        start = file.read(100).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: git lfs pull fetches the file"
    return "a web page" if start.startswith((b"<!doctype html", b"<html")) else ""


def save_encoder(
    model: nn.Module,
    folder: str | Path,
    decoder: nn.Module | None = None,
    about: Mapping[str, str] | None = None,
    heads: Heads | None = None,
) -> Path:
    """Write an encoder as a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`; return
    the folder.

    `about`: the `tag`, `license` and `description` of these weights, for `config.json`; those of the weights
    from which they were trained are not theirs and left out.

    The folder of an encoder without branches says so, and `facepcl.create_model` then makes none either.
    The folder of a ResNet or of another of timm's models names timm's stock architecture and holds the trunk
    alone, so that a machine without facepcl loads it; the branches lie beside it in `branches.safetensors`.
    """
    folder, model = Path(folder), getattr(model, "_orig_mod", model)  # of torch.compile
    branches = {key: value for key, value in model.state_dict().items() if is_branch(key)}
    if isinstance(model, BranchedModel):
        arguments = record_model_args(model.trunk)
    else:
        arguments = record_model_args(model, bool(branches))
    remove_temporaries(folder)
    partial = temporary_name(folder)
    partial.mkdir(parents=True)
    # a copy: safetensors refuses channels_last tensors, and the caller's model keeps its layout
    plain: Any = copy.deepcopy(model).cpu().float().to(memory_format=torch.contiguous_format)
    plain.pretrained_cfg = without_claims(plain.pretrained_cfg) | dict(about or {})
    architecture = plain.pretrained_cfg["architecture"]
    own: dict[str, Any] = {"heads": describe_heads(heads.specs)} if heads else {}
    if about:
        own[ABOUT] = dict(about)
    options: dict[str, Any] = {"model_args": arguments}
    trunk: nn.Module = plain
    if isinstance(plain, BranchedModel):
        trunk = plain.trunk
    elif isinstance(plain, PclResNet):
        del arguments["branches"]  # timm's own ResNet has none
        trunk = _stock_trunk(plain, arguments)
    if trunk is not plain:
        own |= {"architecture": architecture, "branches": BRANCHES_FILE if branches else None}
        if branches:
            save_tensors({key: plain.state_dict()[key] for key in branches}, partial / BRANCHES_FILE)
    if own:
        options["model_config"] = {"facepcl": own}
    with _room_for(folder):
        save_for_hf(trunk, str(partial), safe_serialization=True, **options)
    _without_repetition(partial / CONFIG_FILE)
    shutil.copymode(partial / CONFIG_FILE, partial / WEIGHTS_FILE)  # as in save_tensors
    if decoder is not None:
        save_tensors(decoder.state_dict(), partial / DECODER_FILE)
    if heads:
        save_tensors(heads.state_dict(), partial / HEADS_FILE)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def without_claims(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """timm's description of a network, without what it says of particular weights."""
    return {key: value for key, value in cfg.items() if key not in DESCRIPTIVE}


def claims_of(config: Mapping[str, Any]) -> dict[str, str]:
    """What `save_encoder` or `push` recorded of the weights of a `config.json`: tag, licence, description.

    Its `pretrained_cfg` alone, which is for timm, is not believed: timm keeps what it loaded, and saves it
    with whatever was trained from it. transformers does the same with the whole of our config.json.
    """
    about = config.get("facepcl", {}).get(ABOUT)
    if not isinstance(about, dict) or "transformers_version" in config:
        return {}
    return {key: about[key] for key in DESCRIPTIVE if isinstance(about.get(key), str)}


def cfg_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's description of the weights of a `config.json`, with the claims that are theirs."""
    return without_claims(config.get("pretrained_cfg", {})) | claims_of(config)


def size_cfg(model: Any, size: int) -> dict[str, tuple[int, ...]]:
    """timm's description of images of `size` pixels and of the last map that `model` makes of them."""
    images = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    maps = check_input(model, model.pretrained_cfg["architecture"], images)
    return {"input_size": (3, size, size), "pool_size": tuple(maps.shape[2:])}


def _stock_trunk(model: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """timm's own ResNet with the trunk's weights."""
    stock = STOCK_NAMES[model.pretrained_cfg["architecture"]]
    trunk = timm.create_model(
        stock, pretrained_cfg={**model.pretrained_cfg, "architecture": stock}, **arguments
    )
    trunk.load_state_dict({key: value for key, value in model.state_dict().items() if not is_branch(key)})
    return trunk


def _without_repetition(path: Path) -> None:
    """Drop from model_args what config.json says elsewhere too: transformers passes num_classes itself, and
    refuses a folder in which it finds it twice."""
    config = json.loads(path.read_text("utf-8"))
    for name, said in (
        ("num_classes", config["num_classes"]),
        ("in_chans", config["pretrained_cfg"]["input_size"][0]),
        ("global_pool", "avg"),
    ):
        if config["model_args"].get(name) == said:
            del config["model_args"][name]
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The timm `config.json` of a folder. Raises MissingPath, or WeightsError if it cannot be one."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise MissingPath(
            f"{folder} has no config.json; a folder written by facepcl pretrain has one in encoder/"
        )
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not valid JSON ({error})") from error
    parts = [config, *(config.get(key, {}) for key in PARTS)] if isinstance(config, dict) else [config]
    if not all(isinstance(part, dict) for part in parts):
        raise WeightsError(f"{path} does not describe a model")
    return config
