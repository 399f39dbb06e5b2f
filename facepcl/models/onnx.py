"""Networks as ONNX graphs, and graphs as functions under onnxruntime (extra `onnx`)."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facepcl.errors import OptionError, require

EXTRA = "onnx"
INPUT = "images"
LARGEST = 2**31  # bytes of a protobuf message


def require_onnx() -> None:
    """Raise MissingExtra unless all that `facepcl[onnx]` brings is there."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, EXTRA)


def to_onnx(network: nn.Module, sample: torch.Tensor, outputs: Sequence[str] | None = None) -> Any:
    """`network` (images -> a tuple of tensors) as an `onnx.ModelProto` for any number of images.

    `sample` are two images or more; `outputs` names the tensors. Raises MissingExtra without `facepcl[onnx]`,
    OptionError for weights beyond the 2 GB that a graph can hold; the exporter raises anything.
    """
    require_onnx()
    if (size := sum(p.numel() * p.element_size() for p in network.parameters())) >= LARGEST:
        raise OptionError(f"the weights take {size / 1e9:.1f} GB, and an ONNX graph holds at most 2.1 GB")
    with _quiet():
        program = torch.onnx.export(
            network,
            (sample,),
            input_names=[INPUT],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None only if a file was asked for
    graph = program.model_proto
    _forget_sources(graph.graph)
    return graph


def open_graph(graph: bytes | str | Path) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """The bytes or the file of a graph as a function of images, on the CPU, with the threads that torch has
    now; several threads may call it at once, and children that are forked."""
    runtime = require("onnxruntime", EXTRA)
    source = graph if isinstance(graph, bytes) else Path(graph).read_bytes()

    def open_session() -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    sessions = {os.getpid(): open_session()}

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if (process := os.getpid()) not in sessions:  # the threads of a session do not outlive a fork
            sessions[process] = open_session()
        given = {INPUT: images.contiguous().numpy()}
        return tuple(map(torch.from_numpy, sessions[process].run(None, given)))

    return run


def _forget_sources(graph: Any) -> None:
    """Drop what the exporter notes of every node: the lines of code, with the paths of this machine."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own log lines and warnings, which say nothing to who asked for a file."""
    logs = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
