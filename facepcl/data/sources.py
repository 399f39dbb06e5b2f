"""Files, folders, globs, `.csv` manifests and `.tar` shards, here or behind a URL, as one ordered stream of
images."""

import csv
import glob
import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from fnmatch import fnmatch
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

from facepcl.data.remote import RemoteFile, is_url, list_url, read_url, stamp_url
from facepcl.errors import ImageError, MissingPath, OptionError
from facepcl.images.decode import MAX_BYTES, read_file
from facepcl.images.face import Face
from facepcl.images.geometry import Square
from facepcl.utils.futures import in_order

_logger = logging.getLogger("facepcl")

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".heic", ".heif"]
)
IMAGE_SUFFIXES |= frozenset([".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"])
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MEMBER = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, SHARD_SUFFIXES))}))/", re.IGNORECASE | re.DOTALL)
SHARD_ERRORS = (tarfile.TarError, OSError, EOFError)  # of a file that is no tar, or is cut off
MANIFEST_COLUMN = "path"
URLS_AHEAD = 32  # images behind URLs that are asked for at once


def where_relative(sources: Sequence[str]) -> str:
    """The folder from which some of `sources` are named; empty if all are URLs or absolute."""
    known = all(is_url(source) or Path(source).is_absolute() for source in sources)
    return "" if known else str(Path.cwd())


def as_sources(source: Any) -> list[str]:
    """One source or several as a list. Raises OptionError for what is neither a path nor a list of them."""
    is_list = isinstance(source, Iterable) and not isinstance(source, (str, bytes, os.PathLike))
    listed = list(source) if is_list else [source]
    if wrong := [one for one in listed if not isinstance(one, (str, os.PathLike))]:
        raise OptionError(
            f"a source is a path or a list of paths, not {type(wrong[0]).__name__}; images in memory are for "
            "FaceEmbedder()([image])"
        )
    return [str(one) for one in listed]


class Entry(NamedTuple):
    """One line of a listing: an image file or a shard; or the reason why it is neither."""

    path: str
    error: str | None = None


class Item(NamedTuple):
    """One image: a file (no `data` yet), a member of a shard (its `data`), or the reason why there is
    none; `square` is the part of it that is wanted, None = all; `faces`: those that are known to be in
    it."""

    path: str
    data: bytes | None = None
    error: str | None = None
    square: Square | None = None
    faces: tuple[Face, ...] | None = None

    def read(self) -> bytes:
        """The encoded image. Raises ImageError or MissingPath with the reason."""
        if self.error:
            raise ImageError(self.error)
        return read_file(self.path) if self.data is None else self.data


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as those of images do (only such files of a folder or shard are read)."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith(".")


def is_shard_name(name: str) -> bool:
    """Whether a file's name ends as those of shards do."""
    return name.lower().endswith(SHARD_SUFFIXES) and not os.path.basename(name).startswith(".")


def shard_of(path: str) -> str | None:
    """The tar that the path of an image leads into, `SHARD.tar/MEMBER.jpg`; None for a file."""
    match = _MEMBER.match(path)
    return match[1] if match and not os.path.isdir(match[1]) else None


def files_below(folder: str | Path) -> Iterator[Path]:
    """The images and shards below `folder`: of each folder its files by name, then its subfolders.

    Hidden entries are left out. Links are followed, except those that lead back to a folder around them. A
    folder that cannot be listed is given itself, so that whoever reads it learns why.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(Path(folder), ())]
    while waiting:
        here, around = waiting.pop()
        try:
            with os.scandir(here) as entries:
                listed = sorted((e.name, e.is_dir(), e.is_symlink()) for e in entries)
        except OSError:
            yield here
            continue
        around = (*around, os.path.realpath(here))
        folders = []
        for name, is_folder, is_link in listed:
            if is_folder and not name.startswith("."):
                if not (is_link and os.path.realpath(here / name) in around):
                    folders.append(here / name)
            elif is_image_name(name) or is_shard_name(name):
                yield here / name
        waiting.extend((subfolder, around) for subfolder in reversed(folders))


def list_entries(sources: Sequence[str | Path]) -> Iterator[Entry]:
    """What is behind `sources`, in order. A file that is named itself is taken whatever its name.

    Raises MissingPath for a source that is not there, OptionError for a manifest without a column `path` or
    if there is nothing at all, RemoteError for a URL that cannot be listed; the rest is listed lazily.
    """
    entries = chain.from_iterable([_entries_of(_spelled(source)) for source in sources])
    first = next(entries, None)
    if first is None:
        raise OptionError(f"no images in {', '.join(map(str, sources)) or 'an empty list of sources'}")
    return chain((first,), entries)


def _spelled(source: str | Path) -> str:
    if source == "":
        raise OptionError("a source is an empty text; name a file or a folder, or . for this one")
    return source if isinstance(source, str) and is_url(source) else str(Path(source))


def _entries_of(source: str) -> Iterable[Entry]:
    if is_url(source):
        return _url_entries(source)
    if os.path.isdir(source):
        return (Entry(str(path)) for path in files_below(source))
    if source.lower().endswith(".csv") and os.path.isfile(source):
        return _manifest_entries(Path(source))
    if os.path.lexists(source):
        return (Entry(source),)
    if not glob.has_magic(source):
        raise MissingPath(f"{source}: there is no such file or folder")
    return _glob_entries(source)


def _glob_entries(pattern: str) -> list[Entry]:
    """The images and shards that match. ** goes into folders as `files_below` does: glob's own would follow a
    link to a folder around it for ever."""
    parts = Path(pattern).parts
    if "**" in parts:
        before, rule = Path(*parts[: parts.index("**")]), parts[parts.index("**") :]
        folders = filter(os.path.isdir, glob.glob(str(before)))
        files = ((path, base) for base in folders for path in files_below(base))
        matches = sorted(str(path) for path, base in files if _matches(path.relative_to(base).parts, rule))
        return [Entry(path) for path in matches]
    matches = sorted(glob.glob(pattern))
    if left_out := sum(map(os.path.isdir, matches)):
        _logger.warning("%s: %d folders match and are left out; ** goes into them", pattern, left_out)
    return [
        Entry(path)
        for path in matches
        if (is_image_name(path) or is_shard_name(path)) and not os.path.isdir(path)
    ]


def _matches(parts: tuple[str, ...], rule: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern, part by part, ** for any number of folders."""
    if not rule:
        return not parts
    if rule[0] == "**":
        return any(_matches(parts[i:], rule[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], rule[0]) and _matches(parts[1:], rule[1:])


def _url_entries(url: str) -> list[Entry]:
    if url.lower().endswith(".csv"):
        raise OptionError(f"{url}: a manifest is read from the file system; the paths in it may be URLs")
    files = list_url(url, lambda name: is_image_name(name) or is_shard_name(name))
    return [
        Entry(name, None if size <= MAX_BYTES or is_shard_name(name) else _too_large(size))
        for name, size in files
    ]


def _too_large(size: int) -> str:
    return f"cannot be read: {size:,} bytes are more than an image has"


def _manifest_entries(manifest: Path) -> Iterator[Entry]:
    """The paths of the column `path`, relative to the manifest's folder, or URLs."""
    lines = csv_lines(manifest)
    _, header = next(lines, (1, []))
    if MANIFEST_COLUMN not in header:
        raise OptionError(
            f"{manifest} has no column {MANIFEST_COLUMN!r}; its first line says {','.join(header)[:80]!r}"
        )
    column = header.index(MANIFEST_COLUMN)

    def entries() -> Iterator[Entry]:
        for number, cells in lines:
            name = cells[column].strip() if column < len(cells) else ""
            error = None if name else f"line {number} of the manifest names no path"
            path = name if is_url(name) else str(manifest.parent / name)
            yield Entry(path if name else str(manifest), error)

    return entries()


def csv_lines(manifest: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, with their line numbers. Raises OptionError for a damaged
    one."""
    with manifest.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = csv.reader(file)
        try:
            for cells in lines:
                if cells:  # blank lines count as none
                    yield lines.line_num, cells
        except csv.Error as error:
            raise OptionError(f"{manifest}, line {lines.line_num}: {error}") from error


def read_items(entries: Iterable[Entry], start: int = 0) -> Iterator[Item]:
    """The images of `entries` in order, from number `start` on; those of a shard as `SHARD.tar/MEMBER.jpg`.

    Plain files are not read here, but where they are decoded; those behind URLs are, several ahead. Raises
    RemoteError if the network or a server fails.
    """
    for is_behind_url, items in groupby(_unread_items(entries, start), _is_behind_url):
        yield from (_fetched if is_behind_url else iter)(items)


def _is_behind_url(item: Item) -> bool:
    return item.data is None and item.error is None and is_url(item.path)


def _fetched(items: Iterator[Item]) -> Iterator[Item]:
    with ThreadPoolExecutor(URLS_AHEAD, "facepcl-url") as threads:
        yield from in_order(lambda item: threads.submit(_fetch, item), items, URLS_AHEAD)


def _fetch(item: Item) -> Item:
    try:
        return item._replace(data=read_url(item.path))
    except MissingPath:  # its path is in the row already
        return item._replace(error="there is no such file")
    except ImageError as error:
        return item._replace(error=str(error))


def _unread_items(entries: Iterable[Entry], start: int) -> Iterator[Item]:
    number = 0
    for path, error in entries:
        if is_shard_name(path) and not error:
            for read in _shard_items(path):
                if number >= start:
                    yield read()
                number += 1
        else:
            if number >= start:
                yield Item(path, error=error)
            number += 1


def _shard_items(shard: str) -> Iterator[Callable[[], Item]]:
    """A function for each image member that reads it; without a call the member passes by."""
    try:
        for member, read in read_shard(shard):
            if is_image_name(member.name):
                yield partial(_member_item, f"{shard}/{member.name}", member, read)
    except SHARD_ERRORS as error:
        reason = f"the shard breaks off or is no tar: {error}"
        yield partial(Item, shard, error=reason)


def _member_item(path: str, member: tarfile.TarInfo, read: Callable[[], bytes]) -> Item:
    if member.size > MAX_BYTES:
        return Item(path, error=_too_large(member.size))
    try:
        return Item(path, read())
    except SHARD_ERRORS as error:
        return Item(path, error=f"cannot be read: {error}")


class _Header(tarfile.TarInfo):
    """A member's header that tells the archive when its end mark was met: tarfile takes any end for one."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros
            archive.ended = True  # type: ignore[attr-defined]
            raise


def read_shard(shard: str | Path) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """The regular files in a tar of any size, compressed or not, each with a function that reads it.

    The function is good until the next member is asked for. Raises SHARD_ERRORS if the tar is none or is
    cut off, RemoteError if the network fails.
    """
    with closing(RemoteFile(str(shard))) if is_url(str(shard)) else nullcontext() as file:
        yield from _read_tar(shard, file)


def _read_tar(
    shard: str | Path, file: RemoteFile | None
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    # streamed: shards may be larger than memory, and may be compressed; with tarfile's own small buffer, of
    # which it copies the rest at every read
    source: Any = {"name": shard} if file is None else {"fileobj": file}
    with tarfile.open(**source, mode="r|*", tarinfo=_Header) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # a million of them would stay in memory
            # links, devices and folders are no images, whatever they are called
            if member.isfile():
                yield member, partial(_member_bytes, archive, member)
        if not getattr(archive, "ended", False):
            raise tarfile.ReadError("it has no end mark")


def _member_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def printable(text: str | None) -> str | None:
    r"""A name that is not UTF-8 reaches Python with surrogates, which no table can hold: as \xff here."""
    return text and text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stamp(entry: Entry) -> Any:
    """Return size and modification time of a tar, as JSON: its images are found again by their number."""
    if entry.error or not is_shard_name(entry.path):
        return None
    if is_url(entry.path):
        return stamp_url(entry.path)
    with suppress(OSError):
        status = os.stat(entry.path)
        return [status.st_size, status.st_mtime_ns]
    return None


def is_table_of(paths: Sequence[str], entries: Iterable[Entry], table: Path) -> bool:
    """Whether the file `table` with these paths, one row or more an image, is what `entries` become."""
    written_at = table.stat().st_mtime_ns
    place, last = 0, None
    for entry in entries:
        path, begin = str(printable(entry.path)), place
        if path == last:
            continue
        last, is_shard = path, is_shard_name(path)
        if is_shard and not is_url(path) and os.path.exists(path) and os.stat(path).st_mtime_ns > written_at:
            return False  # a tar that has changed since
        # of a shard its members, and behind them a row of its own where it breaks off
        while place < len(paths) and (
            paths[place] == path or (is_shard and paths[place].startswith(f"{path}/"))
        ):
            place += 1
        if place == begin and not is_shard:
            return False
    return place == len(paths)
