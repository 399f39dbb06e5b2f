"""Which share of a job is this process's: by its options, or by torchrun or SLURM."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from facepcl.errors import OptionError


class Share(NamedTuple):
    """Process `rank` of `world_size`, and who says so."""

    rank: int = 0
    world_size: int = 1
    source: str = ""

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def find_share(rank: int | None, world_size: int | None, environ: Mapping[str, str] = os.environ) -> Share:
    """`rank` of `world_size`, or what torchrun or SLURM gave this process. Raises OptionError."""
    if (rank is None) != (world_size is None):
        raise OptionError(
            "--rank and --world-size belong together: --rank 0 --world-size 4 is the first of 4"
        )
    if rank is not None and world_size is not None:
        return _checked(Share(rank, world_size, "--rank and --world-size"))
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _checked(
            Share(_number(environ, "RANK"), _number(environ, "WORLD_SIZE"), "RANK and WORLD_SIZE")
        )
    array, step = _array_task(environ), _step_task(environ)
    if not array.source or not step.source:
        return array if array.source else step
    count = array.world_size * step.world_size
    return Share(array.rank * step.world_size + step.rank, count, f"{array.source} and {step.source}")


def _array_task(environ: Mapping[str, str]) -> Share:
    """A task of `sbatch --array`: its place among the others."""
    if "SLURM_ARRAY_TASK_ID" not in environ:
        return Share()
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
    own, first, count = (_number(environ, name) for name in names)
    rank, odd = divmod(own - first, int(environ.get("SLURM_ARRAY_TASK_STEP") or 1))
    if odd or not 0 <= rank < count:
        raise OptionError(
            f"task {own} of a SLURM array that has gaps: give --rank and --world-size, as in --rank "
            "$SLURM_ARRAY_TASK_ID --world-size 16"
        )
    return Share(rank, count, names[0])


def _step_task(environ: Mapping[str, str]) -> Share:
    """A task of `srun`. In a batch script without srun SLURM_NTASKS speaks of tasks that do not run."""
    if "SLURM_STEP_NUM_TASKS" not in environ:
        return Share()
    return _checked(
        Share(_number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS"), "SLURM_PROCID")
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except (KeyError, ValueError):
        raise OptionError(
            f"{name} in the environment is {environ.get(name)!r}, not a number: give --rank and --world-size"
        ) from None


def _checked(share: Share) -> Share:
    if share.world_size < 1 or not 0 <= share.rank < share.world_size:
        raise OptionError(f"{share} (by {share.source}): ranks count from 0 to world size - 1")
    return share


def own_device(device: str, environ: Mapping[str, str] = os.environ) -> str:
    """`device`, or where processes share a machine with several GPUs, this one's own."""
    local = environ.get("LOCAL_RANK", environ.get("SLURM_LOCALID"))
    import torch  # seconds that only this needs

    if device not in ("auto", "cuda") or local is None or not torch.cuda.is_available():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"


def take_own_cores(environ: Mapping[str, str] = os.environ) -> None:
    """Keep this process, and those that it starts, to its part of the cores that torchrun's share."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // int(environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < size < len(cores):
        start = int(environ.get("LOCAL_RANK", "0")) * size
        os.sched_setaffinity(0, cores[start : start + size])


def is_first() -> bool:
    """Whether this process is the one that speaks for all, by what torchrun says."""
    return int(os.environ.get("RANK", "0")) == 0
