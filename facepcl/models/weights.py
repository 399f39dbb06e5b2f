"""From the weights index to timm's default cfgs, and the checks that timm leaves out when it loads a file."""

import logging
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facepcl.errors import OptionError, WeightsError
from facepcl.models.branches import is_branch
from facepcl.models.registry import read_index, rows_of
from facepcl.utils.files import sha256_file

_logger = logging.getLogger("facepcl")

THREE_WAYS = (
    "train some (facepcl pretrain), convert a checkpoint (facepcl convert) or name a repository "
    '("hf-hub:ORG/NAME")'
)


def cfg_rows(model: str, **shape: Any) -> dict[str, Any]:
    """timm's default cfgs of one architecture: a row a tag, or one without weights."""
    base = {
        "num_classes": 0,  # the files hold no classifier
        "classifier": "fc",
        "min_input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "paper_ids": "arXiv:2211.13490",
        "paper_name": "Pose-disentangled Contrastive Learning for Self-supervised Facial Representation",
        **shape,
    }
    cfgs: dict[str, Any] = {
        f"{model}.{row.tag}": {
            **base,
            **_sizes(row.input_size or shape["input_size"][1], shape),
            "license": row.license,
            "description": row.training_data,
            "file": row.path and str(row.path),
            "hf_hub_id": row.hf_hub_id,
        }
        for row in rows_of(model)
    }
    return cfgs or {f"{model}.untrained": base}


def _sizes(size: int, shape: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Sides of images of `size` pixels and of their last map; `shape` has those of the model's own size."""
    side = math.ceil(size * shape["pool_size"][0] / shape["input_size"][1])
    return {"input_size": (3, size, size), "pool_size": (side, side)}


def check_pretrained(model: str, pretrained: Any, options: dict[str, Any]) -> None:
    """Refuse what timm would misread: a path as `pretrained`, and `pretrained=True` without weights."""
    if not isinstance(pretrained, (bool, int)):
        raise OptionError(
            f"pretrained={pretrained!r}: timm takes True or False here; a path is for "
            f'facepcl.create_model("{model}", pretrained="FILE.safetensors")'
        )
    if not pretrained:
        cfg = options.get("pretrained_cfg")
        if isinstance(cfg, dict) and cfg.get("source") in ("hf-hub", "local-dir"):  # timm's own call
            warn_untrained(f"{cfg['source']}:{cfg.get('hf_hub_id') or cfg.get('file')}")
        return
    from timm.models._builder import resolve_pretrained_cfg  # timm, once imported, imports this file

    cfg = resolve_pretrained_cfg(
        model,
        pretrained_cfg=options.get("pretrained_cfg"),
        pretrained_cfg_overlay=options.get("pretrained_cfg_overlay"),
    )
    if not (cfg.has_weights or cfg.state_dict or cfg.source):
        raise WeightsError(f"there are no pretrained weights for {model}; {THREE_WAYS}")
    if cfg.file and not cfg.state_dict and not Path(cfg.file).exists():
        raise WeightsError(f"{cfg.file}: there is no such weights file")
    warn_random_classifier(cfg.file or cfg.hf_hub_id or model, cfg.num_classes, options.get("num_classes"))


def warn_untrained(name: str) -> None:
    """Say that the network of a folder or repository is made without its weights."""
    _logger.warning(
        f"{name} is made with random weights, as pretrained=False says; "
        f'type create_model("{name}", pretrained=True) for its own'
    )


def warn_random_classifier(where: str | Path, found: int | None, wanted: int | None) -> None:
    """Say that weights with a classifier for `found` classes leave one for `wanted` classes random."""
    if found and wanted and found != wanted:
        _logger.warning("%s has a classifier for %s classes; that for %s is random", where, found, wanted)


@cache
def _sha256_of(path: str, size: int, mtime: int) -> str:
    """Once a process and file: hashing 100 MB takes a second."""
    return sha256_file(Path(path))


def check_sha256(path: Path) -> str:
    """The file's sha256; a WeightsError if a bundled file is not the one that the index describes."""
    stat = path.stat()
    digest = _sha256_of(str(path), stat.st_size, stat.st_mtime_ns)
    for row in read_index():
        if row.path == path and row.sha256 != digest:
            raise WeightsError(
                f"{path} is damaged: sha256 {digest[:12]} instead of {row.sha256[:12]}; install facepcl again"
            )
    return digest


def _listing(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def wrong_shape(tensors: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]) -> str:
    """The first of the `tensors` whose shape is not that in the `network`; empty if there is none."""
    for name, tensor in tensors.items():
        if name in network and tensor.shape != network[name].shape:
            return f"{name} is {list(tensor.shape)}, not {list(network[name].shape)}"
    return ""


def fit_state_dict(
    state_dict: dict[str, torch.Tensor], model: nn.Module, where: str = ""
) -> dict[str, torch.Tensor]:
    """The tensors that `model` takes of a file; a WeightsError unless they are all there and all meant.

    timm loads non-strictly as soon as the number of classes differs, so this check must not depend on it.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    own = model.state_dict()
    head = "fc."
    if not any(map(is_branch, own)):
        state_dict = {key: value for key, value in state_dict.items() if not is_branch(key)}
    missing = [key for key in own if key not in state_dict and not key.startswith(head)]
    unexpected = [key for key in state_dict if key not in own and not key.startswith(head)]
    name, file = cfg.get("architecture", type(model).__name__), cfg.get("file")
    where = where or file or "the state dict"
    if missing:
        hint = " (made without branches? then ask for branches=False)" if all(map(is_branch, missing)) else ""
        raise WeightsError(f"{where} does not fit {name}: missing {_listing(missing)}{hint}")
    if unexpected:
        raise WeightsError(f"{where} does not fit {name}: unexpected {_listing(unexpected)}")
    replaced = (head, cfg.get("first_conv") or head)  # timm fits these to num_classes and in_chans
    if wrong := wrong_shape({key: t for key, t in state_dict.items() if not key.startswith(replaced)}, own):
        raise WeightsError(f"{where} does not fit {name}: {wrong}")
    if file and Path(file).is_file():
        _logger.info(
            "%s: weights from %s, sha256 %s",
            ".".join(filter(None, (name, cfg.get("tag")))),
            file,
            check_sha256(Path(file))[:12],
        )
    return dict(state_dict)
