"""Folders that hold a model of timm and its branches, as `save_encoder` writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facepcl.errors import WeightsError
from facepcl.models.branched import BranchedModel
from facepcl.models.io import BRANCHES_FILE, WEIGHTS_FILE, load_tensors
from facepcl.models.model_args import make_described


def load_branched(
    folder: Path,
    cfg: Mapping[str, Any],
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    pretrained: bool,
) -> nn.Module:
    """The model of timm in a folder, with its branches.

    Args:
        folder: Its weights and those of the branches.
        cfg: timm's description, from config.json, with the architecture.
        arguments: Of the constructor, from config.json.
        options: Those of the caller, which replace them.
        pretrained: Load the weights; a classifier of another width keeps its random ones.

    Raises:
        WeightsError: The weights are not those of the network that config.json describes.
    """
    tensors = {f"trunk.{key}": value for key, value in load_tensors(folder / WEIGHTS_FILE).items()}
    tensors |= load_tensors(folder / BRANCHES_FILE)
    arguments = {**arguments, **options}
    on_meta = _make(folder, cfg, arguments, device="meta")  # takes no memory, whatever is described
    head = f"trunk.{on_meta.pretrained_cfg.get('classifier')}." if "num_classes" in options else None
    tensors, network = (
        {name: tensor for name, tensor in some.items() if not (head and name.startswith(head))}
        for some in (tensors, on_meta.state_dict())
    )
    _check_shapes(folder, tensors, network)
    model = _make(folder, cfg, arguments)
    if pretrained:
        model.load_state_dict(tensors, strict=head is None)
    return model


def _make(
    folder: Path, cfg: Mapping[str, Any], arguments: Mapping[str, Any], device: str | None = None
) -> BranchedModel:
    return BranchedModel(make_described(folder, cfg["architecture"], cfg, arguments, device))


def _check_shapes(
    folder: Path, tensors: Mapping[str, torch.Tensor], network: Mapping[str, torch.Tensor]
) -> None:
    for name in sorted({*tensors, *network}):
        found, wanted = (list(some[name].shape) if name in some else "missing" for some in (tensors, network))
        if found != wanted:
            raise WeightsError(
                f"{folder}: {name} is {found} in its weights and {wanted} in the network that config.json "
                "describes"
            )
