"""The first line of every benchmark: processor, versions, threads."""

import platform
from pathlib import Path

import timm
import torch

import facepcl
from facepcl.utils.device import DTYPES, matmul_peak


def describe() -> str:
    """One line on the machine that runs this."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    return (
        f"{name} ({', '.join(units)}), {torch.get_num_threads()} thread(s); facepcl {facepcl.__version__}, "
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
    )


def peaks() -> dict[str, float]:
    """GFLOP/s of matrix products on the CPU with the threads that torch has, by dtype."""
    cpu = torch.device("cpu")
    return {name: matmul_peak(cpu, dtype, 1) / 1e9 for name, dtype in DTYPES.items()}
