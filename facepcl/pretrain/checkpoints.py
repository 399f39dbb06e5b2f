"""The configuration and checkpoints of a run on disk, without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facepcl.errors import FacepclError, OptionError, WeightsError
from facepcl.models.io import load_tensors, read_metadata, save_tensors
from facepcl.pretrain.config import DEFAULTS, MAY_CHANGE
from facepcl.utils.files import check_folder, delete

AVERAGED = "averaged."  # prefix of the moving average in a checkpoint
KEPT = 2  # checkpoints
_FACTS = {"images": int, "shards": dict, "autocast": str, "unfold": bool}  # of config.json


FOLDERS = ("samples", "encoder", "tensorboard")


def check_writable(run: Path) -> None:
    """Raise OptionError or WriteError unless `run` is a writable folder or can be created."""
    check_folder(run)
    others = [name for name in (*FOLDERS, "log.jsonl") if (run / name).exists()]
    if others and not (run / "config.json").exists() and not checkpoints(run):
        raise OptionError(
            f"--out {run} contains {others[0]} but no config.json of a run; choose another --out"
        )
    for name in FOLDERS:
        if (run / name).exists() and not (run / name).is_dir():
            raise OptionError(f"--out {run}: {run / name} is a file; a folder was expected")


def _numbered(run: Path, kind: str) -> dict[int, Path]:
    """The files of a `kind` by their step, in order."""
    files = {path.stem.rpartition("-")[2]: path for path in run.glob(f"{kind}-*.safetensors")}
    return dict(sorted((int(step), path) for step, path in files.items() if step.isdigit()))


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; each has its optimiser state beside it."""
    return list(_numbered(run, "checkpoint").values())


def checkpoint_path(run: Path, step: int) -> Path:
    """The file of the networks after `step` steps."""
    return run / f"checkpoint-{step:08d}.safetensors"


def last_checkpoint(run: Path) -> str:
    """The newest checkpoint, for an error message."""
    return f"the last good checkpoint is {next(reversed(checkpoints(run)), 'none')}"


def save_checkpoint(
    run: Path,
    step: int,
    nets: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
    ema: nn.Module | None = None,
) -> None:
    """Write networks, moving average, optimiser state and `progress` (JSON); delete old checkpoints.

    Raises FacepclError, and writes nothing, if a number is not finite.
    """
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in nets.named_parameters()}
    state = {
        f"{names[parameter]}:{kind}": torch.as_tensor(value)
        for parameter, values in optimizer.state.items()
        for kind, value in values.items()
    }
    weights = nets.state_dict()
    if ema is not None:
        weights |= {AVERAGED + name: tensor for name, tensor in ema.state_dict().items()}
    for name, tensor in (weights | state).items():
        if not tensor.isfinite().all():  # a gradient overflowed in the last step
            raise FacepclError(f"{name} is no longer finite after step {step}; {last_checkpoint(run)}")
    # the checkpoint last: if it exists, its optimiser state is complete
    save_tensors(state, run / f"optimizer-{step:08d}.safetensors")
    save_tensors(weights, checkpoint_path(run, step), {"step": str(step), "progress": json.dumps(progress)})
    for old in checkpoints(run)[:-KEPT]:
        old.unlink()
    kept = _numbered(run, "checkpoint")
    for number, orphan in _numbered(run, "optimizer").items():
        if number not in kept:
            orphan.unlink()
    # left by killed processes; .tmp files are safetensors' own
    for partial in (*run.glob(".*.partial"), *run.glob(".tmp??????")):
        delete(partial)


def load_checkpoint(
    path: Path, nets: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None = None
) -> tuple[int, dict[str, Any]]:
    """Restore networks, moving average and optimiser in place; return the finished steps and `progress`.

    Raises WeightsError if the files are damaged or belong to another run.
    """
    try:
        metadata, weights = read_metadata(path), load_tensors(path)
        averaged = [name for name in weights if name.startswith(AVERAGED)]
        average = {name.removeprefix(AVERAGED): weights.pop(name) for name in averaged}
        nets.load_state_dict(weights)
        if ema is not None:
            ema.load_state_dict(average)
        step, progress = int(metadata["step"]), json.loads(metadata["progress"])
        _load_optimizer(path.with_name(f"optimizer-{step:08d}.safetensors"), nets, optimizer)
    except (KeyError, ValueError, RuntimeError, RecursionError) as error:
        if isinstance(error, FacepclError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is not a checkpoint of this run ({reason})") from error
    return step, progress


def _load_optimizer(path: Path, nets: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(nets.named_parameters())
    optimizer.state.clear()
    for key, value in load_tensors(path).items():
        name, _, kind = key.rpartition(":")
        parameter = parameters[name]
        if kind == "step":
            # stays on the CPU in float32; a copy, since Windows deletes no file that is still mapped
            optimizer.state[parameter][kind] = value.view(()).clone()
        else:
            # in the parameter's memory layout, so that a resumed step is bit-identical
            value = value.to(parameter.device, parameter.dtype)
            optimizer.state[parameter][kind] = torch.empty_like(parameter).copy_(value)
    for trained in optimizer.state:
        # with `--gradients zeros` Adam also moves parameters that a task has no gradient for
        trained.grad = torch.zeros_like(trained)


def check_same_run(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read RUN/config.json of the run to resume; empty without checkpoints, since the run then starts over.

    Raises OptionError if `config` differs in an option that affects the result. An option that is missing
    there had its default.
    """
    if not checkpoints(path.parent):
        return {}
    if not path.is_file():
        raise OptionError(f"{path.parent} has checkpoints and no config.json; give another --out")
    try:
        previous_config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not valid JSON ({error}); give another --out") from error
    if not isinstance(previous_config, dict) or not all(
        isinstance(previous_config.get(name, kind()), kind) for name, kind in _FACTS.items()
    ):
        raise OptionError(f"{path} is not the configuration of a run; give another --out")
    for key, value in config.items():
        previous = previous_config.get(key, DEFAULTS.get(key))
        if key not in MAY_CHANGE and previous != value:
            raise OptionError(
                f"{path.parent} was started with --{key.replace('_', '-')} {previous}, not {value}; "
                "give the same, or another --out"
            )
    return previous_config
