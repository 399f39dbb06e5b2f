"""How many processors this process may use: by its affinity, and by the CPU quota of its container."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
CGROUPS = "sys/fs/cgroup"
# (file of a cgroup, file with the period): version 2 has both numbers in one file
QUOTAS = (("cpu.max", None), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def cores() -> int:
    """Processors that this process may use, at least one.

    A container with a quota (`docker --cpus=2`, Kubernetes `limits.cpu`) still sees all processors of its
    machine in the affinity mask.
    """
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([seen, *map(math.ceil, _quotas(ROOT))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas in processors of this process's cgroups and of those above them."""
    for folder in _cgroups(root):
        for quota, period in QUOTAS:
            with suppress(OSError, ValueError):  # no such cgroup, or "max": no limit
                words = (folder / quota).read_text("ascii").split()
                words += [(folder / period).read_text("ascii")] if period else []
                allowed, of = map(int, words)
                if allowed > 0 and of > 0:  # version 1 writes -1 for no limit
                    yield allowed / of


def _cgroups(root: Path) -> Iterator[Path]:
    """Where the cgroups of this process may lie. Inside a container its own one is the root of the mount,
    whatever its name is outside."""
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    for line in lines:
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (controllers, "cpu") if controllers else ("", "unified"):
            own = Path(name.lstrip("/"))
            for level in (own, *own.parents):
                yield root / CGROUPS / mount / level
