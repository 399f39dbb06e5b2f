"""Crops and augmentations of batches of uint8 images `[B, 3, H, W]`, random per sample (METHOD 5).

Every step keeps uint8 levels and PIL's arithmetic, so that the views equal those of the original code. Images
may be on any device; the generator is a CPU generator.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv

from facepcl.pretrain.rng import WHOLE, of_part, uniform

JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
P_JITTER, P_GREY, P_BLUR, P_SOBEL = 0.8, 0.2, 0.8, 0.6
BLUR_TAPS, BLUR_SIGMA = 7, (0.1, 2.0)
CROP = 0.2  # half the side of a quadrant crop, as a fraction of the image's side
AREA = (0.25, 1.0)  # of a whole-face crop, as a fraction of the largest square


def resize(images: torch.Tensor, size: int, interpolation: str = "bicubic") -> torch.Tensor:
    """Resize `[B, 3, H, W]` uint8 to `[B, 3, size, size]` with antialiasing, without keeping the aspect."""
    if images.shape[-2:] == (size, size):
        return images
    mode = tv.InterpolationMode(interpolation)
    return tv.resize(images, [size, size], interpolation=mode, antialias=True)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 levels to the networks' input, float32 in [0, 1]."""
    return images.float() / 255


def luma(images: torch.Tensor) -> torch.Tensor:
    """PIL's L of RGB levels: `[B, 3, H, W]` uint8 -> `[B, 1, H, W]` int32, 0..255."""
    r, g, b = images.int().unbind(1)
    return ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16)[:, None]


def _blend(base: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """base + factor (images - base), truncated and clipped to uint8; `factor` `[B]`."""
    base = base.float()
    return (base + factor.float().view(-1, 1, 1, 1) * (images - base)).clamp(0, 255).to(torch.uint8)


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale uint8 levels `[B, 3, H, W]` by `factor` `[B]`."""
    return _blend(torch.zeros(1, 1, 1, 1, device=images.device), images, factor)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move uint8 levels `[B, 3, H, W]` away from the image's mean luma by `factor` `[B]`."""
    mean = luma(images).double().mean((1, 2, 3), keepdim=True)
    return _blend((mean + 0.5).floor(), images, factor)


def saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move uint8 levels `[B, 3, H, W]` away from each pixel's luma by `factor` `[B]`."""
    return _blend(luma(images), images, factor)


def hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Rotate the hue of uint8 images `[B, 3, H, W]` by `shift` `[B]` turns, in PIL's 8-bit HSV."""
    r, g, b = images.unbind(1)
    largest, smallest = images.amax(1), images.amin(1)
    grey = largest == smallest
    spread = (largest - smallest).float().masked_fill(grey, 1)
    # PIL computes in double and keeps each result as a float
    rc, gc, bc = (((largest.float() - c.float()) / spread).double() for c in (r, g, b))
    turn = torch.where(r == largest, bc - gc, torch.where(g == largest, 2 + rc - bc, 4 + gc - rc)).float()
    turn = ((turn.double() / 6 + 1) % 1).float()
    h = (turn.double() * 255).int().masked_fill(grey, 0)
    s = (spread / largest.float().clamp_min(1) * 255).int().masked_fill(grey, 0)
    h = (h + (shift * 255).int().view(-1, 1, 1)) % 256

    sixth = h.double() * 6 / 255
    i = sixth.floor()
    f, fs = (sixth - i).float(), (s.double() / 255).float()
    v = largest.double()
    # C's round() is away from zero at halves; the values are not negative
    p, q, t = (
        (v * (1 - part) + 0.5).floor().clamp(0, 255)
        for part in (fs.double(), (fs * f).double(), fs * (1 - f.double()))
    )
    i = i.long() % 6
    v, p, q, t = (level.to(torch.uint8) for level in (v, p, q, t))
    table = torch.stack([v, t, p, q, v, p, p, v, t, p, q, v, t, p, v, v, p, q]).view(6, 3, *v.shape)
    return table.gather(0, i.expand(1, 3, *i.shape))[0].transpose(0, 1)


def grey(images: torch.Tensor) -> torch.Tensor:
    """PIL's L of uint8 images `[B, 3, H, W]`, copied to three channels."""
    return luma(images).to(torch.uint8).expand_as(images)


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of uint8 images `[B, 3, H, W]` by `sigma` `[B]` pixels: 7 taps, reflected, truncated."""
    if not len(images):  # F.pad rejects an empty batch
        return images
    batch, channels, height, width = images.shape
    steps = torch.arange(BLUR_TAPS, device=images.device) - BLUR_TAPS // 2
    taps = torch.exp(-(steps**2) / (2 * sigma.view(-1, 1).double() ** 2))
    taps = (taps / taps.sum(1, keepdim=True)).float().repeat_interleave(channels, 0)
    flat = to_float(images).reshape(1, batch * channels, height, width)
    radius = BLUR_TAPS // 2
    flat = F.pad(flat, (radius, radius, radius, radius), mode="reflect")
    flat = F.conv2d(flat, taps[:, None, :, None], groups=len(taps))
    flat = F.conv2d(flat, taps[:, None, None, :], groups=len(taps))
    return (flat * 255).view(images.shape).to(torch.uint8)


def sobel(images: torch.Tensor) -> torch.Tensor:
    """Edge strength of uint8 images `[B, 3, H, W]`, wrapped modulo 256 as in the original (METHOD Q14)."""
    r, g, b = to_float(images).unbind(1)
    y = F.pad(65.738 * r / 256 + 129.057 * g / 256 + 25.064 * b / 256, (1, 1, 1, 1))
    vertical = y[:, 2:, 1:-1] - y[:, :-2, 1:-1]
    horizontal = y[:, 1:-1, 2:] - y[:, 1:-1, :-2]
    edge = (vertical**2 + horizontal**2 + 1e-6).sqrt()
    return (edge * 255).int().remainder(256).to(torch.uint8)[:, None].expand_as(images)


class Chain(NamedTuple):
    """Augmentations of N images: bools `[N]`, jitter's factors `[N, 4]` and their order `[N, 4]`, and the
    sigma of the blur `[N]`, 0 for none."""

    jittered: torch.Tensor
    factors: torch.Tensor
    order: torch.Tensor
    grey: torch.Tensor
    sigma: torch.Tensor
    sobel: torch.Tensor

    def of(self, part: slice, copies: int) -> "Chain":
        """The rows of the samples `part`, where N rows are `copies` of all samples in turn."""
        return Chain(*(of_part(draws, part, copies) for draws in self))


def draw_chain(count: int, generator: torch.Generator, edges: float = P_SOBEL) -> Chain:
    """Draw jitter, grey, blur and Sobel for `count` images; `edges` is the probability of Sobel."""

    def chosen(probability: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) < probability

    def spread(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Put values into the rows of `mask`, and 0 into the others."""
        return values.new_zeros(count, *values.shape[1:]).index_put((mask,), values)

    jittered = chosen(P_JITTER)
    some = int(jittered.sum())
    ranges = [(1 - JITTER[k], 1 + JITTER[k]) for k in ("brightness", "contrast", "saturation")]
    ranges.append((-JITTER["hue"], JITTER["hue"]))
    factors = torch.stack([uniform(some, low, high, generator) for low, high in ranges], 1)
    order = torch.rand(some, 4, generator=generator).argsort(1)
    grey, blurred = chosen(P_GREY), chosen(P_BLUR)
    sigma = uniform(int(blurred.sum()), *BLUR_SIGMA, generator)
    return Chain(
        jittered,
        spread(jittered, factors),
        spread(jittered, order),
        grey,
        spread(blurred, sigma),
        chosen(edges),
    )


def jitter(images: torch.Tensor, factors: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Adjust brightness, contrast, saturation and hue of uint8 images `[B, 3, H, W]` by `factors` `[B, 4]`,
    each image in its own `order` `[B, 4]`."""
    device = images.device
    images = images.clone()
    for place in range(4):
        for step, apply in enumerate((brightness, contrast, saturation, hue)):
            rows = (order[:, place] == step).nonzero()[:, 0]
            if len(rows):
                adjusted = apply(images.index_select(0, rows.to(device)), factors[rows, step].to(device))
                images.index_copy_(0, rows.to(device), adjusted)
    return images


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply random jitter, grey, blur and Sobel to uint8 images `[B, 3, H, W]`."""
    return apply_chain(images, draw_chain(len(images), generator))


def apply_chain(images: torch.Tensor, chain: Chain) -> torch.Tensor:
    """Apply `chain` to uint8 images `[B, 3, H, W]`."""
    images = images.clone()
    device = images.device
    rows = chain.jittered.nonzero()[:, 0]
    images[rows.to(device)] = jitter(images[rows.to(device)], chain.factors[rows], chain.order[rows])
    rows = chain.grey.nonzero()[:, 0].to(device)
    images[rows] = grey(images[rows])
    rows = chain.sigma.nonzero()[:, 0]
    images[rows.to(device)] = blur(images[rows.to(device)], chain.sigma[rows].to(device))
    rows = chain.sobel.nonzero()[:, 0].to(device)
    images[rows] = sobel(images[rows])
    return images


def crop_ranges(size: int) -> tuple[int, int, int, int]:
    """Inclusive ranges of a quadrant crop's centre along a side of `size`: (low, high) of each half."""
    half = int(CROP * size)
    return half, size // 2 - half, size // 2 + half, size - half


def crop_around(images: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Crop 0.4 sides around `centres` `[B, 2]` (x, y) of uint8 images `[B, 3, H, W]`."""
    height, width = images.shape[-2:]
    half_h, half_w = int(CROP * height), int(CROP * width)
    rows = centres[:, 1, None] + torch.arange(-half_h, half_h)
    columns = centres[:, 0, None] + torch.arange(-half_w, half_w)
    index = torch.arange(len(images))[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def quadrant_centres(count: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Centres `[2, count, 2]` (x, y) of two crops in different quadrants of each image (METHOD 5)."""
    quadrants = torch.rand(count, 4, generator=generator).argsort(1)[:, :2].T  # an ordered pair of four
    halves = torch.stack([quadrants % 2, quadrants // 2], -1)  # right?, lower?
    draws = torch.rand(2, count, 2, generator=generator)
    bounds = torch.tensor([crop_ranges(width), crop_ranges(height)])  # [x or y, 4]
    low = torch.where(halves == 0, bounds[:, 0], bounds[:, 2])
    high = torch.where(halves == 0, bounds[:, 1], bounds[:, 3])
    return low + (draws * (high - low + 1)).long()


def whole_squares(
    count: int, height: int, width: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random squares of 25 to 100 % of the largest one: centres `[count, 2]` (x, y) and half sides `[count]`
    in pixels, and whether each is mirrored `[count]`."""
    half = uniform(count, *AREA, generator).sqrt() * min(height, width) / 2
    room = torch.tensor([width, height]) - 2 * half[:, None]
    centres = half[:, None] + torch.rand(count, 2, generator=generator) * room
    return centres, half, torch.rand(count, generator=generator) < 0.5


def crop_squares(
    images: torch.Tensor,
    centre: torch.Tensor,
    half: torch.Tensor,
    angle: torch.Tensor,
    mirrored: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Crop rotated squares of uint8 images `[B, 3, H, W]` to float `[B, 3, size, size]` in [0, 1].

    `centre` `[B, 2]` (x, y) and `half` side `[B]` in pixels; `angle` `[B]` in radians: the direction,
    clockwise, that becomes horizontal. Pixels outside an image replicate its border.
    """
    height, width = images.shape[-2:]
    cos, sin = angle.cos() * half, angle.sin() * half
    flip = torch.where(mirrored, -1.0, 1.0)
    rows = torch.stack([cos * flip, -sin, centre[:, 0], sin * flip, cos, centre[:, 1]], 1).view(-1, 2, 3)
    scale = torch.tensor([2 / width, 2 / height]).view(1, 2, 1)
    theta = rows * scale - torch.tensor([[0.0, 0.0, 1.0]])
    # sampled at twice the size and halved, against aliasing
    grid = F.affine_grid(theta, [len(images), 3, 2 * size, 2 * size], align_corners=False).to(images.device)
    sampled = F.grid_sample(images.float() / 255, grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, 2)


def face_views(
    images: torch.Tensor,
    size: int,
    generator: torch.Generator,
    part: slice = WHOLE,
    count: int | None = None,
    crops: str = "quadrants",
    edges: float = P_SOBEL,
) -> torch.Tensor:
    """Two augmented crops of each face (METHOD 4.2).

    Args:
        images: uint8 `[B, 3, H, W]`.
        size: Side of the views in pixels.
        generator: A CPU generator.
        part: The slice of a batch that `images` are; their views do not depend on it.
        count: Images of the whole batch.
        crops: "quadrants": of two different quadrants (METHOD 5); "whole": two squares of 25 to 100 % of the
            image, mirrored or not (METHOD 13).
        edges: The probability of Sobel.

    Returns:
        Float views `[2B, 3, size, size]`: B first ones, then B second ones.
    """
    count = len(images) if count is None else count
    height, width = images.shape[-2:]
    if crops == "whole":
        centres, half, mirrored = (
            of_part(draws, part, 2) for draws in whole_squares(2 * count, height, width, generator)
        )
        upright = torch.zeros_like(half)
        squares = crop_squares(images.repeat(2, 1, 1, 1), centres, half, upright, mirrored, size)
        resized = (255 * squares).round().to(torch.uint8)
    else:
        quadrants = quadrant_centres(count, height, width, generator)
        resized = resize(torch.cat([crop_around(images, c[part]) for c in quadrants]), size)
    return to_float(apply_chain(resized, draw_chain(2 * count, generator, edges).of(part, 2)))


def pose_views(
    images: torch.Tensor,
    size: int,
    negatives: int,
    generator: torch.Generator,
    part: slice = WHOLE,
    count: int | None = None,
    edges: float = P_SOBEL,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of whole images for the pose contrast (METHOD 4.3), with the arguments of `face_views`.

    Returns:
        Two positives of each image, `[2B, 3, size, size]`, and `negatives` views of its mirror image,
        `[negatives B, 3, size, size]`: row k B + i is draw k of sample i (METHOD Q1).
    """
    count = len(images) if count is None else count
    whole = resize(images, size)
    chain = draw_chain(2 * count, generator, edges).of(part, 2)
    positives = apply_chain(whole.repeat(2, 1, 1, 1), chain)
    chain = draw_chain(negatives * count, generator, edges).of(part, negatives)
    mirrored = apply_chain(whole.flip(3).repeat(negatives, 1, 1, 1), chain)
    return to_float(positives), to_float(mirrored)
