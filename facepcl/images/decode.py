"""Images of any kind to upright RGB: the content decides, not the name, and what cannot be read says why.

No torch at the top: the processes that read images start without it.
"""

import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from facepcl.errors import ImageError, MissingExtra, MissingPath, require

if TYPE_CHECKING:
    import torch

WHITE = (255, 255, 255, 255)
MAX_PIXELS = 178_956_970  # 500 MB as RGB, where Pillow itself refuses by default
MAX_BYTES = 1 << 30  # of an encoded image: more than MAX_PIXELS take without any compression
ORIENTATION = 0x0112  # the EXIF tag; values from 5 on swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"])  # brands of HEVC
_PLACES_OF_EXIF = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for it


class Picture(NamedTuple):
    """An upright RGB image that may have been decoded smaller: the `size` of the file's picture, and the
    `box` of `image` that it fills (left, top, right, bottom), not always to a whole pixel."""

    image: Image.Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's own warnings off the terminal. For the thread that owns the loop: filters are global."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def decode(data: bytes) -> Image.Image:
    """The first frame of an encoded image as upright RGB. Raises ImageError with the reason."""
    return decode_reduced(data).image


def decode_reduced(data: bytes, needed: int | None = None) -> Picture:
    """As `decode`; a JPEG may come at 1/2, 1/4 or 1/8 of its size, never with a side under `needed` pixels.

    The codec then skips the finest frequencies: half the time, and no aliasing.
    """
    if not data:
        raise ImageError("the file is empty")
    with _explained(), _open(data) as image:
        if image.format == "EPS":  # Pillow would have Ghostscript run it
            raise ImageError("EPS files are programs, and are not run")
        whole = image.size
        drafted = image.draft(None, (needed, needed)) if needed and image.format == "JPEG" else None
        image.load()  # some formats tell their size and orientation only now
        size = whole if drafted else image.size
        right, bottom = drafted[1][2:] if drafted else size
        orientation = _orientation(image)
        box = _upright_box(orientation, right, bottom, *image.size)
        return Picture(_load(image), size[::-1] if orientation >= 5 else size, box)


def _open(data: bytes) -> Image.Image:
    """An image of which the header alone has been read; a HEIC, which Pillow does not know, is decoded."""
    opened: Any = _open_heic(data) if _is_heic(data) else Image.open(io.BytesIO(data))
    width, height = opened.size
    if width * height > MAX_PIXELS:  # where Pillow's own limit was taken away, too
        raise ImageError(f"too many pixels: {width} x {height}")
    return opened if isinstance(opened, Image.Image) else opened.to_pillow()


def _open_heic(data: bytes) -> Any:
    try:
        return require("pillow_heif", "heic").open_heif(data)
    except MissingExtra as error:
        raise ImageError(f"a HEIC, and {error}") from None


def _is_heic(data: bytes) -> bool:
    """Whether a file says in its first box that it, or what it can be read as, is coded by HEVC."""
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return data[4:8] == b"ftyp" and any(brands[i : i + 4] in _HEIC for i in range(0, len(brands), 4))


def _upright_box(
    orientation: int, right: float, bottom: float, width: int, height: int
) -> tuple[float, float, float, float]:
    """Where the stored box (0, 0, right, bottom) of width x height pixels lies once the image is upright."""
    x, y = (0.0, width - right), (0.0, height - bottom)  # at the start of a side, or at its end
    if orientation < 5:
        left, top = x[orientation in (2, 3)], y[orientation in (3, 4)]
        return left, top, left + right, top + bottom
    left, top = y[orientation in (6, 7)], x[orientation in (7, 8)]
    return left, top, left + bottom, top + right


def _orientation(image: Image.Image) -> int:
    try:
        orientation = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data counts as none
        return 1
    return orientation if orientation in _TURNS else 1


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
    except MemoryError:
        raise ImageError("does not fit into memory") from None
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
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned, and what asked for it taken out. Not by Pillow's `exif_transpose`, which writes the
    EXIF data anew and fails where the rest of it is damaged."""
    if (orientation := _orientation(image)) == 1:
        return image
    turned = image.transpose(_TURNS[orientation])
    for place in _PLACES_OF_EXIF:
        turned.info.pop(place, None)
    return turned


def open_image(item: Any) -> Image.Image:
    """A path, encoded bytes, Pillow image, uint8 array `[H, W, 3]`, or uint8 or float [0, 1] tensor `[3, H,
    W]` as upright RGB. Raises MissingPath or ImageError."""
    if isinstance(item, Image.Image):
        with _explained():  # Pillow opens lazily, so the file behind it may be cut off
            return _load(item)
    if isinstance(item, bytes):
        return decode(item)
    if isinstance(item, (str, Path)):
        return decode(read_file(item))
    if isinstance(item, np.ndarray):
        return _from_array(item)
    if "torch" in sys.modules and isinstance(item, sys.modules["torch"].Tensor):
        return _from_tensor(item)
    raise ImageError(f"a {type(item).__name__} is not an image; give a path, Pillow image, array or tensor")


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file. Raises MissingPath, or ImageError with the reason."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)  # of a folder that may not be listed that is the reason
            raise ImageError("cannot be read: it is a folder")
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for its writer for ever
            raise ImageError("cannot be read: it is a pipe or device, not a file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"cannot be read: {status.st_size:,} bytes are more than an image has")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise MissingPath(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ImageError(f"an array of {array.dtype} {list(array.shape)} is not uint8 [H, W, 3] RGB")
    return Image.fromarray(array)


def _from_tensor(tensor: "torch.Tensor") -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.numel():
        raise ImageError(f"a tensor of {list(tensor.shape)} is not [3, H, W] RGB")
    import torch

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
