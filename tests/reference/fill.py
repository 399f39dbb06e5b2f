"""Parameters and inputs of the reference values, generated from a name and a shape.

The values are the same on every platform: `unit` uses the raw output of PCG64 and exact scaling, and no level
of an image used here lies closer than 1e-7 to a rounding boundary.
"""

import zlib
from collections.abc import Sequence

import numpy as np


def unit(name: str, shape: Sequence[int]) -> np.ndarray:
    """Uniform float64 values in [-1, 1), seeded with crc32(name)."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(count)
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(shape)


def fill(name: str, shape: Sequence[int]) -> np.ndarray:
    """Value of a parameter or buffer; `name` is the original's key without `module.`."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    values = unit(name, shape)
    if name.endswith("running_var"):
        return 1.0 + 0.5 * values
    if len(shape) > 1:  # weights of a convolution or linear layer: variance 2 / fan_in
        return values * np.sqrt(6.0 / np.prod(shape[1:], dtype=np.int64))
    if name.endswith("weight"):  # scale of a batch normalisation
        return 1.0 + 0.1 * values
    return 0.1 * values


def image_u8(name: str, shape: Sequence[int]) -> np.ndarray:
    """Images of shape [..., C, H, W]: smooth gradients with noise, levels 0 to 255."""
    *lead, channels, height, width = shape
    y = np.linspace(0.0, 1.0, height)[:, None]
    x = np.linspace(0.0, 1.0, width)
    phase = unit(f"{name}#phase", (*lead, channels, 1, 1))
    base = 0.5 + 0.35 * np.sin(3.0 * x + 2.0 * y + 3.0 * phase) * np.cos(2.0 * x * y + phase)
    return np.clip(np.floor((base + 0.15 * unit(name, shape)) * 256.0), 0, 255).astype(np.uint8)
