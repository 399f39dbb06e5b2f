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
    blur and motion in pixels, the former at 96."""

    gain: np.ndarray
    contrast: float
    bright: float
    blur: float
    motion: float
    angle: float
    noise: float
    grey: bool
    small: float
    jpeg: int
    seed: int

    def calm(self) -> None:
        """Little damage, for series."""
        self.blur, self.noise = min(self.blur, 0.5), min(self.noise, 0.012)
        self.motion, self.small, self.grey, self.jpeg = 0.0, 1.0, False, 0

    def describe(self) -> dict[str, Any]:
        """The label `sensor`; missing = none."""
        found = {
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
        gain=np.exp(rng.normal(0, 0.06, 3)),
        contrast=rng.uniform(0.8, 1.2),
        bright=rng.normal(0, 0.03),
        blur=float(max(0, rng.normal(0.05, 0.42))),
        motion=float(rng.uniform(1, 3.5)) if rng.random() < 0.07 else 0.0,
        angle=rng.uniform(0, np.pi),
        noise=float(rng.gamma(1.2, 0.007)),
        grey=bool(rng.random() < 0.06),
        small=float(rng.uniform(0.35, 0.8)) if rng.random() < 0.1 else 1.0,
        jpeg=int(rng.integers(25, 75)) if rng.random() < 0.3 else 0,
        seed=int(rng.integers(1 << 31)),
    )


def develop(light: np.ndarray, sensor: Sensor, scene: Scene, size: int) -> np.ndarray:
    """Linear light, twice as large, as a picture `[size, size, 3]` uint8."""
    rng = np.random.Generator(np.random.PCG64([sensor.seed, 11]))
    image = cv2.resize(light.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    image = image * sensor.gain.astype(np.float32)
    image = np.where(image < 0.8, image, 0.8 + 0.4 * np.tanh((image - 0.8) / 0.4))
    image = np.clip(image, 0, 1) ** np.float32(1 / 2.2)
    image = (image - 0.5) * np.float32(sensor.contrast) + np.float32(0.5 + sensor.bright)
    if scene.occluder:
        image = occlude(scene, image)
    image = _blur(image, sensor)
    image = image + sensor.noise * rng.standard_normal(image.shape, np.float32)
    if sensor.grey:
        image = np.repeat(image @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, 2)
    out = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(Image.open(io.BytesIO(jpeg(out, sensor.jpeg)))) if sensor.jpeg else out


def _blur(image: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Motion, few pixels, then out of focus."""
    size = len(image)
    if sensor.motion:
        kernel = np.zeros((9, 9), np.float32)
        dx, dy = math.cos(sensor.angle) * sensor.motion, math.sin(sensor.angle) * sensor.motion
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
