"""Images of any kind to upright RGB: the content decides, not the name, and what cannot be read says why."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from facepcl.errors import ImageError, MissingPath

WHITE = (255, 255, 255, 255)
MAX_PIXELS = 178_956_970  # 500 MB as RGB, where Pillow itself refuses by default
LONGEST = 16  # sides of a longer strip than 16 : 1 are cut: resized whole, 1 x 60,000 would take 700 MB


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's own warnings off the terminal. For the thread that owns the loop: filters are global."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def decode(data: bytes) -> Image.Image:
    """The first frame of an encoded image as upright RGB. Raises ImageError with the reason."""
    if not data:
        raise ImageError("the file is empty")
    with _explained(), Image.open(io.BytesIO(data)) as image:
        # by the header, before a pixel is decoded, and even where Pillow's own limit was taken away
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"too many pixels: {image.width} x {image.height}")
        return _load(image)


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever a decoder raises, as an ImageError with the reason."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image in a format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels: {error}") from None
    except Exception as error:  # decoders raise almost anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"damaged: {reason}") from error


def _load(image: Image.Image) -> Image.Image:
    image.load()  # a truncated file shows only now
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as upright RGB; transparency shows white, as on a page. Raises
    ImageError."""
    image = _upright(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no defined white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.int64).clip(0, 65535) // 257  # 16-bit white becomes 255
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data: the pixels are still good
        return image


def open_image(item: Any) -> Image.Image:
    """A path, encoded bytes, Pillow image, uint8 array `[H, W, 3]`, or uint8 or float [0, 1] tensor `[3, H,
    W]` as upright RGB. Raises MissingPath or ImageError."""
    if isinstance(item, Image.Image):
        with _explained():  # Pillow opens lazily, so the file behind it may be cut off
            return _load(item)
    if isinstance(item, bytes):
        return decode(item)
    if isinstance(item, (str, Path)):
        return decode(_read(Path(item)))
    if isinstance(item, np.ndarray):
        return _from_array(item)
    if isinstance(item, torch.Tensor):
        return _from_tensor(item)
    raise ImageError(f"a {type(item).__name__} is not an image; give a path, Pillow image, array or tensor")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingPath(f"{path}: there is no such file") from None
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ImageError(f"an array of {array.dtype} {list(array.shape)} is not uint8 [H, W, 3] RGB")
    return Image.fromarray(array)


def _from_tensor(tensor: torch.Tensor) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.numel():
        raise ImageError(f"a tensor of {list(tensor.shape)} is not [3, H, W] RGB")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        if not (tensor.min() >= 0 and tensor.max() <= 1):  # NaN fails this too
            raise ImageError(
                f"a float tensor must lie in [0, 1], not {tensor.min():.3g} to {tensor.max():.3g}"
            )
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    elif tensor.dtype != torch.uint8:
        raise ImageError(f"a tensor of {tensor.dtype} is not uint8 or float")
    return Image.fromarray(tensor.permute(1, 2, 0).contiguous().numpy())


def without_ends(image: Image.Image) -> Image.Image:
    """The middle of an image longer than 16 : 1, all that a centre crop needs; others as they are."""
    width, height = (min(side, LONGEST * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """Short side resized to `size` pixels (bicubic, antialiased), centre crop: uint8 `[3, size, size]`."""
    image = without_ends(image)
    if image.size != (size, size):
        image = tv.center_crop(tv.resize(image, size, InterpolationMode.BICUBIC), [size, size])
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
