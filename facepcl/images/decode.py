"""Images of any kind to upright RGB: the content decides, not the name, and what cannot be read says why.

No torch at the top: the processes that read images start without it.
"""

import errno
import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from facepcl.errors import ImageError, MissingExtra, MissingPath, OptionError, one_line, require, shortened
from facepcl.images.repair import JPEG, repaired
from facepcl.utils.storage import SHORT, retried

if TYPE_CHECKING:
    import torch

WHITE = (255, 255, 255, 255)
MAX_PIXELS = 178_956_970  # 500 MB as RGB, where Pillow itself refuses by default
PIXELS_VARIABLE = "FACEPCL_MAX_PIXELS"  # of the environment, which the processes that decode inherit
MAX_BYTES = 1 << 30  # of an encoded image: more than MAX_PIXELS take without any compression
SUBSAMPLING, YCBCR = 530, "facepcl:ycbcr"  # a tag of TIFF; a mark on an image whose bands are Y, Cb and Cr
SUBFILE_TYPE = 254  # a tag of TIFF, whose first bit marks a reduced version
PHOTOMETRIC = 262  # the tag of a TIFF that says what its numbers are; 6 is YCbCr
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
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")  # a bare codestream, and its container
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
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
    """As `decode`; a JPEG may come at 1/2, 1/4 or 1/8 of its size, never with a side under `needed` pixels
    unless it has too many pixels for that.

    The codec then skips the finest frequencies: half the time, and no aliasing.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        return _decode(data, needed)
    except ImageError as error:
        if (other := repaired(data)) is None:
            raise
        try:
            return _decode(other, needed)
        except ImageError:
            raise error from None


def _decode(data: bytes, needed: int | None) -> Picture:
    with _explained(), _open(data) as image:
        if image.format == "EPS":  # Pillow would have Ghostscript run it
            raise ImageError("EPS files are programs, and are not run")
        _skip_thumbnails(image)
        tags, tiles = getattr(image, "tag_v2", {}), getattr(image, "tile", None)
        if tags.get(PHOTOMETRIC) == 6 and tiles and tiles[0][0] == "raw":
            _read_as_ycbcr(image)
        whole = image.size
        drafted = _draft(image, needed) if needed and image.format in ("JPEG", "MPO") else None
        # of a progressive JPEG all coefficients are in memory
        check_pixels(*(whole if image.info.get("progressive") else image.size))
        image.load()  # some formats tell their size and orientation only now
        size = whole if drafted else image.size
        right, bottom = drafted[1][2:] if drafted else size
        orientation = _orientation(image)
        box = _upright_box(orientation, right, bottom, *image.size)
        return Picture(to_rgb(image), size[::-1] if orientation >= 5 else size, box)


def _read_as_ycbcr(image: Any) -> None:
    """Read the bytes of an uncompressed YCbCr TIFF as three a pixel; Pillow expects four."""
    if image.tag_v2.get(SUBSAMPLING) != (1, 1):
        raise ImageError("a TIFF of subsampled YCbCr pixels, which Pillow does not read; save it as RGB")
    image.tile = [tile._replace(args=("RGB", *tile.args[1:])) for tile in image.tile]
    image.info[YCBCR] = True


def _skip_thumbnails(image: Image.Image) -> None:
    """Go to the first page of a TIFF that is not a reduced version of another, as in cameras' raw files."""
    page = 0
    while image.format == "TIFF" and getattr(image, "tag_v2", {}).get(SUBFILE_TYPE, 0) & 1:
        page += 1
        try:
            image.seek(page)
        except EOFError:  # there is nothing else
            image.seek(0)
            return


def _open(data: bytes) -> Image.Image:
    """An image of which the header alone has been read; a HEIC, which Pillow does not know, is decoded."""
    if _is_heic(data):
        opened = _package_for("a HEIC", "pillow_heif", "heic").open_heif(data)
        check_pixels(*opened.size)
        return opened.to_pillow()
    if data.startswith(_JXL):
        _package_for("a JPEG XL", "pillow_jxl", "jxl")  # which registers with Pillow
    if data.startswith(JPEG):
        with suppress(Exception):  # Image.open tells what is wrong
            # not by Image.open, which counts the pixels before a JPEG is reduced
            return JpegImagePlugin.jpeg_factory(io.BytesIO(data), "")
    max_pixels()
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data.startswith(_TIFF):
            raise ImageError(
                "a TIFF with pixels that Pillow does not read, such as floating-point colours; save it in 8 "
                "or 16 bits"
            ) from None
        raise


def _package_for(kind: str, package: str, extra: str) -> Any:
    try:
        return require(package, extra)
    except MissingExtra as error:
        raise ImageError(f"{kind}, and {error}") from None


def _draft(image: Any, needed: int) -> Any:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size: what Pillow's `draft` returns."""
    (width, height), most = image.size, max_pixels()
    scale = next(scale for scale in (8, 4, 2, 1) if min(width, height) >= scale * needed or scale == 1)
    while scale < 8 and width * height > most * scale**2:
        scale *= 2
    return image.draft(None, (max(1, width // scale), max(1, height // scale)))


def max_pixels() -> int:
    """The most pixels that are decoded of an image: `MAX_PIXELS`, or what the environment says. Raises
    OptionError."""
    if not (text := os.environ.get(PIXELS_VARIABLE)):
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and int(text)):
        raise OptionError(f"{PIXELS_VARIABLE} is {shortened(text, 40)!r}, not a number of pixels")
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow refuses twice as many
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, int(text))
    return int(text)


def check_pixels(width: int, height: int) -> None:
    """Raise ImageError if an image of this size is not decoded."""
    if width * height > (most := max_pixels()):
        raise ImageError(
            f"too many pixels: {width} x {height} are more than {most:,}; set {PIXELS_VARIABLE} to read it"
        )


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
    except (ImageError, OptionError):
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image in a format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels: {error}; set {PIXELS_VARIABLE} to read it") from None
    except MemoryError:
        raise ImageError("does not fit into memory") from None
    except Exception as error:  # decoders raise almost anything on damaged files
        raise ImageError(f"damaged: {one_line(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as upright RGB; transparency shows white, as on a page. Raises
    ImageError."""
    image = _upright(image)
    if image.info.pop(YCBCR, False):
        return Image.merge("YCbCr", image.split()).convert("RGB")
    if image.mode == "F":
        return _from_floats(np.asarray(image))
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_integers(np.asarray(image).astype(np.int64), image.mode == "I")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_integers(levels: np.ndarray, may_be_8_bit: bool) -> Image.Image:
    """Grey levels of 16 bits; in integers of 32 bits also of 8, as programs write them."""
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError(
            f"integer pixels must be in [0, 255] or [0, 65535], not {levels.min()} to {levels.max()}; "
            "save it in 8 or 16 bits"
        )
    if not (may_be_8_bit and levels.max() <= 255):
        levels = levels // 257  # 16-bit white becomes 255
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def _from_floats(levels: np.ndarray) -> Image.Image:
    if not (levels.min() >= 0 and levels.max() <= 1):  # NaN fails this too
        raise ImageError(
            f"floating-point pixels must be in [0, 1], not {levels.min():.3g} to {levels.max():.3g}; "
            "save it in 8 or 16 bits"
        )
    return Image.fromarray((levels * 255).round().astype(np.uint8)).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned, and what asked for it taken out. Not by Pillow's `exif_transpose`, which rewrites
    the EXIF data and fails where the rest of it is damaged."""
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
        if not (item.width and item.height):
            raise ImageError(f"an image of {item.width} x {item.height} pixels has none")
        with _explained():  # Pillow opens lazily, so the file behind it may be cut off
            item.load()  # a truncated file shows only now
            return to_rgb(item)
    if isinstance(item, bytes):
        return decode(item)
    if isinstance(item, (str, os.PathLike)):
        return decode(read_file(os.fspath(item)))
    if isinstance(item, np.ndarray):
        return _from_array(item)
    if "torch" in sys.modules and isinstance(item, sys.modules["torch"].Tensor):
        return _from_tensor(item)
    raise ImageError(f"a {type(item).__name__} is not an image; give a path, Pillow image, array or tensor")


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file. Raises MissingPath, ImageError with the reason, or RemoteError if the
    storage keeps failing, which says nothing about the image."""
    try:
        return retried(path, partial(_read_file, path))
    except FileNotFoundError:
        raise MissingPath(f"{shortened(path)}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read_file(path: str | Path) -> bytes:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        os.listdir(path)  # of a folder that may not be listed that is the reason
        raise ImageError("cannot be read: it is a folder")
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for its writer for ever
        raise ImageError("cannot be read: it is a pipe or device, not a file")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"cannot be read: {status.st_size:,} bytes are too many for an image")
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < status.st_size:
        raise OSError(errno.EIO, SHORT)
    return data


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
