"""Whole-face views for the label heads, each mild or strong (METHOD 10)."""

import io
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from facepcl.images.geometry import HALF_SIDE
from facepcl.images.rotations import angles, rotation
from facepcl.pretrain.augment import crop_squares
from facepcl.pretrain.rng import WHOLE, noise

VIEWS = ("mild", "strong", "ramp")
RAMP_START, RAMP_END = 0.125, 0.7  # when strong views begin, and their final fraction
MIRRORED = 0.5
ERASED_AREA, ERASED_ASPECT = (0.02, 0.2), (math.exp(-1), math.exp(1))


def _log_range(factor: float) -> tuple[float, float]:
    return -math.log(factor), math.log(factor)


class Strength(NamedTuple):
    """Ranges of the augmentations, by default the mild ones.

    A pair is a uniform range, `sd_` a standard deviation, `p_` a probability.
    """

    half_side: tuple[float, float] = (1.3, 1.7)  # of the crop, in eyes-to-mouth distances
    shift_down: tuple[float, float] = (0.0, 0.0)  # of its centre, in half sides, besides sd_shift
    sd_shift: float = 0.06
    sd_turn: float = 6.0  # degrees about the eye line
    sd_shape: float = 0.0  # log aspect and shear
    perspective: tuple[float, float] = (0.0, 0.0)
    p_side_light: float = 0.0
    p_grey: float = 0.5
    saturation: tuple[float, float] = (1.0, 1.0)
    sd_tint: float = 0.0  # log gain of each channel
    p_stretch: float = 0.0  # percentiles 2 and 98 to black and white, in place of gain and contrast
    log_gain: tuple[float, float] = _log_range(1.3)
    log_contrast: tuple[float, float] = _log_range(1.3)
    log_gamma: tuple[float, float] = _log_range(1.3)
    p_sharpen: float = 0.0
    p_soften: float = 0.0
    p_few_pixels: float = 0.3  # downsampled and enlarged again
    pixels: tuple[float, float] = (0.5, 0.5)  # to which side, as a fraction of the view's
    p_noise: float = 0.3
    sd_noise: tuple[float, float] = (0.03, 0.03)
    p_jpeg: float = 0.0
    quality: tuple[float, float] = (75.0, 75.0)
    p_erase: float = 0.0


MILD = Strength()
STRONG = Strength(
    half_side=(1.0, 1.8),
    shift_down=(-0.30, 0.10),
    sd_turn=8.0,
    sd_shape=0.06,
    perspective=(-0.10, 0.10),
    p_side_light=0.3,
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
    sd_noise=(0.0, 0.05),
    p_jpeg=0.2,
    quality=(20.0, 75.0),
    p_erase=0.2,
)


def strong_probability(views: str, done: float, started: bool) -> float:
    """The probability of a strong view after the fraction `done` of a run.

    `ramp` rises linearly from 0 to 0.7; for an encoder `started` from weights it is 0.7 throughout.
    """
    if views == "ramp":
        return RAMP_END if started else RAMP_END * max(0.0, (done - RAMP_START) / (1 - RAMP_START))
    return 1.0 if views == "strong" else 0.0


class LabelViews(NamedTuple):
    """Views `[b, 3, S, S]` in [0, 1]; whether each of the whole batch is mirrored `[B]`; and the degrees by
    which its face was turned clockwise in the image before that `[B]`."""

    images: torch.Tensor
    mirrored: torch.Tensor
    turned: torch.Tensor


def label_views(
    images: torch.Tensor,
    landmarks: torch.Tensor,
    size: int,
    generator: torch.Generator,
    part: slice = WHOLE,
    strong: float = 0.0,
) -> LabelViews:
    """One random crop of each face, with the colours, blur and noise of photos.

    Args:
        images: uint8 `[b, 3, H, H]`, the slice `part` of a batch.
        landmarks: `[B, 5, 2]` in pixels of the whole batch, NaN where unknown.
        size: Side of the views in pixels.
        generator: A CPU generator.
        part: The views of a sample do not depend on it.
        strong: The probability of a strong view.
    """
    draws = _Draws(len(landmarks), strong, generator, part, images.device)
    centre, distance, angle = face_frames(landmarks, images.shape[-1])
    turned = angle + torch.deg2rad(draws.normal("sd_turn"))
    mirrored = draws.bernoulli(MIRRORED)
    half = distance * draws.between("half_side")
    shift = torch.stack([draws.normal("sd_shift"), draws.normal("sd_shift") + draws.between("shift_down")], 1)
    cos, sin = turned.cos(), turned.sin()
    square = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2) * half[:, None, None]
    centre = centre + (square @ shift[:, :, None])[..., 0]
    aspect, shear = (0.5 * draws.normal("sd_shape")).exp(), draws.normal("sd_shape")
    shape = torch.stack([aspect, shear, torch.zeros_like(shear), 1 / aspect], 1).view(-1, 2, 2)
    shape[:, :, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    perspective = torch.stack([draws.between("perspective"), draws.between("perspective")], 1)
    crops = _crop(images, centre[part], (square @ shape)[part], perspective[part], size)
    return LabelViews(_photo_look(crops, draws), mirrored, -turned.rad2deg())


def face_frames(landmarks: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre `[B, 2]`, eyes-to-mouth distance `[B]` and eye-line angle `[B]` (radians, clockwise) of faces.

    `landmarks` `[B, 5, 2]` in pixels: right eye, left eye, nose, right and left mouth corner of the subject.
    Where one is NaN, the face fills the image of `size` pixels.
    """
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    across = landmarks[:, 1] - landmarks[:, 0]
    unknown = landmarks.isnan().any(2).any(1)
    centre = ((eyes + mouth) / 2).masked_fill(unknown[:, None], size / 2)
    distance = (mouth - eyes).norm(dim=1).masked_fill(unknown, size / 2 / MILD.half_side[0])
    return centre, distance, torch.atan2(across[:, 1], across[:, 0]).masked_fill(unknown, 0.0)


def upright_crops(images: torch.Tensor, landmarks: torch.Tensor) -> LabelViews:
    """Faces `[N, 3, S, S]` cropped as for embedding, without augmentation, uint8; those without landmarks
    are as they were."""
    size = images.shape[-1]
    centre, distance, angle = face_frames(landmarks, size)
    known = ~landmarks.isnan().any(2).any(1)
    as_it_is = torch.zeros(len(images), dtype=torch.bool)
    crops = images.clone()
    # in pieces: while they are cut they are in float32, at twice the size
    for rows in known.nonzero()[:, 0].split(64) if known.any() else ():
        half = distance[rows] * HALF_SIDE
        levels = crop_squares(images[rows], centre[rows], half, angle[rows], as_it_is[rows], size) * 255
        crops[rows] = levels.round().to(torch.uint8)
    return LabelViews(crops, as_it_is, -angle.rad2deg())


def turned_pose(pose: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Yaw, pitch and roll `[B, 3]` of heads whose images were turned clockwise by `degrees` `[B]`.

    Roll is the innermost of the three rotations, so the turn changes all of them; where one of them is
    unknown (NaN), roll alone.
    """
    turn = F.pad(degrees[:, None], (2, 0))
    turned = torch.from_numpy(angles(rotation(turn.numpy()) @ rotation(pose.numpy()))).to(pose.dtype)
    return torch.where(turned.isnan().any(1, keepdim=True), pose + turn, turned)


class _Draws:
    """Random numbers for `count` images, from the ranges of each image's strength."""

    def __init__(
        self,
        count: int,
        strong: float,
        generator: torch.Generator,
        part: slice = WHOLE,
        device: torch.device | str = "cpu",
    ):
        self.count, self.generator, self.part, self.device = count, generator, part, device
        self.strong = self._rand() < strong

    def _rand(self) -> torch.Tensor:
        return torch.rand(self.count, generator=self.generator)

    def number(self, name: str, end: int | None = None) -> torch.Tensor:
        """A field of `Strength`, or an `end` of its range, for each image `[count]`."""
        mild, strong = (getattr(s, name) if end is None else getattr(s, name)[end] for s in (MILD, STRONG))
        return torch.where(self.strong, strong, mild)

    def between(self, name: str) -> torch.Tensor:
        low, high = self.number(name, 0), self.number(name, 1)
        return low + (high - low) * self._rand()

    def normal(self, name: str) -> torch.Tensor:
        return self.number(name) * torch.randn(self.count, generator=self.generator)

    def bernoulli(self, probability: str | float) -> torch.Tensor:
        p = self.number(probability) if isinstance(probability, str) else probability
        return self._rand() < p

    def uniform(self, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * self._rand()

    def local(self, *values: torch.Tensor) -> list[torch.Tensor]:
        """Of values for the whole batch those of the views, on their device."""
        return [value[self.part].to(self.device) for value in values]


def _crop(
    images: torch.Tensor, centre: torch.Tensor, axes: torch.Tensor, perspective: torch.Tensor, size: int
) -> torch.Tensor:
    """Crop uint8 images to `[B, 3, size, size]` in [0, 1], replicating their border.

    The square (-1, 1) is mapped by `perspective` `[B, 2]`, then by `axes` `[B, 2, 2]` and `centre` `[B, 2]`
    into pixels. Sampled at twice the size and halved, against aliasing.
    """
    x = ((torch.arange(2 * size) + 0.5) / size - 1).to(images.device)
    centre, axes = centre * (2 / images.shape[-1]) - 1, axes * (2 / images.shape[-1])
    # rows of the homography that maps (x, y, 1); their planes are sums of a row and a column, which is faster
    # than a product with each pixel
    rows = torch.cat([axes + centre[:, :, None] * perspective[:, None], perspective[:, None]], 1)
    across, down = rows.to(images.device)[..., None, None].unbind(2)
    at = F.pad(centre, (0, 1), value=1.0).to(images.device)[..., None, None]
    planes = across * x + at + down * x[:, None]
    grid = (planes[:, :2] / planes[:, 2:]).permute(0, 2, 3, 1)
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, 2) / 255


def _photo_look(views: torch.Tensor, draws: _Draws) -> torch.Tensor:
    """Apply light, colours, sharpness, noise, compression and occlusion to views `[b, 3, S, S]`."""
    for effect in (_side_light, _colours, _tones, _sharpness, _few_pixels):
        views = effect(views, draws)
    size = views.shape[-1]
    texture = noise(draws.count, (1, 1, size, size), draws.generator, draws.part, draws.device)
    (sd,) = draws.local(draws.between("sd_noise") * draws.bernoulli("p_noise"))
    views = (views + sd.view(-1, 1, 1, 1) * texture).clamp(0, 1)
    return _erased(_compressed(views, draws), draws, texture)


def _each(values: torch.Tensor) -> torch.Tensor:
    """`[b]` or `[b, 3]`, to broadcast with `[b, 3, S, S]`."""
    return (values[:, None] if values.dim() == 1 else values)[:, :, None, None]


def _luma(views: torch.Tensor) -> torch.Tensor:
    weights = views.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (views * weights).sum(1, keepdim=True)


def _side_light(views: torch.Tensor, draws: _Draws) -> torch.Tensor:
    """Let light fall off exponentially across some of the views."""
    lit = draws.bernoulli("p_side_light")
    lit, slopes = draws.local(lit, 0.5 * torch.randn(draws.count, 2, generator=draws.generator))
    rows = lit.nonzero()[:, 0]
    line = torch.linspace(-1, 1, views.shape[-1], device=views.device)
    x, y = slopes[rows].view(-1, 2, 1, 1, 1).unbind(1)
    return views.index_copy(0, rows, views[rows] * (x * line + y * line[:, None]).exp())


def _colours(views: torch.Tensor, draws: _Draws) -> torch.Tensor:
    """Change saturation, and the gain of each channel of coloured views."""
    saturation = draws.between("saturation") * ~draws.bernoulli("p_grey")
    tint = torch.stack([draws.normal("sd_tint") for _ in range(3)], 1).exp()
    tint = torch.where(saturation[:, None] > 0, tint, 1.0)
    saturation, tint = draws.local(saturation, tint)
    return torch.lerp(_luma(views), views, _each(saturation)) * _each(tint)


def _tones(views: torch.Tensor, draws: _Draws) -> torch.Tensor:
    """Stretch luma, or change gain and contrast; then change gamma."""
    stretched = draws.bernoulli("p_stretch")
    gain, contrast, gamma = (draws.between(f"log_{name}").exp() for name in ("gain", "contrast", "gamma"))
    black, white = draws.uniform(0.0, 0.15), draws.uniform(0.75, 1.05)
    stretched, gain, contrast, gamma, black, white = draws.local(
        stretched, gain, contrast, gamma, black, white
    )
    small = F.avg_pool2d(_luma(views), 2).flatten(1)
    low, high = torch.quantile(small, torch.tensor([0.02, 0.98], device=views.device), dim=1)
    mean = views.mean((1, 2, 3))
    slope = torch.where(stretched, (white - black) / (high - low).clamp_min(0.1), contrast)
    offset = torch.where(stretched, black - low * slope, mean * (gain - contrast))
    return torch.addcmul(_each(offset), views, _each(slope)).clamp(0, 1) ** _each(gamma)


def _sharpness(views: torch.Tensor, draws: _Draws) -> torch.Tensor:
    """Sharpen or soften some of the views."""
    kind = torch.rand(draws.count, generator=draws.generator)
    sharpen, soften = kind < draws.number("p_sharpen"), kind > 1 - draws.number("p_soften")
    (amount,) = draws.local(draws.uniform(0.5, 2.5) * sharpen - draws.uniform(0.5, 1.0) * soften)
    rows = amount.nonzero()[:, 0]
    some = views[rows]
    blurred = F.avg_pool2d(F.pad(some, (1, 1, 1, 1), mode="replicate"), 3, 1) if len(rows) else some
    return views.index_copy(0, rows, (some + _each(amount[rows]) * (some - blurred)).clamp(0, 1))


def _few_pixels(views: torch.Tensor, draws: _Draws) -> torch.Tensor:
    """Downsample and enlarge some of the views, like small faces in photos."""
    pixels = (draws.between("pixels") * views.shape[-1]).round() * draws.bernoulli("p_few_pixels")
    pixels = pixels[draws.part].int()
    views = views.clone()
    for side in pixels.unique().tolist():
        if side:
            rows = (pixels == side).nonzero()[:, 0].to(views.device)
            small = F.interpolate(views[rows], (side, side), mode="area")
            views[rows] = F.interpolate(small, views.shape[-2:], mode="bicubic").clamp(0, 1)
    return views


def _compressed(views: torch.Tensor, draws: _Draws) -> torch.Tensor:
    """Compress some of the views as JPEG, on the CPU, where libjpeg is."""
    quality = (draws.between("quality").round() * draws.bernoulli("p_jpeg"))[draws.part].int()
    rows = quality.nonzero()[:, 0]
    levels = (views[rows.to(views.device)] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for row, image, q in zip(rows.tolist(), levels, quality[rows].tolist(), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=q)
        decoded = torch.from_numpy(np.array(Image.open(file)))
        views[row] = decoded.permute(2, 0, 1).to(views.device) / 255
    return views


def _erased(views: torch.Tensor, draws: _Draws, texture: torch.Tensor) -> torch.Tensor:
    """Fill a rectangle of some views with grey or noise, as hands and microphones hide faces."""
    size, part = views.shape[-1], draws.part
    erased = draws.bernoulli("p_erase")[part]
    area, ratio = draws.uniform(*ERASED_AREA), draws.uniform(*map(math.log, ERASED_ASPECT)).exp()
    sides = (size * torch.stack([area * ratio, area / ratio], 1).sqrt()).round().clamp(1, size)
    corner = (torch.rand(draws.count, 2, generator=draws.generator) * (size + 1 - sides)).floor()
    grey, is_flat = draws.uniform(0.0, 1.0)[part], draws.bernoulli(0.7)[part]
    boxes = torch.cat([corner, corner + sides], 1)[part].int()
    for row in erased.nonzero()[:, 0].tolist():
        top, left, bottom, right = boxes[row].tolist()
        noisy = (0.5 + 0.3 * texture[row, :, top:bottom, left:right]).clamp(0, 1)
        views[row, :, top:bottom, left:right] = grey[row] if is_flat[row] else noisy
    return views
