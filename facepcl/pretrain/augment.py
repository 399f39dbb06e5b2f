"""Views for contrast: batches of uint8 images `[B, 3, H, W]`, random per sample, on the images' device.

METHOD section 5. Every step keeps uint8 levels and PIL's arithmetic, so that the views are those of the
original; all chance comes from the generator that is passed in (a CPU generator serves every device).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv

from facepcl.pretrain.crops import crop_around, crop_squares, quadrant_centres, whole_squares
from facepcl.pretrain.rng import WHOLE, of_part, uniform

JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
P_JITTER, P_GREY, P_BLUR, P_SOBEL = 0.8, 0.2, 0.8, 0.6
BLUR_TAPS, BLUR_SIGMA = 7, (0.1, 2.0)


def resize(images: torch.Tensor, size: int, interpolation: str = "bicubic") -> torch.Tensor:
    """`[B, 3, H, W]` uint8 -> `[B, 3, size, size]` uint8, antialiased; the aspect is not kept."""
    if images.shape[-2:] == (size, size):
        return images
    mode = tv.InterpolationMode(interpolation)
    return tv.resize(images, [size, size], interpolation=mode, antialias=True)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 levels -> float32 in [0, 1], the networks' input."""
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
    """Turn the hue of uint8 images `[B, 3, H, W]` by `shift` `[B]` turns, in PIL's 8-bit HSV."""
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
    if not len(images):  # F.pad refuses none
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


def _chosen(count: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) < probability


class Chain(NamedTuple):
    """What happens to each of N images behind the resize: bools `[N]` where a step is one of chance; jitter's
    factors `[N, 4]` and their order `[N, 4]`; the blur's width `[N]`, 0 for none."""

    jittered: torch.Tensor
    factors: torch.Tensor
    order: torch.Tensor
    grey: torch.Tensor
    sigma: torch.Tensor
    sobel: torch.Tensor

    def of(self, part: slice, copies: int) -> "Chain":
        """The rows of a part of the samples; N rows are `copies` of all samples, one behind the other."""
        return Chain(*(of_part(draws, part, copies) for draws in self))


def draw_chain(count: int, generator: torch.Generator, edges: float = P_SOBEL) -> Chain:
    """The chance of `count` images: jitter, grey, blur and Sobel (a part `edges`), each for some of them."""
    jittered = _chosen(count, P_JITTER, generator)
    some = int(jittered.sum())
    factors = [
        uniform(some, 1 - JITTER[k], 1 + JITTER[k], generator)
        for k in ("brightness", "contrast", "saturation")
    ]
    factors.append(uniform(some, -JITTER["hue"], JITTER["hue"], generator))
    order = torch.rand(some, 4, generator=generator).argsort(1)
    grey = _chosen(count, P_GREY, generator)
    blurred = _chosen(count, P_BLUR, generator)
    sigma = uniform(int(blurred.sum()), *BLUR_SIGMA, generator)
    return Chain(
        jittered,
        _spread(jittered, torch.stack(factors, 1)),
        _spread(jittered, order),
        grey,
        _spread(blurred, sigma),
        _chosen(count, edges, generator),
    )


def _spread(chosen: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values of the chosen rows, in the places of these; 0 elsewhere."""
    return values.new_zeros(len(chosen), *values.shape[1:]).index_put((chosen,), values)


def jitter(images: torch.Tensor, factors: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation and hue by `factors` `[B, 4]` of each uint8 image `[B, 3, H, W]`, in
    the `order` `[B, 4]` that each has of its own."""
    device = images.device
    images = images.clone()
    for place in range(4):
        for step, apply in enumerate((brightness, contrast, saturation, hue)):
            rows = (order[:, place] == step).nonzero()[:, 0]
            if len(rows):
                found = apply(images.index_select(0, rows.to(device)), factors[rows, step].to(device))
                images.index_copy_(0, rows.to(device), found)
    return images


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The chain behind the resize: jitter, grey, blur and Sobel, each for some of the uint8 images `[B, 3,
    H, W]`."""
    return apply_chain(images, draw_chain(len(images), generator))


def apply_chain(images: torch.Tensor, chain: Chain) -> torch.Tensor:
    """What `chain` says on each of the uint8 images `[B, 3, H, W]`."""
    device = images.device
    images = images.clone()
    rows = chain.jittered.nonzero()[:, 0]
    images[rows.to(device)] = jitter(images[rows.to(device)], chain.factors[rows], chain.order[rows])
    rows = chain.grey.nonzero()[:, 0].to(device)
    images[rows] = grey(images[rows])
    rows = chain.sigma.nonzero()[:, 0]
    images[rows.to(device)] = blur(images[rows.to(device)], chain.sigma[rows].to(device))
    rows = chain.sobel.nonzero()[:, 0].to(device)
    images[rows] = sobel(images[rows])
    return images


def face_views(
    images: torch.Tensor,
    size: int,
    generator: torch.Generator,
    part: slice = WHOLE,
    count: int | None = None,
    crops: str = "quadrants",
    edges: float = P_SOBEL,
) -> torch.Tensor:
    """Two crops of each uint8 image `[B, 3, H, W]` -> float `[2B, 3, size, size]`: the B first views, then
    the B second ones.

    `crops` "quadrants": of two different quadrants (METHOD 5), resized; "whole": two
    squares of 25 to 100 % of the image, mirrored or not (METHOD 13). A part `edges` of them are edges. Of
    images that are a `part` of a batch of `count`, the views that they have there.
    """
    count = len(images) if count is None else count
    height, width = images.shape[-2:]
    if crops == "whole":
        centres, half, mirrored = (
            of_part(draws, part, 2) for draws in whole_squares(2 * count, height, width, generator)
        )
        upright = torch.zeros_like(half)
        found = crop_squares(images.repeat(2, 1, 1, 1), centres, half, upright, mirrored, size)
        resized = (255 * found).round().to(torch.uint8)
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
    """Views of the whole uint8 images `[B, 3, H, W]`: two positives `[2B, 3, size, size]`, and `negatives`
    of each mirrored image, draw by draw: `[negatives B, 3, size, size]`, row k B + i = draw k of sample i
    (METHOD Q1); of images that are a `part` of a batch of `count`, those that they have there."""
    count = len(images) if count is None else count
    whole = resize(images, size)
    chain = draw_chain(2 * count, generator, edges).of(part, 2)
    positives = apply_chain(whole.repeat(2, 1, 1, 1), chain)
    chain = draw_chain(negatives * count, generator, edges).of(part, negatives)
    mirrored = apply_chain(whole.flip(3).repeat(negatives, 1, 1, 1), chain)
    return to_float(positives), to_float(mirrored)
