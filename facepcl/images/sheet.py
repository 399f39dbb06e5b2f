"""Contact sheets as files."""

from pathlib import Path

from PIL import Image, ImageFont

from facepcl.errors import OptionError
from facepcl.utils.files import atomic, check_file

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def check_sheet(path: str | Path) -> None:
    """Raise OptionError, MissingPath or WriteError if no sheet can be written there: before the work."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise OptionError(f"{path}: a sheet is a .png or a .jpg")
    check_file(path)


def save_sheet(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet, whole or not at all."""
    with atomic(path) as temporary:
        sheet.save(temporary, FORMATS[Path(path).suffix.lower()], quality=90)


def lines_of(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The text in lines of at most so many pixels, broken behind a word of a name where that is possible."""
    lines: list[str] = []
    while text:
        end = len(text)
        while end > 1 and font.getlength(text[:end]) > width:
            end -= 1
        if end < len(text):
            end = max((i + 1 for i in range(end // 2, end) if not text[i].isalnum()), default=end)
        lines.append(text[:end].strip())
        text = text[end:]
    return lines
