"""Whole-face views for the label heads, mild or strong for each image of a batch (METHOD 10)."""

import io
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from facepcl.pretrain.rng import WHOLE, noise

VIEWS = ("mild", "strong", "ramp")
RAMP_START, RAMP_END = 0.125, 0.7  # the part of a run with mild views alone; the last share of strong ones
MIRRORED = 0.5
ERASED_AREA, ERASED_ASPECT = (0.02, 0.2), (math.exp(-1), math.exp(1))


class Strength(NamedTuple):
    """How far views go. A pair is a uniform range, `sd_` a standard deviation, `p_` a probability."""

    half_side: tuple[float, float]  # of the crop, in eyes-to-mouth distances
    shift_down: tuple[float, float]  # of its centre, in half sides, besides sd_shift in both directions
    sd_shift: float
    sd_turn: float  # degrees about the eye line
    sd_shape: float  # log aspect and shear
    perspective: tuple[float, float]
    p_side_light: float
    p_grey: float
    saturation: tuple[float, float]
    sd_tint: float  # log gain of each channel
    p_stretch: float  # percentiles 2 and 98 to black and white, in place of gain and contrast
    log_gain: tuple[float, float]
    log_contrast: tuple[float, float]
    log_gamma: tuple[float, float]
    p_sharpen: float
    p_soften: float
    p_few_pixels: float  # down to few pixels and up again
    pixels: tuple[float, float]  # how many, in sides of the view
    p_noise: float
    sd_noise: tuple[float, float]
    p_jpeg: float
    quality: tuple[float, float]
    p_erase: float


def _log_range(factor: float) -> tuple[float, float]:
    return -math.log(factor), math.log(factor)


MILD = Strength(
    half_side=(1.3, 1.7),
    shift_down=(0.0, 0.0),
    sd_shift=0.06,
    sd_turn=6.0,
    sd_shape=0.0,
    perspective=(0.0, 0.0),
    p_side_light=0.0,
    p_grey=0.5,
    saturation=(1.0, 1.0),
    sd_tint=0.0,
    p_stretch=0.0,
    log_gain=_log_range(1.3),
    log_contrast=_log_range(1.3),
    log_gamma=_log_range(1.3),
    p_sharpen=0.0,
    p_soften=0.0,
    p_few_pixels=0.3,
    pixels=(0.5, 0.5),
    p_noise=0.3,
    sd_noise=(0.03, 0.03),
    p_jpeg=0.0,
    quality=(75.0, 75.0),
    p_erase=0.0,
)
STRONG = Strength(
    half_side=(1.0, 1.8),
    shift_down=(-0.30, 0.10),
    sd_shift=0.06,
    sd_turn=8.0,
    sd_shape=0.06,
    perspective=(-0.10, 0.10),
    p_side_light=0.3,
    p_grey=0.5,
    saturation=(0.3, 1.5),
    sd_tint=0.08,
    p_stretch=0.5,
    log_gain=_log_range(1.4),
    log_contrast=_log_range(1.4),
    log_gamma=_log_range(1.6),
    p_sharpen=0.3,
    p_soften=0.15,
    p_few_pixels=0.15,
    pixels=(1 / 3, 5 / 6),
    p_noise=0.3,
    sd_noise=(0.0, 0.05),
    p_jpeg=0.2,
    quality=(20.0, 75.0),
    p_erase=0.2,
)


def strong_share(views: str, done: float, started: bool) -> float:
    """The probability of a strong view after the part `done` of a run.

    `ramp` is mild at first and rises linearly, to 0.7 at the end; an encoder that was `started` before has
    0.7 throughout.
    """
    if views == "ramp":
        return RAMP_END if started else RAMP_END * max(0.0, (done - RAMP_START) / (1 - RAMP_START))
    return 1.0 if views == "strong" else 0.0


class LabelViews(NamedTuple):
    """Views `[B, 3, S, S]` in [0, 1], which of them are mirrored `[B]`, and by how many degrees their crop
    was turned clockwise `[B]` (what a label of roll has to be increased by before the mirror); of a part of
    a batch its views, and the rest of the whole."""

    images: torch.Tensor
    mirrored: torch.Tensor
    turned: torch.Tensor


def label_views(
    images: torch.Tensor,
    landmarks: torch.Tensor,
    size: int,
    generator: torch.Generator,
    part: slice = WHOLE,
    share: float = 0.0,
) -> LabelViews:
    """One random crop of each face, with the colours, blur and noise that photos have.

    Args:
        images: uint8 `[b, 3, H, H]`, a `part` of a batch.
        landmarks: `[B, 5, 2]` in pixels, NaN where unknown, of the whole batch.
        size: Side of the views in pixels.
        generator: A CPU generator; a view does not depend on the part.
        share: The probability of a strong view.
    """
    draws = _Draws(len(landmarks), share, generator)
    centre, distance, angle = face_frames(landmarks, images.shape[-1])
    turned = angle + torch.deg2rad(draws.normal("sd_turn"))
    mirrored = draws.chance(MIRRORED)
    half = distance * draws.between("half_side")
    shift = torch.stack([draws.normal("sd_shift"), draws.normal("sd_shift") + draws.between("shift_down")], 1)
    square = _face_axes(turned) * half[:, None, None]
    centre = centre + (square @ shift[:, :, None])[..., 0]
    aspect, shear = (0.5 * draws.normal("sd_shape")).exp(), draws.normal("sd_shape")
    shape = torch.stack([aspect, shear, torch.zeros_like(shear), 1 / aspect], 1).view(-1, 2, 2)
    shape[:, :, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    perspective = torch.stack([draws.between("perspective"), draws.between("perspective")], 1)
    crops = _crop(images, centre[part], (square @ shape)[part], perspective[part], size)
    return LabelViews(_photo_look(crops, draws, part), mirrored, -turned.rad2deg())


def face_frames(landmarks: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre `[B, 2]`, eyes-to-mouth distance `[B]` and eye-line angle `[B]` (radians, clockwise) of faces.

    `landmarks` `[B, 5, 2]` in pixels: right eye, left eye, nose, right and left mouth corner of the
    subject, NaN where unknown; the whole image of `size` pixels stands in for these.
    """
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    across = landmarks[:, 1] - landmarks[:, 0]
    unknown = landmarks.isnan().any(2).any(1)
    centre = ((eyes + mouth) / 2).masked_fill(unknown[:, None], size / 2)
    distance = (mouth - eyes).norm(dim=1).masked_fill(unknown, size / 2 / MILD.half_side[0])
    return centre, distance, torch.atan2(across[:, 1], across[:, 0]).masked_fill(unknown, 0.0)


class _Draws:
    """Random numbers of each of `count` images, from the ranges of its strength."""

    def __init__(self, count: int, share: float, generator: torch.Generator):
        self.count, self.generator = count, generator
        self.strong = torch.rand(count, generator=generator) < share

    def number(self, name: str, end: int | None = None) -> torch.Tensor:
        """A number of the strengths, or an `end` of a range, for each image `[count]`."""
        mild, strong = (getattr(s, name) if end is None else getattr(s, name)[end] for s in (MILD, STRONG))
        return torch.where(self.strong, strong, mild)

    def between(self, name: str) -> torch.Tensor:
        low, high = self.number(name, 0), self.number(name, 1)
        return low + (high - low) * torch.rand(self.count, generator=self.generator)

    def normal(self, name: str) -> torch.Tensor:
        return self.number(name) * torch.randn(self.count, generator=self.generator)

    def chance(self, probability: str | float) -> torch.Tensor:
        p = self.number(probability) if isinstance(probability, str) else probability
        return torch.rand(self.count, generator=self.generator) < p

    def uniform(self, low: float, high: float) -> torch.Tensor:
        """The same range for all images."""
        return low + (high - low) * torch.rand(self.count, generator=self.generator)


def _face_axes(angle: torch.Tensor) -> torch.Tensor:
    """Rotations `[B, 2, 2]` from a face's own axes to those of the image."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)


def _crop(
    images: torch.Tensor, centre: torch.Tensor, axes: torch.Tensor, perspective: torch.Tensor, size: int
) -> torch.Tensor:
    """Views `[B, 3, size, size]` in [0, 1] of uint8 images: from the square (-1, 1) by a `perspective`
    `[B, 2]` and an affine map `axes` `[B, 2, 2]`, `centre` `[B, 2]` into pixels; outside, the edge goes on.

    Sampled at twice the size and halved, so that shrinking does not alias.
    """
    line = (torch.arange(2 * size) + 0.5) / size - 1
    square = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(1, -1, 2)
    grid = (square / (1 + square @ perspective[:, :, None])) @ axes.transpose(1, 2) + centre[:, None]
    grid = (grid * (2 / images.shape[-1]) - 1).view(-1, 2 * size, 2 * size, 2).to(images.device)
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, 2) / 255


def _photo_look(views: torch.Tensor, draws: _Draws, part: slice) -> torch.Tensor:
    """Light, colours, sharpness, noise, compression and occlusion on views `[b, 3, S, S]`."""
    device, size = views.device, views.shape[-1]

    def own(values: torch.Tensor) -> torch.Tensor:
        return values[part].to(device)

    views = _side_light(views, own(draws.chance("p_side_light")), own(_slopes(draws)))
    views = _colours(views, *map(own, _colour_draws(draws)))
    views = _tones(views, own(draws.chance("p_stretch")), *map(own, _tone_draws(draws)))
    views = _sharpness(views, own(_sharpness_draws(draws)))
    pixels = (draws.between("pixels") * size).round() * draws.chance("p_few_pixels")
    views = _few_pixels(views, pixels[part].int())
    texture = noise(draws.count, (1, 1, size, size), draws.generator, part, device)
    sd = draws.between("sd_noise") * draws.chance("p_noise")
    views = (views + own(sd).view(-1, 1, 1, 1) * texture).clamp(0, 1)
    quality = draws.between("quality").round() * draws.chance("p_jpeg")
    views = _compressed(views, quality[part].int())
    return _erased(views, draws, part, texture)


def _each(values: torch.Tensor) -> torch.Tensor:
    """`[b]` or `[b, 3]` beside `[b, 3, S, S]`."""
    return (values[:, None] if values.dim() == 1 else values)[:, :, None, None]


def _luma(views: torch.Tensor) -> torch.Tensor:
    weights = views.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (views * weights).sum(1, keepdim=True)


def _slopes(draws: _Draws) -> torch.Tensor:
    return 0.5 * torch.randn(draws.count, 2, generator=draws.generator)


def _side_light(views: torch.Tensor, lit: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Light that falls off across some of the views, exponentially by `slopes` `[b, 2]`."""
    rows = lit.nonzero()[:, 0]
    line = torch.linspace(-1, 1, views.shape[-1], device=views.device)
    x, y = slopes[rows].view(-1, 2, 1, 1, 1).unbind(1)
    return views.index_copy(0, rows, views[rows] * (x * line + y * line[:, None]).exp())


def _colour_draws(draws: _Draws) -> tuple[torch.Tensor, torch.Tensor]:
    saturation = draws.between("saturation") * ~draws.chance("p_grey")
    tint = torch.stack([draws.normal("sd_tint") for _ in range(3)], 1).exp()
    return saturation, torch.where(saturation[:, None] > 0, tint, 1.0)


def _colours(views: torch.Tensor, saturation: torch.Tensor, tint: torch.Tensor) -> torch.Tensor:
    """Away from grey by `saturation` `[b]`, 0 for a grey view, then each channel times `tint` `[b, 3]`."""
    return torch.lerp(_luma(views), views, _each(saturation)) * _each(tint)


def _tone_draws(draws: _Draws) -> tuple[torch.Tensor, ...]:
    gain, contrast, gamma = (draws.between(f"log_{name}").exp() for name in ("gain", "contrast", "gamma"))
    return gain, contrast, gamma, draws.uniform(0.0, 0.15), draws.uniform(0.75, 1.05)


def _tones(
    views: torch.Tensor,
    stretched: torch.Tensor,
    gain: torch.Tensor,
    contrast: torch.Tensor,
    gamma: torch.Tensor,
    black: torch.Tensor,
    white: torch.Tensor,
) -> torch.Tensor:
    """Percentiles 2 and 98 of luma to `black` and `white` where `stretched`, else `gain` and `contrast`;
    then `gamma`; all `[b]`."""
    small = F.avg_pool2d(_luma(views), 2).flatten(1)
    ends = torch.tensor([0.02, 0.98], device=views.device)
    low, high = torch.quantile(small, ends, dim=1)
    mean = views.mean((1, 2, 3))
    slope = torch.where(stretched, (white - black) / (high - low).clamp_min(0.1), contrast)
    offset = torch.where(stretched, black - low * slope, mean * (gain - contrast))
    return torch.addcmul(_each(offset), views, _each(slope)).clamp(0, 1) ** _each(gamma)


def _sharpness_draws(draws: _Draws) -> torch.Tensor:
    """How far a view moves away from its blurred self: above 0 sharpens, below softens."""
    kind = torch.rand(draws.count, generator=draws.generator)
    sharpen, soften = kind < draws.number("p_sharpen"), kind > 1 - draws.number("p_soften")
    return draws.uniform(0.5, 2.5) * sharpen - draws.uniform(0.5, 1.0) * soften


def _sharpness(views: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    rows = amount.nonzero()[:, 0]
    some = views[rows]
    soft = F.avg_pool2d(F.pad(some, (1, 1, 1, 1), mode="replicate"), 3, 1) if len(rows) else some
    return views.index_copy(0, rows, (some + _each(amount[rows]) * (some - soft)).clamp(0, 1))


def _few_pixels(views: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Views shrunk to `pixels` `[b]` a side and enlarged again, as small faces in photos are; 0: left."""
    views = views.clone()
    for side in pixels.unique().tolist():
        if side:
            rows = (pixels == side).nonzero()[:, 0].to(views.device)
            small = F.interpolate(views[rows], (side, side), mode="area")
            views[rows] = F.interpolate(small, views.shape[-2:], mode="bicubic").clamp(0, 1)
    return views


def _compressed(views: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Views through JPEG of `quality` `[b]`; 0: left. On the CPU, where libjpeg is."""
    rows = quality.nonzero()[:, 0]
    levels = (views[rows.to(views.device)] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for row, image, q in zip(rows.tolist(), levels, quality[rows].tolist(), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=q)
        found = torch.from_numpy(np.array(Image.open(file)))
        views[row] = found.permute(2, 0, 1).to(views.device) / 255
    return views


def _erased(views: torch.Tensor, draws: _Draws, part: slice, texture: torch.Tensor) -> torch.Tensor:
    """A rectangle of some views filled with one grey or with noise, as hands and microphones hide faces."""
    size = views.shape[-1]
    erased = draws.chance("p_erase")[part]
    area, ratio = draws.uniform(*ERASED_AREA), draws.uniform(*map(math.log, ERASED_ASPECT)).exp()
    sides = (size * torch.stack([area * ratio, area / ratio], 1).sqrt()).round().clamp(1, size)
    corner = (torch.rand(draws.count, 2, generator=draws.generator) * (size + 1 - sides)).floor()
    grey, is_flat = draws.uniform(0.0, 1.0)[part], draws.chance(0.7)[part]
    boxes = torch.cat([corner, corner + sides], 1)[part].int()
    for row in erased.nonzero()[:, 0].tolist():
        top, left, bottom, right = boxes[row].tolist()
        noisy = (0.5 + 0.3 * texture[row, :, top:bottom, left:right]).clamp(0, 1)
        views[row, :, top:bottom, left:right] = grey[row] if is_flat[row] else noisy
    return views
