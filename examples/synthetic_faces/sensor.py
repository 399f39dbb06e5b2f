"""What the camera does to the light: white balance, tone curve, blur, noise, compression."""

import io
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from synthetic_faces.scene import Scene, occlude


@dataclass
class Sensor:
    """`small` < 1: taken at that share of the size; `jpeg` the quality of a first compression, 0 = none;
    blur and motion in pixels at 96; `exposure` a factor
    of the light, `gain` the same of each colour."""

    gain: np.ndarray
    exposure: float
    vignette: float
    contrast: float
    bright: float
    blur: float
    motion: float
    angle: float
    noise: float
    grey: bool
    small: float
    sharpen: float
    jpeg: int
    seed: int

    def calm(self) -> None:
        """Little damage, for series."""
        self.blur, self.noise = min(self.blur, 0.5), min(self.noise, 0.012)
        self.exposure = float(np.clip(self.exposure, 0.8, 1.25))
        self.motion, self.small, self.grey, self.jpeg = 0.0, 1.0, False, 0

    def describe(self) -> dict[str, Any]:
        """The label `sensor`; missing = none."""
        found = {
            "exposure": round(self.exposure, 2),
            "blur": round(self.blur, 2),
            "motion": round(self.motion, 2),
            "noise": round(self.noise, 3),
            "grey": self.grey,
            "small": round(self.small % 1, 2),
            "jpeg": self.jpeg,
        }
        return {name: value for name, value in found.items() if value}


def draw_sensor(rng: np.random.Generator) -> Sensor:
    return Sensor(
        gain=np.exp(rng.normal(0, rng.choice([0.05, 0.16], p=[0.8, 0.2]), 3)),
        exposure=float(np.exp(rng.normal(0, rng.choice([0.15, 0.55], p=[0.75, 0.25])))),
        vignette=float(max(0, rng.normal(0, 0.3))),
        contrast=rng.uniform(0.75, 1.3),
        bright=rng.normal(0, 0.03),
        blur=float(max(0, rng.normal(0.05, 0.42))),
        motion=float(rng.uniform(1, 3.5)) if rng.random() < 0.08 else 0.0,
        angle=rng.uniform(0, np.pi),
        noise=float(rng.gamma(1.2, 0.007)),
        grey=bool(rng.random() < 0.12),
        small=float(rng.uniform(0.3, 0.8)) if rng.random() < 0.15 else 1.0,
        sharpen=float(rng.uniform(0.3, 1.5)) if rng.random() < 0.2 else 0.0,
        jpeg=int(rng.integers(20, 80)) if rng.random() < 0.4 else 0,
        seed=int(rng.integers(1 << 31)),
    )


def develop(light: np.ndarray, sensor: Sensor, scene: Scene, size: int) -> np.ndarray:
    """Linear light, twice as large, as a picture `[size, size, 3]` uint8."""
    rng = np.random.Generator(np.random.PCG64([sensor.seed, 11]))
    image = cv2.resize(light.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    image = image * (sensor.gain * sensor.exposure).astype(np.float32) * _vignette(sensor, size)
    image = np.where(image < 0.8, image, 0.8 + 0.4 * np.tanh((image - 0.8) / 0.4))
    image = np.clip(image, 0, 1) ** np.float32(1 / 2.2)
    image = (image - 0.5) * np.float32(sensor.contrast) + np.float32(0.5 + sensor.bright)
    if scene.occluder:
        image = occlude(scene, image)
    image = _blur(image, sensor)
    if sensor.sharpen:
        image = image + sensor.sharpen * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
    image = image + sensor.noise * rng.standard_normal(image.shape, np.float32)
    if sensor.grey:
        image = np.repeat(image @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, 2)
    out = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(Image.open(io.BytesIO(jpeg(out, sensor.jpeg)))) if sensor.jpeg else out


def _vignette(sensor: Sensor, size: int) -> np.ndarray:
    """Darker corners, `[size, size, 1]`."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    return (1 - min(sensor.vignette, 0.9) * np.clip(2 * (x**2 + y**2), 0, 1))[..., None]


def _blur(image: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Motion, few pixels, then out of focus."""
    size = len(image)
    if sensor.motion:
        kernel = np.zeros((9, 9), np.float32)
        reach = sensor.motion * min(size / 96, 1.0)
        dx, dy = math.cos(sensor.angle) * reach, math.sin(sensor.angle) * reach
        cv2.line(kernel, (round(4 - dx), round(4 - dy)), (round(4 + dx), round(4 + dy)), 1.0, 1)
        image = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    if sensor.small < 1:
        few = max(24, int(size * sensor.small))
        image = cv2.resize(image, (few, few), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    if sensor.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sensor.blur * size / 96)
    return image


def jpeg(image: np.ndarray, quality: int, **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=quality, **options)
    return data.getvalue()
