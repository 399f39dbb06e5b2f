"""The cylindrical texture round the head: across, the angle; down, the height. And smooth noise on it."""

import cv2
import numpy as np

from synthetic_faces.kernels.pixels import BOTTOM, TOP

HEIGHT, WIDTH = 272, 480  # texels
AXIS_Z = 0.3  # where the cylinder's axis stands, decimetres


def texel_of(uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of texture coordinates `[V, 2]`."""
    rows = np.clip((uv[:, 1] * HEIGHT).astype(int), 0, HEIGHT - 1)
    return rows, np.floor(uv[:, 0] * WIDTH).astype(int) % WIDTH


def texels() -> tuple[np.ndarray, np.ndarray]:
    """Height (decimetres) and angle (radians, 0 = front, > 0 = the subject's left) of each texel."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    height = (TOP - (row + 0.5) / HEIGHT * (TOP - BOTTOM)).astype(np.float32)
    return height, ((column + 0.5) / WIDTH * 2 * np.pi - np.pi).astype(np.float32)


def plain(colour: np.ndarray) -> np.ndarray:
    """A texture of one colour `[3]`."""
    return np.broadcast_to(colour.astype(np.float32), (HEIGHT, WIDTH, 3)).copy()


def smoothstep(a: float, b: float, x: np.ndarray | float) -> np.ndarray:
    """0 at `a`, 1 at `b`, smooth between."""
    t = np.clip((x - a) / (b - a), 0, 1)
    return t * t * (3 - 2 * t)


def noise(
    rng: np.random.Generator,
    across: float,
    down: float | None = None,
    shape: tuple[int, int] = (HEIGHT, WIDTH),
) -> np.ndarray:
    """Blurred noise of deviation 1; `across`, `down` = the blur's deviations in texels."""
    down = down or across
    if across >= 5 and down >= 5:  # smooth noise needs few samples
        small = rng.random((shape[0] // 4, shape[1] // 4), np.float32) - np.float32(0.5)
        small = cv2.GaussianBlur(small, (0, 0), across / 4, sigmaY=down / 4, borderType=cv2.BORDER_REFLECT)
        small /= small.std() + 1e-6
        return cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    whole = rng.random(shape, np.float32) - np.float32(0.5)
    whole = cv2.GaussianBlur(whole, (0, 0), across, sigmaY=down, borderType=cv2.BORDER_REFLECT)
    return whole / (whole.std() + 1e-6)
