"""The first line of every benchmark: processor, versions, threads."""

import platform
from pathlib import Path

import timm
import torch

import facepcl
from facepcl.utils.device import DTYPES, matmul_peak


def describe() -> str:
    """One line on the machine that runs this."""
    lines = _cpu_info()
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return (
        f"{name} ({', '.join(units())}), {torch.get_num_threads()} thread(s); facepcl {facepcl.__version__}, "
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
    )


def units() -> list[str]:
    """The vector and matrix units of the processor that matter here, the smallest first."""
    flags = next((line.split() for line in _cpu_info() if line.startswith("flags")), [])
    return [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]


def _cpu_info() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.is_file() else []


def peaks() -> dict[str, float]:
    """GFLOP/s of matrix products on the CPU with the threads that torch has, by dtype."""
    cpu = torch.device("cpu")
    return {name: matmul_peak(cpu, dtype, 1) / 1e9 for name, dtype in DTYPES.items()}
