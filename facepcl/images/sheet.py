"""Contact sheets as files."""

from pathlib import Path

from PIL import Image

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
