"""`pcl_facecycle` in 8 bits under onnxruntime, made from its float weights when it is first needed.

Unsigned activations and signed weights, a scale for each channel. The last convolution of each output stays
in float: its channels differ a thousandfold in spread, and one scale for all would silence the small ones,
which a cosine does not show but a linear probe does. Figures: benchmarks/RESULTS.md, "int8".
"""

import copy
import logging
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from facepcl.embedding.backends import Run
from facepcl.errors import OptionError, require
from facepcl.models.onnx import EXTRA, INPUT, open_graph, to_onnx
from facepcl.models.registry import WEIGHTS
from facepcl.utils.device import has_bfloat16_units, least_seconds

_logger = logging.getLogger("facepcl")

INT8 = "int8"
MODEL = "pcl_facecycle"
SIDE = 64
BATCH = 32  # images whose time is taken


def make_int8_run(network: nn.Module, model: str, shape: tuple[int, ...]) -> Run:
    """`network` (float32, `[B, 3, 64, 64]` -> a tuple of maps) quantised, as a function.

    Raises OptionError for other models than `pcl_facecycle` and other shapes of pixels than 64 x 64 x 3,
    MissingExtra without `facepcl[onnx]`.
    """
    if model != MODEL:
        raise OptionError(f"int8 is for {MODEL}, not for {model}; choose bfloat16 or float32")
    if shape != (SIDE, SIDE, 3):
        raise OptionError(f"int8 is for {SIDE} pixels, not for {shape[0]}; choose bfloat16 or float32")
    with tempfile.TemporaryDirectory() as folder:
        run = open_graph(_quantise(network, Path(folder)))
    if has_bfloat16_units():
        _warn_if_slower(run, network)
    return run


def _warn_if_slower(run: Run, network: nn.Module) -> None:
    """Say so where bfloat16 is faster, as on processors with AMX."""
    images = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    half = copy.deepcopy(network).bfloat16()
    ways = {INT8: lambda: run(images), "bfloat16": lambda: half(images.bfloat16())}
    with torch.inference_mode():
        milliseconds = {way: 1000 * s / BATCH for way, s in least_seconds(ways, rounds=4).items()}
    if milliseconds["bfloat16"] < milliseconds[INT8]:
        _logger.warning(
            "int8 takes %.1f ms per image on this processor, and bfloat16 %.1f; leave out dtype int8",
            milliseconds[INT8],
            milliseconds["bfloat16"],
        )


def _quantise(network: nn.Module, folder: Path) -> Path:
    graph = to_onnx(network, torch.zeros(2, 3, SIDE, SIDE))
    onnx, quantization = require("onnx", EXTRA), require("onnxruntime.quantization", EXTRA)
    shapes = require("onnxruntime.quantization.shape_inference", EXTRA)
    exported, prepared, target = (str(folder / f"{name}.onnx") for name in ("float", "prepared", "int8"))
    onnx.save(graph, exported)
    shapes.quant_pre_process(exported, prepared, skip_symbolic_shape=True)
    graph = onnx.load(prepared)
    quantization.quantize_static(
        graph,
        target,
        SimpleNamespace(get_next=partial(next, _calibration_faces(), None)),
        per_channel=True,
        reduce_range=True,  # else processors without VNNI overflow
        nodes_to_exclude=_keep_outputs_exact(graph, onnx),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "LeakyRelu", "Add"],
    )
    return Path(target)


def _keep_outputs_exact(graph: Any, onnx: Any) -> list[str]:
    """Names of the last activation and convolution of each output.

    The branches are made to read a copy of the trunk's map, or it would be rounded as their input is.
    """
    nodes = graph.graph.node
    made_by = {name: node for node in nodes for name in node.output}
    outputs = [value.name for value in graph.graph.output]
    last = [made_by[name] for name in outputs]
    last += [made_by[node.input[0]] for node in last]
    for node in list(nodes):
        for place, name in enumerate(node.input):
            if name in outputs:
                node.input[place] = f"{name}_copy"
                copy = onnx.helper.make_node("Identity", [name], [f"{name}_copy"], name=f"{name}_copy")
                if copy.name not in [other.name for other in nodes]:
                    nodes.insert(list(nodes).index(made_by[name]) + 1, copy)
    return [node.name for node in last]


def _calibration_faces() -> Iterator[dict[str, np.ndarray]]:
    """64 rendered faces in four lights, since rendered ones alone are too even."""
    sheet = np.asarray(Image.open(WEIGHTS / "calibration.jpg").convert("RGB"), np.float32) / 255
    side = len(sheet) // SIDE
    faces = sheet.reshape(side, SIDE, side, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    for light in (faces, faces**0.5, faces**2, (2 * faces - 0.5).clip(0, 1)):
        yield {INPUT: np.ascontiguousarray(light, np.float32)}
