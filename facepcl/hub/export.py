"""`facepcl.export.run`: an encoder as one file for onnxruntime or torch, without facepcl."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from facepcl.embedding.backends import FLOAT32_ROUNDING, Run, deviation
from facepcl.embedding.encoder import IDENTITY, AllBranches, Encoder, Trunk, code, normalised
from facepcl.errors import ExportError, FacepclError, OptionError, first_cause, require
from facepcl.models.branches import Branches
from facepcl.models.onnx import EXTRA, INPUT, open_graph, require_onnx, to_onnx
from facepcl.utils.files import as_path, atomic, check_file

HEAD_POSE = "head_pose"  # the output of the head `pose`
META_FILE = "facepcl.json"  # the description inside a .pt2
BATCH_SIZES = 1, 5  # with which a file is checked


@dataclass(frozen=True)
class Exported:
    """An exported file, its description, and how far its codes are from the model's."""

    path: Path
    meta: dict[str, Any]
    deviation: float  # largest difference relative to the largest number of a code


def run(
    name: str | nn.Module, out: str | Path, *, with_preprocessing: bool = False, size: int = 0
) -> Exported:
    """Export an encoder to a `.onnx` or `.pt2` file that gives its codes for any number of images.

    The outputs are `shared`, `face` and `pose`, float32 [B, D], equal to those of `FaceEmbedder` with pool
    `code`; `shared` alone for a model without branches. Weights with heads have `identity`, `head_pose`
    (degrees), `expression` (probabilities) and `au` besides. The file describes itself and is compared with
    the model before it gets its name.

    Args:
        name: As for `FaceEmbedder`.
        out: The file to write.
        with_preprocessing: The input is uint8 [B, H, W, 3] RGB; otherwise float32 [B, 3, H, W], RGB in [0, 1]
            minus the model's mean, divided by its standard deviation. Resizing is never included.
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
    out = as_path(out, "out")
    _check(out)
    encoder = Encoder(name, size=size, device="cpu", dtype="float32", backend="eager")
    network = Codes(encoder, with_preprocessing)
    meta = _describe(encoder, network, isinstance(name, str))
    write, open_file = _FORMATS[out.suffix]
    with atomic(out) as temporary:
        try:
            write(network, network.sample(2), meta, temporary)  # a batch of 1 would be taken as fixed
            program = open_file(temporary)
            with torch.inference_mode():
                samples = [network.sample(count) for count in BATCH_SIZES]
                difference = max(deviation(program(images), network(images)) for images in samples)
        except (FacepclError, OSError):
            raise
        except Exception as error:  # exporters raise anything
            reason = first_cause(error)
            raise ExportError(f"{encoder.name} cannot be written as {out.suffix} ({reason})") from error
        if difference > FLOAT32_ROUNDING:
            raise ExportError(
                f"{out} was not written: its codes would differ from {encoder.name}'s by {difference:.1e} of "
                f"the largest number, and rounding explains {FLOAT32_ROUNDING}"
            )
    return Exported(out, meta, difference)


class Codes(nn.Module):
    """Images to the codes `[B, D]` of every branch, with scaling and normalisation if asked for."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: Encoder, with_preprocessing: bool):
        super().__init__()
        model = encoder.model.to(memory_format=torch.contiguous_format)
        self.codes = Branches._fields if encoder.has_branches else Branches._fields[:1]
        self.heads = encoder.heads and encoder.heads.cpu()
        # by the name of its output: `pose` is the code of a branch already
        self.head_of = {
            HEAD_POSE if name in self.codes else name: name
            for name in (self.heads.specs if self.heads else ())
        }
        self.outputs = (*self.codes, *self.head_of)
        self.maps = AllBranches(model) if encoder.has_branches else Trunk(model)
        self.shape = encoder.transform.shape
        self.with_preprocessing = with_preprocessing
        self.register_buffer("mean", encoder.mean)
        self.register_buffer("std", encoder.std)
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.with_preprocessing:
            images = normalised(images, self.mean, self.std)
        maps = self.maps(images)
        codes = [code(self.maps.model, name, m) for name, m in zip(self.codes, maps, strict=True)]
        if self.heads:
            codes += [self.heads.predict(name, Branches(*maps)) for name in self.head_of.values()]
        return tuple(codes)

    def names(self) -> dict[str, tuple[str, ...]]:
        """The names of the numbers in each head's output; none for identity."""
        return {output: self.heads.specs[name].names for output, name in self.head_of.items() if self.heads}

    def sample(self, count: int) -> torch.Tensor:
        """Noise as input, with pixels of all levels."""
        pixels = np.random.default_rng(count).integers(0, 256, (count, *self.shape), np.uint8)
        images = torch.from_numpy(pixels)
        return images if self.with_preprocessing else normalised(images, self.mean, self.std)


def _describe(encoder: Encoder, network: Codes, named: bool) -> dict[str, Any]:
    """The description in the file. Only weights that are `named` have the licence of their cfg: a module may
    have been trained since."""
    height, width, _ = network.shape
    cfg = (getattr(encoder.model, "pretrained_cfg", None) or {}) if named else {}
    form = (
        f"uint8 [B, {height}, {width}, 3], RGB"
        if network.with_preprocessing
        else f"float32 [B, 3, {height}, {width}], RGB in [0, 1], minus mean, divided by std"
    )
    preprocessing = encoder.meta["preprocessing"]
    with torch.inference_mode():
        codes = network(network.sample(1))
    return {
        **{key: encoder.meta[key] for key in ("facepcl", "model", "tag", "weights_sha256")},
        "license": cfg.get("license"),
        "input": f"{INPUT}: {form}",
        "with_preprocessing": network.with_preprocessing,
        **{key: preprocessing[key] for key in ("input_size", "mean", "std")},
        "preprocessing": preprocessing,
        "outputs": {output: c.shape[1] for output, c in zip(network.outputs, codes, strict=True)},
        "pool": encoder.pool,
        "normalize": encoder.normalize,
        "names": {output: names for output, names in network.names().items() if names},
        "space": {o: encoder.space(o) for o in network.outputs if o in (*network.codes, IDENTITY)},
    }


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


_FORMATS = {".onnx": (_write_onnx, open_graph), ".pt2": (_write_program, _open_program)}


def _check(out: Path) -> None:
    """Raise for a file that cannot be written, before the model is loaded."""
    if out.suffix not in _FORMATS:
        raise OptionError(f"{out}: the name of an exported encoder must end in {' or '.join(_FORMATS)}")
    check_file(out)
    if out.suffix == ".onnx":
        require_onnx()
