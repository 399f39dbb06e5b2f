"""A training run on disk: its configuration, its newest checkpoint, its log. No pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facepcl.errors import FacepclError, OptionError, WeightsError
from facepcl.models.io import load_tensors, read_metadata, save_tensors
from facepcl.utils.files import atomic

AVERAGED = "averaged."  # names of the average in a checkpoint
KEPT = 2  # newest checkpoints that stay on disk


def write_json(value: Any, path: Path) -> None:
    """Write JSON under a temporary name, then rename."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def check_writable(run: Path) -> None:
    """Raise OptionError unless `run` is a folder that can be written, or can become one."""
    there = next(path for path in (run, *run.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OptionError(f"--out {run}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OptionError(f"--out {run}: {there} cannot be written to")


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; each has its optimiser state beside it."""
    return _numbered(run, "checkpoint")


def _numbered(run: Path, kind: str) -> list[Path]:
    found = run.glob(f"{kind}-*.safetensors")
    return sorted((path for path in found if path.stem.rpartition("-")[2].isdigit()), key=_step_of)


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps its networks after `step` steps."""
    return run / f"checkpoint-{step:08d}.safetensors"


def last_checkpoint(run: Path) -> str:
    """Where a run that broke is still whole, for its error."""
    return f"the last good checkpoint is {next(reversed(checkpoints(run)), 'none')}"


def save_checkpoint(
    run: Path,
    step: int,
    nets: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
    average: nn.Module | None = None,
) -> None:
    """Write networks, their average if there is one, optimiser state and `progress` (JSON) after `step`
    steps; drop the oldest, and what a process that was killed had not finished.

    Raises FacepclError, and writes nothing, if a number is not finite.
    """
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in nets.named_parameters()}
    state = {
        f"{names[parameter]}:{kind}": torch.as_tensor(value)
        for parameter, values in optimizer.state.items()
        for kind, value in values.items()
    }
    weights = nets.state_dict()
    if average is not None:
        weights |= {AVERAGED + name: tensor for name, tensor in average.state_dict().items()}
    for name, tensor in (weights | state).items():
        if not tensor.isfinite().all():  # after a gradient that overflowed, before a loss shows it
            raise FacepclError(f"{name} is no longer finite after step {step}; {last_checkpoint(run)}")
    # the checkpoint comes last: where it is, its optimiser state is whole
    save_tensors(state, run / f"optimizer-{step:08d}.safetensors")
    save_tensors(weights, checkpoint_path(run, step), {"step": str(step), "progress": json.dumps(progress)})
    for old in checkpoints(run)[:-KEPT]:
        old.unlink()
    kept = {_step_of(path) for path in checkpoints(run)}
    for without in _numbered(run, "optimizer"):
        if _step_of(without) not in kept:
            without.unlink()
    # the second are safetensors' own: a kill leaves a file as large as a checkpoint each time
    for unfinished in (*run.glob(".*.partial"), *run.glob(".tmp??????")):
        unfinished.unlink()


def load_checkpoint(
    path: Path, nets: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> tuple[int, dict[str, Any]]:
    """Restore networks, average and optimiser in place; return the finished steps and the saved progress.

    Raises WeightsError if the files are damaged or of another run.
    """
    try:
        return _load(path, nets, optimizer, average)
    except (KeyError, ValueError, RuntimeError, RecursionError) as error:
        if isinstance(error, FacepclError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is not a checkpoint of this run ({reason})") from error


def _load(
    path: Path, nets: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> tuple[int, dict[str, Any]]:
    metadata, weights = read_metadata(path), load_tensors(path)
    averaged = {name: weights.pop(name) for name in list(weights) if name.startswith(AVERAGED)}
    nets.load_state_dict(weights)
    if average is not None:
        average.load_state_dict({name.removeprefix(AVERAGED): t for name, t in averaged.items()})
    step = int(metadata["step"])
    parameters = dict(nets.named_parameters())
    optimizer.state.clear()
    for key, value in load_tensors(path.with_name(f"optimizer-{step:08d}.safetensors")).items():
        name, _, kind = key.rpartition(":")
        parameter = parameters[name]
        # Adam keeps its step count on the CPU, in float32, whatever the parameter is; a copy, as Windows
        # deletes no file that is still mapped
        value = value if kind == "step" else value.to(parameter.device, parameter.dtype)
        optimizer.state[parameter][kind] = (
            value.view(()).clone() if kind == "step" else _laid_out_as(parameter, value)
        )
    for trained in optimizer.state:
        # With `--gradients zeros` what once had a gradient is updated in every sub-step, also the first
        # after a stop.
        trained.grad = torch.zeros_like(trained)
    return step, json.loads(metadata["progress"])


def _laid_out_as(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` in the memory layout of its parameter, so that a resumed step is the same to the bit."""
    return torch.empty_like(parameter).copy_(value)


def check_same_run(
    path: Path, config: Mapping[str, Any], defaults: Mapping[str, Any], may_change: frozenset[str]
) -> dict[str, Any]:
    """What RUN/config.json recorded when the run was begun; empty for a new run.

    Raises OptionError if `config` differs in what matters; an option that was not there then had its default.
    """
    if not path.is_file():
        return {}
    try:
        begun = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not valid JSON ({error}); give another --out") from error
    if not isinstance(begun, dict):
        raise OptionError(f"{path} is not the configuration of a run; give another --out")
    for key, value in config.items():
        was = begun.get(key, defaults.get(key))
        if key not in may_change and was != value:
            raise OptionError(
                f"{path.parent} was begun with --{key.replace('_', '-')} {was}, not {value}; "
                "give the same, or another --out"
            )
    return begun
