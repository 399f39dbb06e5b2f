"""Contact sheets: the first pictures of shards in rows."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from PIL import Image


def draw_sheet(shards: Iterable[Path], columns: int, rows: int) -> Image.Image:
    """The first `columns` x `rows` pictures of tar files that hold at least one."""
    pictures = list(islice(_pictures(shards), columns * rows))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        sheet.paste(picture, (column * width, row * height))
    return sheet


def _pictures(shards: Iterable[Path]) -> Iterator[Image.Image]:
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    yield Image.open(io.BytesIO(tar.extractfile(member).read()))
