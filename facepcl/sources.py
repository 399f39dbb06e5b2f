"""Files, folders and `.tar` shards as one ordered stream of encoded images."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from facepcl.errors import ImageError, MissingPath, OptionError

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".jp2",
        ".avif",
    ]
)


class Item(NamedTuple):
    """One entry of a source: its path, and its bytes or the reason why there are none."""

    path: str
    data: bytes = b""
    error: str | None = None


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as those of images do (only such files of a folder or shard are read)."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith(".")


def files_below(folder: Path) -> Iterator[Path]:
    """The images and `.tar` shards below `folder`, sorted; hidden entries and linked folders are left out."""
    for root, folders, files in os.walk(folder):  # does not follow links to folders, so no loops
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_image_name(name) or (name.endswith(".tar") and not name.startswith(".")):
                yield Path(root, name)


def list_files(sources: Sequence[str | Path]) -> list[Path]:
    """The files behind `sources`, in order. A file that is named itself is taken whatever its name.

    Raises MissingPath for a source that is not there, OptionError if nothing is left.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            files.extend(files_below(source))
        elif source.exists():
            files.append(source)
        else:
            raise MissingPath(f"{source}: there is no such file or folder")
    if not files:
        raise OptionError(f"no images in {', '.join(map(str, sources)) or 'an empty list of sources'}")
    return files


def read_items(files: Sequence[Path]) -> Iterator[Item]:
    """The encoded images of `files` in order; a shard gives its image members as `SHARD.tar/MEMBER.jpg`."""
    for file in files:
        if file.suffix == ".tar":
            yield from _shard_items(file)
        else:
            try:
                yield Item(str(file), file.read_bytes())
            except OSError as error:
                yield Item(str(file), error=f"cannot be read: {error.strerror or error}")


def _shard_items(shard: Path) -> Iterator[Item]:
    try:
        with tarfile.open(shard, "r|") as tar:  # streamed: shards may be larger than memory
            for member in tar:
                # links, devices and folders are no images, whatever they are called
                if member.isfile() and is_image_name(member.name):
                    file = tar.extractfile(member)
                    yield Item(f"{shard}/{member.name}", file.read() if file else b"")
            if shard.is_file() and not ends_well(shard, tar.offset):
                yield Item(str(shard), error="the shard breaks off: it has no end mark")
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Item(str(shard), error=f"the shard breaks off or is no tar: {error}")


def ends_well(shard: Path, offset: int) -> bool:
    """Whether a block of zeros, the end mark, lies at `offset`: tarfile takes half a header for it too."""
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def check(item: Item) -> bytes:
    """The item's bytes. Raises ImageError with the reason if it could not be read."""
    if item.error:
        raise ImageError(item.error)
    return item.data
