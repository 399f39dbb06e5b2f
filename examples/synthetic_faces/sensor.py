"""What a camera and what comes after it do to the light: blur, noise, tone curve, sharpening, saved files."""

import io
import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from PIL import Image

from synthetic_faces.occluders import occlude
from synthetic_faces.scene import Scene

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass
class Sensor:
    """`gain` `[3]` of the colours (white balance); `exposure` a factor of the light; `knee` above which the
    highlights are compressed (1 = they clip); `curve` > 0 steepens the middle tones, `black` lifts the
    shadows, `levels` stretches the tones to the whole range; `blur` and `motion` in pixels at 96; `noise` of
    a middle grey, a share `chroma` of it in colour, `grain` its size; `grey` `[3]` the weights of a black
    and white picture or None; `small` < 1: scaled down to that share of the size; `sharpen` and its `radius`;
    `saves` qualities and scales of earlier JPEG files."""

    gain: np.ndarray
    exposure: float
    vignette: float
    knee: float
    gamma: float
    curve: float
    black: float
    levels: float
    blur: float
    motion: float
    angle: float
    noise: float
    chroma: float
    grain: float
    grey: np.ndarray | None
    small: float
    sharpen: float
    radius: float
    seed: int
    saves: list[tuple[int, float]] = field(default_factory=list)

    def calm(self) -> None:
        """Little damage, for series."""
        self.blur, self.noise = min(self.blur, 0.5), min(self.noise, 0.012)
        self.exposure = float(np.clip(self.exposure, 0.8, 1.25))
        self.motion, self.small, self.grey, self.saves, self.levels = 0.0, 1.0, None, [], 0.0

    def describe(self) -> dict[str, Any]:
        """The label `sensor`; missing = none."""
        found = {
            "exposure": round(self.exposure, 2),
            "blur": round(self.blur, 2),
            "motion": round(self.motion, 2),
            "noise": round(self.noise, 3),
            "grey": self.grey is not None,
            "small": round(self.small % 1, 2),
            "sharpen": round(self.sharpen, 2),
            "levels": round(self.levels, 2),
            "jpeg": [quality for quality, _ in self.saves],
        }
        return {name: value for name, value in found.items() if value}


def draw_sensor(rng: np.random.Generator) -> Sensor:
    """Mild on the whole: training views blur, add noise and compress once more."""

    def rarely(share: float, low: float, high: float, otherwise: float = 0.0) -> float:
        return float(rng.uniform(low, high)) if rng.random() < share else otherwise

    warmth, green = rng.normal(0, rng.choice([0.06, 0.2], p=[0.75, 0.25])), rng.normal(-0.01, 0.06)
    return Sensor(
        gain=np.exp([warmth, green, -warmth]),
        exposure=float(np.exp(rng.normal(0, rng.choice([0.15, 0.5], p=[0.75, 0.25])))),
        vignette=float(max(0, rng.normal(0, 0.3))),
        knee=rarely(0.65, 0.55, 0.9, 1.0),
        gamma=float(np.exp(rng.normal(0, 0.1))),
        curve=float(rng.normal(0.35, 0.3)),
        black=rarely(0.25, 0.0, 0.12),
        levels=rarely(0.4, 0.3, 1.0),
        blur=float(min(0.8, 0.34 * np.exp(rng.normal(0, 0.38)))),
        motion=rarely(0.04, 0.8, 1.8),
        angle=rng.uniform(0, np.pi),
        noise=float(min(0.05, rng.gamma(1.2, 0.006))),
        chroma=rng.uniform(0, 0.7),
        grain=rarely(0.4, 0.4, 0.9),
        grey=_greys(rng) if rng.random() < 0.15 else None,
        small=rarely(0.1, 0.55, 0.9, 1.0),
        sharpen=rarely(0.3, 0.2, 1.1),
        radius=rng.uniform(0.6, 1.5),
        seed=int(rng.integers(1 << 31)),
        saves=_saves(rng),
    )


def _greys(rng: np.random.Generator) -> np.ndarray:
    """How much each colour counts: as the eye has it, or as film and filters do."""
    weights = _LUMA if rng.random() < 0.5 else rng.dirichlet([3, 4, 2]).astype(np.float32)
    return np.asarray(weights, np.float32)


def _saves(rng: np.random.Generator) -> list[tuple[int, float]]:
    """Qualities and scales of the files that a picture has been."""
    count = int(rng.choice(4, p=[0.45, 0.33, 0.16, 0.06]))
    scales = [float(rng.uniform(0.75, 1.4)) if rng.random() < 0.5 else 1.0 for _ in range(count)]
    return [(int(rng.integers(30, 95)), scale) for scale in scales]


def develop(light: np.ndarray, sensor: Sensor, scene: Scene, size: int) -> np.ndarray:
    """Linear light, twice as large, as a picture `[size, size, 3]` uint8."""
    rng = np.random.Generator(np.random.PCG64([sensor.seed, 11]))
    image = cv2.resize(light.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    if scene.occluder != "none":
        image = occlude(scene, image)
    image = _blur(image, sensor)
    image *= (sensor.gain * sensor.exposure).astype(np.float32) * _vignette(sensor, size)
    image += _noise(rng, sensor, image)
    image = _tones(image, sensor)
    if sensor.grey is not None:
        image = np.repeat(image @ sensor.grey[:, None], 3, 2)
    if sensor.sharpen:
        soft = cv2.GaussianBlur(image, (0, 0), sensor.radius * max(size / 96, 0.7))
        image += np.float32(sensor.sharpen) * (image - soft)
    picture = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    for quality, scale in sensor.saves:
        picture = _saved(picture, quality, scale)
    return picture if len(picture) == size else _scaled(picture, size)


def _noise(rng: np.random.Generator, sensor: Sensor, image: np.ndarray) -> np.ndarray:
    """Noise of the light's grains and of the electronics, in linear light."""
    size = len(image)
    grains = rng.standard_normal((size, size, 1), np.float32) * np.float32(1 - sensor.chroma)
    grains = grains + rng.standard_normal((size, size, 3), np.float32) * np.float32(sensor.chroma)
    if sensor.grain:
        grains = cv2.GaussianBlur(grains, (0, 0), sensor.grain) * np.float32(1 + 2 * sensor.grain)
    level = np.float32(sensor.noise) * np.sqrt(0.01 + np.clip(image, 0, 1.5), dtype=np.float32)
    return np.asarray(grains * level, np.float32)


def _tones(image: np.ndarray, sensor: Sensor) -> np.ndarray:
    """The tone curve: highlights, gamma, contrast."""
    if sensor.knee < 1:
        room = np.float32(1.05 - sensor.knee)
        over = np.maximum(image - np.float32(sensor.knee), 0)
        image = np.minimum(image, np.float32(sensor.knee)) + room * over / (room + over)
    image = np.clip(image, 0, 1) ** np.float32(sensor.gamma / 2.2)
    if sensor.levels:
        low, high = np.percentile(image[::3, ::3], [1, 99])
        goal_low, goal_high = low * (1 - sensor.levels), high + (1 - high) * sensor.levels
        image = (image - low) * np.float32((goal_high - goal_low) / max(high - low, 0.1)) + np.float32(
            goal_low
        )
        image = np.clip(image, 0, 1)
    image += np.float32(sensor.curve) * (image * image * (3 - 2 * image) - image)
    return np.asarray(np.float32(sensor.black) + np.float32(1 - sensor.black) * image, np.float32)


def _vignette(sensor: Sensor, size: int) -> np.ndarray:
    """Darker corners, `[size, size, 1]`."""
    place = (np.arange(size, dtype=np.float32) / size - 0.5) ** 2
    return (1 - min(sensor.vignette, 0.9) * np.clip(2 * (place[:, None] + place), 0, 1))[..., None]


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


def _saved(picture: np.ndarray, quality: int, scale: float) -> np.ndarray:
    """What comes back from a JPEG file of another size."""
    if scale != 1:
        picture = _scaled(picture, round(len(picture) * scale))
    return np.asarray(Image.open(io.BytesIO(jpeg(picture, quality))))


def _scaled(picture: np.ndarray, size: int) -> np.ndarray:
    way = cv2.INTER_AREA if size < len(picture) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size, size), interpolation=way))


def jpeg(image: np.ndarray, quality: int, **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=quality, **options)
    return data.getvalue()
