"""Contact sheets as files."""

import logging
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageFont, PngImagePlugin

from facepcl.errors import OptionError
from facepcl.utils.files import atomic, check_file

_logger = logging.getLogger("facepcl")

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
JPEG_SIDE = 65_500  # pixels, the most of libjpeg
DEJAVU = Path(__file__).with_name("fonts") / "DejaVuSans.ttf"
MARK = "sheet of facepcl"  # inside the file: another image of that name is somebody's photo


def check_sheet(path: str | Path) -> None:
    """Raise OptionError, MissingPath or WriteError if no sheet can be written there: before the work."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise OptionError(f"{path}: the name of a sheet must end in .png or .jpg")
    check_file(path)
    if os.path.exists(path) and not _is_sheet(path):
        raise OptionError(f"{path} exists and is not a sheet of facepcl; choose another name, or delete it")


def _is_sheet(path: Path) -> bool:
    with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError), Image.open(path) as image:
        comment = image.info.get("Comment") or image.info.get("comment")  # bytes of a JPEG
        return comment in (MARK, MARK.encode())
    return False


def save_sheet(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet, whole or not at all."""
    kind = FORMATS[Path(path).suffix.lower()]
    options: dict[str, Any] = {"quality": 90, "comment": MARK}
    if kind == "PNG":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_text("Comment", MARK)
    elif sheet.height > JPEG_SIDE:
        _logger.warning(
            "%s ends after %s pixels, the most of a JPEG; a .png has room for all", path, JPEG_SIDE
        )
        sheet = sheet.crop((0, 0, sheet.width, JPEG_SIDE))
    with atomic(path) as temporary:
        sheet.save(temporary, kind, **options)


def font(size: float, text: str = "") -> ImageFont.FreeTypeFont:
    """The font in which to write `text`: Pillow's own has few letters outside ASCII, DejaVu Sans has those
    of Latin, Greek and Cyrillic alphabets."""
    return _font(size, text.replace("…", "").replace("°", "").isascii())


@cache
def _font(size: float, is_plain: bool) -> Any:
    return ImageFont.load_default(size) if is_plain else ImageFont.truetype(DEJAVU, size)


def end_of(text: str, size: float, width: int) -> str:
    """The text, or as much of its end as so many pixels hold in a font of this size."""
    shown = text
    while len(shown) > 1 and font(size, text).getlength(shown) > width:
        shown = "…" + shown.removeprefix("…")[1:]
    return shown


def lines_of(text: str, size: float, width: int) -> list[str]:
    """The text in lines of at most so many pixels in a font of this size, broken behind a word of a name
    where that is possible."""
    lines: list[str] = []
    while text:
        end = len(text)
        while end > 1 and font(size, text).getlength(text[:end]) > width:
            end -= 1
        if end < len(text):
            end = max((i + 1 for i in range(end // 2, end) if not text[i].isalnum()), default=end)
        lines.append(text[:end].strip())
        text = text[end:]
    return lines
