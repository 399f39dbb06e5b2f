"""`facepcl.hub.convert`: a third-party checkpoint becomes a folder that `create_model` and timm load."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from facepcl.errors import OptionError, WeightsError
from facepcl.hub.card import CARD_FILE, card_of
from facepcl.hub.torch_checkpoint import read_checkpoint, recognise
from facepcl.models.branches import is_branch
from facepcl.models.decoder import Decoder
from facepcl.models.factory import create_model
from facepcl.models.io import ORIGINAL_HEADS_FILE, STOCK_NAMES, save_encoder, save_tensors, size_cfg
from facepcl.models.model_args import LARGEST_SIDE
from facepcl.models.remap import State
from facepcl.models.weights import wrong_shape
from facepcl.utils.files import SHOWN, as_path, check_folder, sha256_file

ARCHS = tuple(STOCK_NAMES.values())
RESNET_SIZE = 224  # pixels that most ResNets were trained at

_logger = logging.getLogger("facepcl")


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    license: str | None = None,
) -> Path:
    """Convert a third-party checkpoint to a folder for `local-dir:`. No code in the file is run.

    Args:
        checkpoint: Without `arch`, a checkpoint of the original PCL: of training, the encoder alone, or with
            a linear probe. Projection heads and probe go to `original_heads.safetensors`, the decoder to
            `decoder.safetensors`.
        out: The folder to write; new or empty.
        arch: `resnet18` or `resnet50` for a ResNet under torchvision's or timm's names.
        mean: With `arch`, three numbers that the weights expect to be subtracted; default ImageNet's.
        std: With `arch`, three numbers to divide by; default ImageNet's.
        size: With `arch`, the side of the input in pixels; default 224.
        license: Licence of the weights, for the card.

    Returns:
        The folder.

    Raises:
        OptionError: An argument is wrong, or `out` exists.
        MissingPath: There is no such checkpoint.
        WeightsError: The file is damaged or holds another model.
    """
    checkpoint, out = as_path(checkpoint, "checkpoint"), as_path(out, "out")
    mean, std = (None if numbers is None else tuple(map(float, numbers)) for numbers in (mean, std))
    _check_options(out, arch, mean, std, size)
    parts = recognise(read_checkpoint(checkpoint), arch, checkpoint)
    model: Any = create_model(parts.architecture, pretrained=False, num_classes=0)
    branches = any(map(is_branch, parts.encoder))  # of a ResNet of ours
    if not branches:
        model.face = model.pose = None
    _load(model, parts.encoder, f"{checkpoint} as {arch or parts.architecture}")
    if arch is not None and not branches:
        _say_assumed(arch, model, mean, std, size)
        mean, std, size = mean or IMAGENET_DEFAULT_MEAN, std or IMAGENET_DEFAULT_STD, size or RESNET_SIZE
        model.pretrained_cfg |= {"paper_ids": None, "paper_name": None}  # it was not trained by PCL
    given = {"mean": mean, "std": std}
    model.pretrained_cfg |= {name: tuple(numbers) for name, numbers in given.items() if numbers}
    if size:
        model.pretrained_cfg |= size_cfg(model, size)
    decoder = None
    if parts.decoder:
        decoder = Decoder()
        _load(decoder, parts.decoder, f"the decoder in {checkpoint}")
    about = {"description": f"converted from {checkpoint.name}, sha256 {sha256_file(checkpoint)}"}
    if license:
        about["license"] = license
    if parts.note:
        _logger.info("%s", parts.note)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{out.name[:SHOWN]}.", suffix=".partial", dir=out.parent
    ) as partial:
        folder = save_encoder(model, Path(partial) / out.name, decoder, about)
        if parts.heads:
            save_tensors(parts.heads, folder / ORIGINAL_HEADS_FILE)
        (folder / CARD_FILE).write_text(card_of(folder, f"local-dir:{out}"), "utf-8")
        if out.is_dir():
            out.rmdir()  # it is empty: _check_options made sure
        return folder.rename(out)


def _check_options(
    out: Path, arch: str | None, mean: Sequence[float] | None, std: Sequence[float] | None, size: int | None
) -> None:
    if arch is None and (mean or std or size):
        raise OptionError("--mean, --std and --size belong to --arch: PCL's own weights take [0, 1] as it is")
    if arch is not None and arch not in ARCHS:
        raise OptionError(f"--arch must be {' or '.join(ARCHS)}, not {arch}")
    for name, numbers in (("--mean", mean), ("--std", std)):
        if numbers is not None and len(numbers) != 3:
            raise OptionError(f"{name} takes three numbers, for red, green and blue in [0, 1]")
    if mean is not None and not all(0 <= number <= 1 for number in mean):
        raise OptionError("--mean takes numbers from 0 to 1; for pixels up to 255 divide them by 255")
    if std is not None and not all(0 < number <= 1 for number in std):
        raise OptionError("--std takes numbers above 0, up to 1; for pixels up to 255 divide them by 255")
    if size is not None and not 32 <= size <= LARGEST_SIDE:
        raise OptionError(f"--size must be 32 to {LARGEST_SIDE} pixels, not {size}")
    check_folder(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OptionError(f"{out} already exists; choose a new folder")


def _say_assumed(
    arch: str, model: Any, mean: Sequence[float] | None, std: Sequence[float] | None, size: int | None
) -> None:
    """Say which of mean, std and size the file does not tell; other ones give other codes."""
    given = {"--mean": mean, "--std": std, "--size": size}
    assumed = {"--mean": IMAGENET_DEFAULT_MEAN, "--std": IMAGENET_DEFAULT_STD, "--size": (RESNET_SIZE,)}
    cfg = model.pretrained_cfg
    ours = {"--mean": cfg["mean"], "--std": cfg["std"], "--size": cfg["input_size"][-1:]}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        said, instead = (
            " ".join(f"{name} {' '.join(f'{n:g}' for n in values[name])}" for name in missing)
            for values in (assumed, ours)
        )
        _logger.warning(
            "assuming %s, as for ImageNet; weights fine-tuned from pcl_%s take %s", said, arch, instead
        )


def _load(network: nn.Module, tensors: State, what: str) -> None:
    """Load all tensors of `network` from `tensors`, which hold no other; WeightsError names the first."""
    own = network.state_dict()
    if unknown := [key for key in tensors if key not in own]:
        raise WeightsError(f"{what}: {unknown[0]} is not known")
    if wrong := wrong_shape(tensors, own):
        raise WeightsError(f"{what}: {wrong}")
    if missing := network.load_state_dict(tensors, strict=False).missing_keys:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{what}: {missing[0]} is missing{more}")
