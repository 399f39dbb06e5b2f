"""Third-party checkpoints: opened without running code in them, and recognised by their keys."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from facepcl.errors import MissingPath, OptionError, WeightsError
from facepcl.models.io import load_tensors
from facepcl.models.remap import State, rename_original_keys, split_original

CONTAINERS = ("state_dict", "model", "codegeneration")  # keys under which training programs save weights
PROBES = {"linear_classifier.": "linear_classifier.", "0.": "pose_probe.0.", "1.": "pose_probe.1."}
MAGIC = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # of zip files and pickles


class Parts(NamedTuple):
    """The contents of a checkpoint: the encoder of `architecture`, the networks around it, and the rest."""

    architecture: str
    encoder: State
    heads: State  # projection heads and the layers of a linear probe
    decoder: State
    dropped: tuple[str, ...]  # keys of no part


def read_checkpoint(path: str | Path) -> State:
    """The state dict in a `.safetensors` file or a PyTorch checkpoint, without DataParallel's `module.`.

    A pickle that asks for more than tensors and plain values is refused, never run. Raises MissingPath or
    WeightsError.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingPath(f"{path}: there is no such file")
    tensors = load_tensors(path) if path.suffix == ".safetensors" else _tensors_in(_unpickle(path), path)
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def _unpickle(path: Path) -> Any:
    if torch.__version__ < "2.6":  # compares versions, not text; CVE-2025-32434: weights_only can be bypassed
        raise WeightsError(
            f"{path}: opening a pickle is safe from torch 2.6 on, and this is torch {torch.__version__}; "
            "upgrade torch, or give a .safetensors file"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            is_pickle = file.read(2) in MAGIC
        if not is_pickle:
            raise WeightsError(f"{path} is neither a PyTorch checkpoint nor a .safetensors file") from error
        match = re.search(r"GLOBAL (\S+)", str(error))  # in a message of many lines
        refused = f" ({match[1]})" if match else ""
        raise WeightsError(
            f"{path} wants to run code when it is opened{refused}, which convert never does; "
            "ask its author for the bare state_dict, saved as .safetensors"
        ) from error
    except Exception as error:  # torch.load raises almost anything for a damaged file
        reason = str(error).partition(". ")[0] if isinstance(error, RuntimeError) else type(error).__name__
        raise WeightsError(f"{path} is not a whole PyTorch checkpoint of weights ({reason})") from error


def _tensors_in(content: Any, path: Path) -> State:
    """The state dict in the contents of a checkpoint."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a state_dict")
    for name in CONTAINERS:
        if isinstance(content.get(name), Mapping):
            return _tensors_in(content[name], path)
    if content and all(torch.is_tensor(value) for value in content.values()):
        return dict(content)
    keys = ", ".join(map(str, list(content)[:3])) or "nothing"
    containers = f"{', '.join(CONTAINERS[:-1])} or {CONTAINERS[-1]}"
    raise WeightsError(f"{path} holds {keys}; expected a state_dict, or one under {containers}")


def recognise(tensors: State, arch: str | None, path: str | Path) -> Parts:
    """The parts of a checkpoint: PCL's own by its keys, a ResNet if `arch` (`resnet18`, `resnet50`) says so.

    Raises OptionError for a ResNet without `arch`, WeightsError for FaceCycle's encoder.
    """
    if arch is not None:
        trunk = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
        return Parts(f"pcl_{arch}", trunk, {}, {}, tuple(key for key in tensors if key not in trunk))
    if "layer1.0.conv1.weight" in tensors:
        raise OptionError(f"{path} looks like a ResNet: say which by --arch resnet18 or --arch resnet50")
    last = tensors.get("encoder.layer3_1.2.weight", tensors.get("layer3_1.2.weight"))
    if last is not None and last.shape[0] == 256:
        raise WeightsError(
            f"{path} is FaceCycle's encoder, not PCL's: its layer3_1 ends in 256 channels, where "
            "pcl_facecycle has 128"
        )
    encoder, face, pose, decoder = split_original(tensors)
    heads = {f"face_head.{key}": value for key, value in face.items()}
    heads |= {f"pose_head.{key}": value for key, value in pose.items()}
    around = ("exp_fc.", "pose_fc.", "decoder.")
    if any(key.startswith("encoder.") for key in tensors):  # of training
        # unknown keys go to the encoder, whose check names them
        known = ("encoder.", *around)
        encoder |= {key: value for key, value in tensors.items() if not key.startswith(known)}
    else:  # an encoder alone, or with a linear probe
        own = {k: v for k, v in tensors.items() if not k.startswith((*around, *PROBES))}
        encoder = rename_original_keys(own)
        for old, new in PROBES.items():
            heads |= {new + key[len(old) :]: v for key, v in tensors.items() if key.startswith(old)}
    return Parts("pcl_facecycle", encoder, heads, decoder, ())
