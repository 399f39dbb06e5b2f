"""`facepcl.export.run`: an encoder as one file that runs without facepcl, for onnxruntime or for torch."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from facepcl.embedding.backends import FLOAT32_ROUNDING, Run, deviation
from facepcl.embedding.encoder import AllBranches, Encoder, Trunk, code, normalised
from facepcl.errors import ExportError, FacepclError, MissingPath, OptionError, first_cause, require
from facepcl.models import Branches
from facepcl.models.onnx import EXTRA, INPUT, open_graph, require_onnx, to_onnx
from facepcl.utils.files import atomic

META_FILE = "facepcl.json"  # the description inside a .pt2
COUNTS = 1, 5  # of images, in the check of a file


@dataclass(frozen=True)
class Exported:
    """A file that was written, its description, and how far its codes are from the model's."""

    path: Path
    meta: dict[str, Any]
    deviation: float  # largest difference, as a share of the largest number of a code


def run(
    name: str | nn.Module, out: str | Path, *, with_preprocessing: bool = False, size: int = 0
) -> Exported:
    """Export an encoder to a `.onnx` or `.pt2` file that gives its codes for any number of images.

    The outputs are `shared`, `face` and `pose`, float32 [B, D], equal to those of `FaceEmbedder` with pool
    `code`; `shared` alone for a model without branches. The file describes itself and is compared with the
    model before it gets its name.

    Args:
        name: As for `FaceEmbedder`.
        out: The file to write.
        with_preprocessing: The input is uint8 [B, H, W, 3] RGB; otherwise float32 [B, 3, H, W], RGB in [0, 1]
            less the model's mean, over its standard deviation. Resizing stays outside either way.
        size: Side of the input in pixels; 0 is the model's own.

    Returns:
        What the file holds: inputs, outputs and their shapes.

    Raises:
        OptionError: An argument is wrong.
        MissingPath: The folder of `out` does not exist.
        MissingExtra: ONNX needs `facepcl[onnx]`.
        WeightsError: There are no weights.
        ExportError: The model cannot be exported, or the file gives other codes.
    """
    out = Path(out)
    kind = _check(out)
    encoder = Encoder(name, size=size, device="cpu", dtype="float32", backend="eager")
    network = Codes(encoder, with_preprocessing)
    meta = _describe(encoder, network, isinstance(name, str) and not name.startswith("local-dir:"))
    with atomic(out) as temporary:
        try:
            kind.write(network, _sample(network, 2), meta, temporary)  # 1 would be taken as fixed
            program = kind.open(temporary)
            moved = max(_deviation(program, network, _sample(network, count)) for count in COUNTS)
        except (FacepclError, OSError):
            raise
        except Exception as error:  # exporters raise anything
            reason = first_cause(error)
            raise ExportError(f"{encoder.name} cannot be written as {out.suffix} ({reason})") from error
        if moved > FLOAT32_ROUNDING:
            raise ExportError(
                f"{out} was not written: its codes would differ from {encoder.name}'s by {moved:.1e} of the "
                f"largest number, and rounding explains {FLOAT32_ROUNDING}"
            )
    return Exported(out, meta, moved)


class Codes(nn.Module):
    """Images to the codes `[B, D]` of every branch; pixels are scaled and normalised here if asked for."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: Encoder, with_preprocessing: bool):
        super().__init__()
        model = encoder.model.to(memory_format=torch.contiguous_format)
        self.outputs = Branches._fields if encoder.has_branches else Branches._fields[:1]
        self.maps = AllBranches(model) if encoder.has_branches else Trunk(model)
        self.shape = encoder.fit.shape
        self.with_preprocessing = with_preprocessing
        self.register_buffer("mean", encoder.mean)
        self.register_buffer("std", encoder.std)
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.with_preprocessing:
            images = normalised(images, self.mean, self.std)
        maps = self.maps(images)
        return tuple(code(self.maps.model, name, m) for name, m in zip(self.outputs, maps, strict=True))


def _sample(network: Codes, count: int) -> torch.Tensor:
    """Noise of all levels, as `network` takes it."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, *network.shape), np.uint8)
    images = torch.from_numpy(pixels)
    return images if network.with_preprocessing else normalised(images, network.mean, network.std)


@torch.inference_mode()
def _deviation(program: Run, network: Codes, images: torch.Tensor) -> float:
    return deviation(program(images), network(images))


def _describe(encoder: Encoder, network: Codes, named: bool) -> dict[str, Any]:
    """What the file says of itself. Only weights that are `named` have the tag and licence of their cfg: a
    folder keeps those of the weights that it was trained from."""
    height, width, _ = network.shape
    cfg = (getattr(encoder.model, "pretrained_cfg", None) or {}) if named else {}
    taken = (
        f"uint8 [B, {height}, {width}, 3], RGB"
        if network.with_preprocessing
        else f"float32 [B, 3, {height}, {width}], RGB in [0, 1], less mean, over std"
    )
    preprocessing = encoder.meta["preprocessing"]
    with torch.inference_mode():
        codes = network(_sample(network, 1))
    return {
        "facepcl": encoder.meta["facepcl"],
        "model": encoder.meta["model"],
        "tag": cfg.get("tag"),
        "weights_sha256": encoder.meta["weights_sha256"],
        "license": cfg.get("license"),
        "input": f"{INPUT}: {taken}",
        "with_preprocessing": network.with_preprocessing,
        "input_size": preprocessing["input_size"],
        "mean": preprocessing["mean"],
        "std": preprocessing["std"],
        "preprocessing": preprocessing,
        "outputs": {output: made.shape[1] for output, made in zip(network.outputs, codes, strict=True)},
        "pool": encoder.pool,
        "normalize": encoder.normalize,
        "space": {output: encoder.space(output) for output in network.outputs},
    }


class _Kind(NamedTuple):
    """A form of file: how it is written, and opened as a function of images."""

    write: Callable[[Codes, torch.Tensor, dict[str, Any], Path], None]
    open: Callable[[Path], Run]


def _write_onnx(network: Codes, sample: torch.Tensor, meta: dict[str, Any], path: Path) -> None:
    onnx = require("onnx", EXTRA)
    graph = to_onnx(network, sample, network.outputs)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}
    onnx.helper.set_model_props(graph, texts)
    path.write_bytes(graph.SerializeToString())


def _write_program(network: Codes, sample: torch.Tensor, meta: dict[str, Any], path: Path) -> None:
    program = torch.export.export(network, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of code, with the paths of this machine
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={META_FILE: json.dumps(meta)})


def _open_program(path: Path) -> Run:
    with path.open("rb") as file:
        return torch.export.load(file).module()


_KINDS = {".onnx": _Kind(_write_onnx, open_graph), ".pt2": _Kind(_write_program, _open_program)}


def _check(out: Path) -> _Kind:
    """The form of file that `out` asks for; raises for what cannot be written, before anything is loaded."""
    if out.suffix not in _KINDS:
        raise OptionError(f"{out}: the name of an exported encoder ends in {' or '.join(_KINDS)}")
    if out.is_dir():
        raise OptionError(f"{out} is a folder; name a file")
    if not out.absolute().parent.is_dir():
        raise MissingPath(f"{out.absolute().parent}: there is no such folder to write to")
    if not os.access(out.absolute().parent, os.W_OK | os.X_OK):
        raise OptionError(f"{out.absolute().parent}: cannot be written to")
    if out.suffix == ".onnx":
        require_onnx()
    return _KINDS[out.suffix]
