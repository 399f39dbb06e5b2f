"""Whole-face views for the label heads (METHOD 10): aligned by the eyes where landmarks are known."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from facepcl.chance import WHOLE, noise, uniform
from facepcl.crops import crop_squares
from facepcl.views import luma

HALF_SIDE = (1.3, 1.7)  # half the crop's side, in eyes-to-mouth distances
CENTRE_JITTER = 0.06  # of half the side, standard deviation
ROTATION_JITTER = 6.0  # degrees about the eye line, standard deviation
COLOUR = 0.3  # gain, contrast and gamma within 1 / (1 + COLOUR) .. 1 + COLOUR
P_MIRROR, P_GREY, P_BLUR, P_NOISE = 0.5, 0.5, 0.3, 0.3


class LabelViews(NamedTuple):
    """Views `[B, 3, S, S]` in [0, 1], which of them are mirrored `[B]`, and by how many degrees their crop
    was turned clockwise `[B]` (what a label of roll has to be increased by before the mirror); of a part of
    a batch its views, and the rest of the whole."""

    images: torch.Tensor
    mirrored: torch.Tensor
    turned: torch.Tensor


def face_frames(landmarks: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre `[B, 2]`, eyes-to-mouth distance `[B]` and eye-line angle `[B]` (radians, clockwise) of faces.

    `landmarks` `[B, 5, 2]` in pixels: right eye, left eye, nose, right and left mouth corner of the
    subject, NaN where unknown; the whole image of `size` pixels stands in for these.
    """
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    across = landmarks[:, 1] - landmarks[:, 0]
    unknown = landmarks.isnan().any(2).any(1)
    centre = ((eyes + mouth) / 2).masked_fill(unknown[:, None], size / 2)
    distance = (mouth - eyes).norm(dim=1).masked_fill(unknown, size / 2 / HALF_SIDE[0])
    return centre, distance, torch.atan2(across[:, 1], across[:, 0]).masked_fill(unknown, 0.0)


def mild_colour(
    images: torch.Tensor, generator: torch.Generator, count: int, part: slice = WHOLE
) -> torch.Tensor:
    """Gain, contrast, gamma, grey, blur and noise on some of the float images `[B, 3, H, W]`, which are a
    `part` of the `count` that there are."""

    def own(draws: torch.Tensor) -> torch.Tensor:
        return draws[part].view(len(images), -1, 1, 1).to(images.device)

    spread = math.log1p(COLOUR)
    gain, contrast, gamma = (own(uniform(count, -spread, spread, generator).exp()) for _ in range(3))
    mean = images.mean((1, 2, 3), keepdim=True)
    images = ((images - mean) * contrast + mean * gain).clamp(0, 1) ** gamma
    is_grey, is_blurred, is_noisy = (
        own(torch.rand(count, generator=generator) < p) for p in (P_GREY, P_BLUR, P_NOISE)
    )
    grey = luma((images * 255).round().to(torch.uint8)).float() / 255
    images = torch.where(is_grey, grey, images)
    # half the size and back: what small faces in photographs have been through
    small = F.interpolate(
        F.avg_pool2d(images, 2), size=images.shape[-2:], mode="bilinear", align_corners=False
    )
    images = torch.where(is_blurred, small, images)
    noisy = images + 0.03 * noise(count, (1, *images.shape[1:]), generator, part, images.device)
    return torch.where(is_noisy, noisy, images).clamp(0, 1)


def label_views(
    images: torch.Tensor,
    landmarks: torch.Tensor,
    size: int,
    generator: torch.Generator,
    part: slice = WHOLE,
) -> LabelViews:
    """One jittered crop of each face in uint8 images `[b, 3, H, W]`, which are a `part` of a batch whose
    landmarks `[B, 5, 2]` (pixels, NaN) are all here: the crop that it has in the whole batch."""
    count = len(landmarks)
    centre, distance, angle = face_frames(landmarks, images.shape[-1])
    half = distance * uniform(count, *HALF_SIDE, generator)
    centre = centre + torch.randn(count, 2, generator=generator) * CENTRE_JITTER * half[:, None]
    angle = angle + torch.randn(count, generator=generator) * math.radians(ROTATION_JITTER)
    mirrored = torch.rand(count, generator=generator) < P_MIRROR
    crops = crop_squares(images, centre[part], half[part], angle[part], mirrored[part], size)
    return LabelViews(mild_colour(crops, generator, count, part), mirrored, -angle.rad2deg())
