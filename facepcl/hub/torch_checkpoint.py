"""Third-party checkpoints: opened without running code in them, and recognised by their keys."""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from facepcl.errors import OptionError, WeightsError
from facepcl.models.io import load_tensors
from facepcl.models.remap import State, rename_original_keys
from facepcl.utils.files import check_exists

# A network is found by one of its tensors, under whatever names the program that saved it put before it.
ANCHORS = {"resnet": "layer1.0.conv1.weight", "pcl_facecycle": "layer3_1.2.weight"}
# Words among those names: averaged weights come first, as in timm, and slow copies last.
AVERAGED, COPIES = {"ema", "swa", "averaged", "teacher"}, {"student", "k", "momentum", "target"}
RESNETS = {  # blocks of each stage, and whether they are bottlenecks
    ("2222", False): "resnet18",
    ("3463", False): "resnet34",
    ("3463", True): "resnet50",
    ("34233", True): "resnet101",
    ("38363", True): "resnet152",
}
CLASSIFIER = "fc."
PARTS = ("encoder.", "exp_fc.", "pose_fc.", "decoder.")  # of a checkpoint of PCL's training
DEEPEST = 8  # containers within containers
PROBES = {"linear_classifier.": "linear_classifier.", "0.": "pose_probe.0.", "1.": "pose_probe.1."}
MAGIC = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # of zip files and pickles


class Parts(NamedTuple):
    """The contents of a checkpoint: the encoder of `architecture`, the networks around it, and the rest."""

    architecture: str
    encoder: State
    heads: State  # projection heads and the layers of a linear probe
    decoder: State
    note: str  # on what was read and what was left out


def read_checkpoint(path: str | Path) -> State:
    """The tensors of a `.safetensors` file or a PyTorch checkpoint, containers as part of their names.

    A pickle that asks for more than tensors, plain values and an `argparse.Namespace` is refused, never run.
    Raises MissingPath or WeightsError.
    """
    path = Path(path)
    check_exists(path)
    if path.suffix == ".safetensors":
        return load_tensors(path)
    content = _unpickle(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a state_dict")
    return dict(_tensors_in(content, (), set()))


def _tensors_in(
    content: Mapping[Any, Any], within: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of `content` and of the mappings in it, each of which is read once: they may be cyclic."""
    seen.add(id(content))
    for key, value in content.items():
        name = (*within, str(key))
        if isinstance(value, Mapping) and id(value) not in seen and len(name) < DEEPEST:
            yield from _tensors_in(value, name, seen)
        elif isinstance(value, torch.Tensor) and _is_whole(value):
            yield ".".join(name), value


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether the file has all numbers of a tensor: strides of 0 would let few bytes claim any size."""
    whole = tensor.layout == torch.strided and not tensor.is_meta
    return whole and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _unpickle(path: Path) -> Any:
    if torch.__version__ < "2.6":  # compares versions, not text; CVE-2025-32434: weights_only can be bypassed
        raise WeightsError(
            f"{path}: opening a pickle is safe from torch 2.6 on, and this is torch {torch.__version__}; "
            "upgrade torch, or give a .safetensors file"
        )
    try:
        # timm's training script puts its options beside the weights; a Namespace has no code to run
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            is_pickle = file.read(2) in MAGIC
        if not is_pickle:
            raise WeightsError(f"{path} is neither a PyTorch checkpoint nor a .safetensors file") from error
        match = re.search(r"GLOBAL (\S+)", str(error))  # in a message of many lines
        refused = match[1] if match else "an object"
        raise WeightsError(
            f"{path} contains {refused} besides its weights, and convert runs no code from a file; if you "
            "trust it, load it where it was made and save only model.state_dict()"
        ) from error
    except Exception as error:  # torch.load raises almost anything for a damaged file
        reason = str(error).partition(". ")[0] if isinstance(error, RuntimeError) else type(error).__name__
        raise WeightsError(f"{path} is not a complete PyTorch checkpoint of weights ({reason})") from error


def recognise(tensors: State, arch: str | None, path: str | Path) -> Parts:
    """The parts of a checkpoint: PCL's own by its keys, a ResNet if `arch` (`resnet18`, `resnet50`) says so.

    Raises OptionError for a ResNet without `arch`, WeightsError for another architecture than `arch` and for
    FaceCycle's encoder.
    """
    kind = "resnet" if arch else "pcl_facecycle"
    other = "pcl_facecycle" if arch else "resnet"
    if not _prefixes(tensors, ANCHORS[kind]):
        if found := _prefixes(tensors, ANCHORS[other]):
            name = resnet_of(_below(tensors, _best(found, path))) if other == "resnet" else other
            if arch:
                raise WeightsError(f"{path} looks like a {name}, not a {arch}; leave out --arch")
            known = name if name in ("resnet18", "resnet50") else "resnet18 or --arch resnet50"
            raise OptionError(f"{path} looks like a ResNet ({name}): name it with --arch {known}")
        keys = ", ".join(list(tensors)[:3]) or "no tensors"
        raise WeightsError(
            f"{path} holds {keys:.100}; expected the weights of {arch or 'PCL'} under any prefix"
        )
    prefix = _best(_prefixes(tensors, ANCHORS[kind]), path)
    read: tuple[str, ...] = (prefix,)
    inside = _below(tensors, prefix)
    if kind == "pcl_facecycle" and prefix.endswith("encoder."):  # in a checkpoint of PCL's training
        around = prefix.removesuffix("encoder.")
        read = tuple(around + part for part in PARTS)
        inside = {key: v for key, v in _below(tensors, around).items() if key.startswith(PARTS)}
    classifier = [key for key in inside if key.startswith(CLASSIFIER)]
    note = _note(tensors, prefix, read, classifier)
    inside = {key: value for key, value in inside.items() if key not in classifier}
    if arch:
        if (looks := resnet_of(inside)) != arch:
            raise WeightsError(f"{path} looks like a {looks}, not a {arch}")
        return Parts(f"pcl_{arch}", inside, {}, {}, note)
    return _parts_of_pcl(inside, note, path)


def _parts_of_pcl(tensors: State, note: str, path: str | Path) -> Parts:
    last = tensors.get("encoder.layer3_1.2.weight", tensors.get("layer3_1.2.weight"))
    if last is not None and last.shape[0] == 256:
        raise WeightsError(
            f"{path} is FaceCycle's encoder, not PCL's: its layer3_1 ends in 256 channels, where "
            "pcl_facecycle has 128"
        )
    encoder, face, pose, decoder = (_below(tensors, part) for part in PARTS)
    heads = {f"face_head.{key}": value for key, value in face.items()}
    heads |= {f"pose_head.{key}": value for key, value in pose.items()}
    if not encoder:  # an encoder alone, or with a linear probe
        encoder = {k: v for k, v in tensors.items() if not k.startswith((*PARTS, *PROBES))}
        for old, new in PROBES.items():
            heads |= {new + key[len(old) :]: v for key, v in tensors.items() if key.startswith(old)}
    return Parts("pcl_facecycle", rename_original_keys(encoder), heads, decoder, note)


def _prefixes(tensors: State, anchor: str) -> list[str]:
    """What stands before the names of each network that has the tensor `anchor`."""
    return [key.removesuffix(anchor) for key in tensors if key == anchor or key.endswith(f".{anchor}")]


def _below(tensors: State, prefix: str) -> State:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _best(prefixes: list[str], path: str | Path) -> str:
    """The network to read of several: averaged weights, else those that are not a copy."""

    def rank(prefix: str) -> int:
        words = set(re.split(r"[._]", prefix))
        return 0 if words & AVERAGED else 2 if words & COPIES else 1

    first, *others = sorted(prefixes, key=rank)
    if others and rank(others[0]) == rank(first):
        names = " and ".join(prefix.rstrip(".") or "one without a prefix" for prefix in (first, others[0]))
        raise WeightsError(f"{path} holds several networks, {names}; save only the one you want")
    return first


def _note(tensors: State, prefix: str, read: tuple[str, ...], classifier: list[str]) -> str:
    """What of a checkpoint is read and what is left out, if that is not all of it."""
    depth = prefix.count(".") or 1  # names the networks beside the one that is read
    others = {".".join(key.split(".")[:depth]): None for key in tensors if not key.startswith(read)}
    left_out = [*others, *classifier]
    if not left_out:
        return ""
    more = f" and {len(left_out) - 8} more" if len(left_out) > 8 else ""
    what = f"read {prefix.rstrip('.')}; " if prefix and others else ""
    new = "; train a new classifier" if classifier else ""
    return f"{what}left out {', '.join(left_out[:8])}{more}{new}"


def resnet_of(tensors: State) -> str:
    """The architecture that a ResNet's state dict is of, by its blocks and widths."""
    blocks = "".join(
        str(len({key.split(".")[1] for key in tensors if key.startswith(f"layer{stage}.")}))
        for stage in range(1, 5)
    )
    name = RESNETS.get((blocks, "layer1.0.conv3.weight" in tensors), f"ResNet with {'-'.join(blocks)} blocks")
    width = tensors.get("layer1.0.conv2.weight", torch.empty(0)).shape
    return name if tuple(width) in ((64, 64, 3, 3), ()) else f"wider or grouped {name}"
