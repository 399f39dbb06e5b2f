"""Constructor arguments in `config.json`: recorded when a network is saved, checked before one is made."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import DropBlock2d, DropPath
from timm.models import get_model_args
from torch import nn

from facepcl.errors import FacepclError, OptionError, WeightsError
from facepcl.models.pcl_facecycle import PclFaceCycle
from facepcl.models.pcl_resnet import PclResNet
from facepcl.models.weights import fit_state_dict, wrong_shape

WIDEST = 1 << 16  # classes, channels or another number among the arguments
LARGEST_SIDE = 4096  # pixels of an input, and of the image it is cut from
STOCK_PARAMETERS = 1e8  # that arguments may add to twice those of one of timm's own models
SOURCES = ("source", "url", "file", "hf_hub_id", "hf_hub_filename", "state_dict", "custom_load")
_TRAINING_ONLY = (nn.Identity, nn.Dropout, DropPath, DropBlock2d)


def record_model_args(model: Any, branches: bool | None = None) -> dict[str, Any]:
    """The arguments from which `create_model` makes the network of `model` again; `branches` are ours alone.

    Raises OptionError where config.json cannot hold them, or where the network was changed after it was made.
    """
    if not getattr(model, "pretrained_cfg", None):
        raise OptionError(f"a {type(model).__name__} cannot be saved; give the model that create_model made")
    architecture = model.pretrained_cfg["architecture"]
    arguments = get_model_args(model) | ({} if branches is None else {"branches": branches})
    for name, value in arguments.items():
        try:
            arguments[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"{architecture} cannot be saved: config.json cannot hold {name}={value!r:.60}; make the "
                "model with text and numbers, such as act_layer='gelu'"
            ) from error
    with torch.device("meta"):
        again = timm.create_model(architecture, pretrained_cfg=dict(model.pretrained_cfg), **arguments)
    found, wanted = _layers(again), _layers(model)
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise OptionError(
                f"{architecture} cannot be saved: {name} is {wanted.get(name, 'missing')}, and "
                f"{found.get(name, 'missing')} in the network that config.json can describe; pass what "
                "changes a network to create_model"
            )
    return arguments


def _layers(network: nn.Module) -> dict[str, str]:
    """What computes the output of a network, by name: its layers and the classes around them."""
    return {
        name: _describe(module)
        for name, module in network.named_modules()
        if name and not isinstance(module, _TRAINING_ONLY)
    }


def _describe(module: nn.Module) -> str:
    if next(module.children(), None) is not None:
        return type(module).__name__
    text = re.sub(r"(, )?(inplace|momentum)=[^,)]*", "", repr(module))  # no change of an output
    return re.sub(r"^\w*SyncBatchNorm\w*\(", "BatchNorm2d(", text)  # nor is this one


def check_model_args(
    folder: Path,
    architecture: str,
    cfg: Mapping[str, Any],
    arguments: Mapping[str, Any],
    shapes: Mapping[str, list[int]],
) -> None:
    """Raise WeightsError unless a config.json describes the network whose tensors have these `shapes`.

    The network is made on torch's meta device, so a description of any size takes no memory.
    """
    check_preprocessing(folder, cfg)
    network: type = PclResNet if "resnet" in architecture else PclFaceCycle
    known = {name for cls in (network, *network.__bases__) for name in inspect.signature(cls).parameters}
    for name in arguments:
        if name not in known | {"branches"} or name in ("device", "dtype"):
            raise WeightsError(
                f"{folder}: its config.json has {name!r:.40} among model_args, which is unknown"
            )
    _check_numbers(folder, {**arguments, "num_classes": arguments.get("num_classes", cfg.get("num_classes"))})
    if sum(_numbers(arguments.get("layers"))) > len(shapes):  # each makes objects, on the meta device too
        raise WeightsError(f"{folder}: its config.json describes more layers than there are tensors")
    model = make_described(folder, architecture, cfg, arguments, device="meta")
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if wrong := wrong_shape(fit_state_dict(tensors, model, str(folder)), model.state_dict()):
        raise WeightsError(f"{folder} does not fit the network that its config.json describes: {wrong}")


def make_described(
    folder: Path,
    architecture: str,
    cfg: Mapping[str, Any],
    arguments: Mapping[str, Any],
    device: str | None = None,
    **timm_options: Any,
) -> Any:
    """The network that a config.json describes. Raises WeightsError if timm cannot make one of it."""
    try:
        with torch.device(device) if device else nullcontext():
            return timm.create_model(architecture, pretrained_cfg=dict(cfg), **arguments, **timm_options)
    except FacepclError:
        raise
    except Exception as error:  # whatever timm makes of a value that it did not expect
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise WeightsError(
            f"{folder}: timm cannot make what its config.json describes ({reason:.200})"
        ) from error


def check_stock(where: str | Path, config: Mapping[str, Any]) -> None:
    """Raise WeightsError if the config.json of one of timm's own models describes something far larger."""
    cfg, arguments = config.get("pretrained_cfg", config), config.get("model_args", {})
    folder, architecture = Path(where), config["architecture"]
    check_preprocessing(folder, cfg)
    _check_numbers(folder, {**arguments, "num_classes": config.get("num_classes", cfg.get("num_classes"))})
    depths = {name: value for name, value in arguments.items() if name not in ("num_classes", "in_chans")}
    if sum(_numbers(depths)) == 0:
        return
    if any(number > LARGEST_SIDE for number in _numbers(depths)):  # each may be a count of layers
        raise WeightsError(f"{folder}: the model_args of its config.json have numbers above {LARGEST_SIDE}")
    own: Mapping[str, Any] = {}
    sizes = [
        sum(p.numel() for p in make_described(folder, architecture, {}, args, "meta").parameters())
        for args in (own, arguments)
    ]
    if sizes[1] > 2 * sizes[0] + STOCK_PARAMETERS:
        raise WeightsError(
            f"{folder}: its config.json describes {sizes[1]:.2g} parameters, and {architecture} has "
            f"{sizes[0]:.2g}"
        )


def check_preprocessing(folder: Path, cfg: Mapping[str, Any]) -> None:
    """Refuse a size of images that no network has: they are made and resized before any weight is used."""
    size, share = cfg.get("input_size") or [3, 1, 1], cfg.get("crop_pct") or 1
    numbers = isinstance(size, (list, tuple)) and [*map(type, size)] == [int] * 3
    if not numbers or min(size) < 1 or size[0] > WIDEST or max(size[1:]) > LARGEST_SIDE:
        raise WeightsError(f"{folder}: input_size in its config.json is {size!r:.40}, not a size of images")
    if not isinstance(share, (int, float)) or not LARGEST_SIDE * share >= max(size[1:]):
        raise WeightsError(f"{folder}: crop_pct in its config.json is {share!r:.40}, not a share of an image")


def _check_numbers(folder: Path, arguments: Mapping[str, Any]) -> None:
    for name in ("num_classes", "in_chans"):
        if not isinstance(width := arguments.get(name) or 0, int) or not 0 <= width <= WIDEST:
            raise WeightsError(f"{folder}: {name} in its config.json is {width!r:.40}, not a width")
    for name, value in arguments.items():
        if not all(number <= WIDEST for number in _numbers(value)):
            raise WeightsError(f"{folder}: {name} in its config.json is {value!r:.40}, above {WIDEST}")


def _numbers(value: Any) -> Iterator[float]:
    """The numbers anywhere in a value of JSON, without signs."""
    if isinstance(value, (int, float)):
        yield abs(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, Mapping):
        yield from _numbers(list(value.values()))
