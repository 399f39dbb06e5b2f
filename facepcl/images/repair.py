"""Files that browsers show and Pillow refuses, made readable without a change to its global limits."""

import io

import numpy as np
from PIL import JpegImagePlugin

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_BEFORE = b"\xef\xbb\xbf\r\n\t \0"  # what scripts and servers print before a file
_OF_PIXELS = frozenset([b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"])
_END = b"\xff\xd9"
_ANYTHING = b"\x5a" * 64
MOST_MISSING = 0.05  # of the area of a JPEG


def repaired(data: bytes) -> bytes | None:
    """The file in another form that Pillow may read, None if nothing of it can be repaired.

    Bytes before the signature go, and text and profiles of a PNG, of which Pillow takes a megabyte. The end
    of a JPEG is completed if the missing part is small.
    """
    whole = data.lstrip(_BEFORE)
    if whole.startswith(PNG):
        return _without_metadata(whole)
    if whole.startswith(JPEG):
        return _completed(whole) or (whole if whole is not data else None)
    return whole if whole and whole is not data else None


def _without_metadata(data: bytes) -> bytes:
    """A PNG with nothing but pixels, transparency and EXIF data."""
    kept, place = [PNG], len(PNG)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] in _OF_PIXELS:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _completed(data: bytes) -> bytes | None:
    """A JPEG that lacks its end, with an end mark; None if it lacks more than a small part.

    The codec fills in whatever is missing. What changes with other bytes behind the last one is missing.
    """
    data = data.rstrip(b"\xff")
    scan = data.rfind(b"\xff\xda")
    try:
        image, filled = _blocks(data + _END)
        _, other = _blocks(data + _ANYTHING + _END)
        components = data[scan + 4]
        approximation = data[scan + 7 + 2 * components]
    except Exception:  # broken elsewhere, too
        return None
    if image.info.get("progressive"):
        # at least the last bits of the coefficients have begun; all before them is there
        return data + _END if approximation >> 4 and not approximation & 15 else None
    if components != len(image.layer):  # the other colours are behind this one
        return None
    height, width = filled.shape[:2]
    rows, columns = (filled != other).any(2).nonzero()
    if len(rows):
        each = max(vertical for _, _, vertical, _ in image.layer)
        first = rows[0] // each * each
        begin = columns[rows < first + each].min()
        missing = (width - begin) * each + max(height - first - each, 0) * width
        if missing > MOST_MISSING * height * width:
            return None
    return data + _END


def _blocks(data: bytes) -> tuple[JpegImagePlugin.JpegImageFile, np.ndarray]:
    """A JPEG and its colours `[H / 8, W / 8, 3]`, one of each block of 8 x 8 pixels."""
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    image.draft(None, tuple(max(1, side // 8) for side in image.size))  # type: ignore[arg-type]
    return image, np.asarray(image.convert("RGB"))
