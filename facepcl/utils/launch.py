"""Which share of a job is this process's: by its options, or by torchrun or SLURM."""

import os
from typing import NamedTuple

from facepcl.errors import OptionError

# what srun and mpirun set, from the value on that tells of several processes
_OTHER_LAUNCHERS = {"SLURM_STEP_NUM_TASKS": 2, "SLURM_PROCID": 1, "OMPI_COMM_WORLD_SIZE": 2, "PMI_SIZE": 2}


class Share(NamedTuple):
    """Process `rank` of `world_size`, and who says so."""

    rank: int = 0
    world_size: int = 1
    source: str = ""

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def find_share(rank: int | None, world_size: int | None) -> Share:
    """`rank` of `world_size`, or what torchrun or SLURM gave this process. Raises OptionError."""
    if (rank is None) != (world_size is None):
        raise OptionError(
            "--rank and --world-size belong together: --rank 0 --world-size 4 is the first of 4"
        )
    if rank is not None and world_size is not None:
        return _checked(Share(rank, world_size, "--rank and --world-size"))
    if torchrun := torchrun_share():
        return torchrun
    array, step = _array_task(), _step_task()
    if not array.source or not step.source:
        return array if array.source else step
    count = array.world_size * step.world_size
    return Share(array.rank * step.world_size + step.rank, count, f"{array.source} and {step.source}")


def torchrun_share() -> Share | None:
    """What torchrun gave this process, None without it. Raises OptionError if half of it is missing: each
    process would do all of the work, or none would write."""
    given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not given:
        return None
    if len(given) == 1:
        missing = ({"RANK", "WORLD_SIZE"} - set(given)).pop()
        raise OptionError(
            f"{given[0]} is set in the environment without {missing}: set both, as torchrun does, or neither"
        )
    return _checked(Share(_number("RANK"), _number("WORLD_SIZE"), "RANK and WORLD_SIZE"))


def check_alone() -> None:
    """Raise OptionError in one of several processes that something else than torchrun started."""
    for name, several in _OTHER_LAUNCHERS.items():
        if (text := os.environ.get(name, "")).isdigit() and int(text) >= several:
            raise OptionError(
                f"{name} is {text}, and RANK and WORLD_SIZE are not set: start processes that train together "
                "by torchrun (srun torchrun ...), or unset it to train in this process alone"
            )


def _array_task() -> Share:
    """A task of `sbatch --array`: its place among the others."""
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return Share()
    own, first, count = (_number(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "COUNT"))
    step = _number("SLURM_ARRAY_TASK_STEP", "1")
    rank, odd = divmod(own - first, step or 1)
    if odd or not 0 <= rank < count:
        raise OptionError(
            f"task {own} belongs to a SLURM array with gaps: give --rank and --world-size, as in --rank "
            "$SLURM_ARRAY_TASK_ID --world-size 16"
        )
    return Share(rank, count, "SLURM_ARRAY_TASK_ID")


def _step_task() -> Share:
    """A task of `srun`. In a batch script without srun SLURM_NTASKS speaks of tasks that do not run."""
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        return Share()
    return _checked(Share(_number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS"), "SLURM_PROCID"))


def _number(name: str, default: str | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text or "")
    except ValueError:
        raise OptionError(
            f"{name} in the environment is {text!r}, not a number: correct or unset it "
            "(facepcl embed also takes --rank and --world-size)"
        ) from None


def _checked(share: Share) -> Share:
    if share.world_size < 1 or not 0 <= share.rank < share.world_size:
        raise OptionError(f"{share} (by {share.source}): ranks count from 0 to world size - 1")
    return share


def own_device(device: str) -> str:
    """`device`, or where processes share a machine with several GPUs, this one's own."""
    name = "LOCAL_RANK" if "LOCAL_RANK" in os.environ else "SLURM_LOCALID"
    import torch  # seconds that only this needs

    if device not in ("auto", "cuda") or name not in os.environ or not torch.cuda.is_available():
        return device
    return f"cuda:{_number(name) % torch.cuda.device_count()}"


def local_world_size() -> int:
    """The processes on this machine that torchrun started together; 1 without it. Raises OptionError."""
    return max(1, _number("LOCAL_WORLD_SIZE", "1"))


def take_own_cores() -> None:
    """Keep this process, and those that it starts, to its part of the cores that torchrun's share."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // local_world_size()
    if 0 < size < len(cores):
        start = _number("LOCAL_RANK", "0") * size
        os.sched_setaffinity(0, cores[start : start + size])


def is_first() -> bool:
    """Whether this process is the one that speaks for all, by what torchrun says; whether that can be is
    checked where the work starts."""
    return os.environ.get("RANK", "0") == "0"
