"""How an upright image is brought to a network's input, pixel for pixel as timm's own transform does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

LONGEST = 16  # sides of a longer strip than 16 : 1 are cut: resized whole, 1 x 60,000 would take 700 MB
# A JPEG decoded smaller keeps at least 1.5 pixels for each that is needed: cosine of the codes 0.999 or more
MARGIN = 1.5


@dataclass(frozen=True)
class Transform:
    """Resize to (`resize_height`, `resize_width`), then cut `height` x `width` pixels out of the middle.

    `mode` center: the shorter side gets that size; squash: both sides do; border: the longer side does, and
    `fill` surrounds the image.
    """

    height: int
    width: int
    resize_height: int
    resize_width: int
    mode: str = "center"
    interpolation: str = "bicubic"
    fill: tuple[int, ...] = (0, 0, 0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", tuple(self.fill))  # a list where it came through JSON

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Transform":
        """Of timm's data config (`resolve_model_data_config`)."""
        _, height, width = config["input_size"]
        share = config.get("crop_pct") or 0.875  # timm's default
        mode = config.get("crop_mode") or "center"
        fill = tuple(round(255 * value) for value in config["mean"])
        resize_height, resize_width = int(height / share), int(width / share)
        return cls(height, width, resize_height, resize_width, mode, config["interpolation"], fill)

    @classmethod
    def square(cls, size: int) -> "Transform":
        """Short side resized to `size` pixels (bicubic, antialiased), centre cut."""
        return cls(size, size, size, size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the pixels, `[height, width, 3]`."""
        return self.height, self.width, 3

    @property
    def needed(self) -> int:
        """Pixels that each side of a decoded image should have at least."""
        return int(MARGIN * max(self.resize_height, self.resize_width))

    def __call__(
        self,
        image: Image.Image,
        size: tuple[int, int] | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> np.ndarray:
        """uint8 `[height, width, 3]` of an RGB image, or of a `Picture` that was decoded smaller."""
        size, box = size or image.size, box or (0, 0, *image.size)
        if self.mode == "center":
            size, box = _without_ends(size, box)
        resized = self._resized(*size)
        if (resized, box) != (image.size, (0, 0, *image.size)):
            image = image.resize(resized, Image.Resampling[self.interpolation.upper()], box)
        left, top = _offset(image.width, self.width), _offset(image.height, self.height)
        if min(left, top) < 0:  # only in mode border is the image smaller than the input
            framed = Image.new("RGB", (self.width, self.height), self.fill)
            framed.paste(image, (-left, -top))
            return np.array(framed)
        cut = (left, top, left + self.width, top + self.height)
        return np.array(image if image.size == (self.width, self.height) else image.crop(cut))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.mode == "squash":
            return self.resize_width, self.resize_height
        if self.mode == "center" and self.resize_width == self.resize_height:
            short = min(width, height)
            return int(self.resize_width * width / short), int(self.resize_height * height / short)
        ratios = height / self.resize_height, width / self.resize_width
        ratio = max(ratios) if self.mode == "border" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _offset(length: int, cut: int) -> int:
    """Where the middle `cut` of `length` pixels begin; negative where there are fewer."""
    return round((length - cut) / 2) if length >= cut else -((cut - length) // 2)


def _without_ends(
    size: tuple[int, int], box: tuple[float, float, float, float]
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """The middle of an image longer than 16 : 1, all that a centre crop needs; others as they are."""
    width, height = (min(side, LONGEST * min(size)) for side in size)
    if (width, height) == size:
        return size, box
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    x, y = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]  # decoded pixels per pixel of the file
    left_at, top_at = box[0] + left * x, box[1] + top * y
    return (width, height), (left_at, top_at, left_at + width * x, top_at + height * y)
