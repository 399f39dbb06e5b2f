"""Files, folders, globs, `.csv` manifests, `.tar` shards and videos, here or behind a URL, as one ordered
stream of images."""

import csv
import glob
import logging
import os
import re
import stat
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from facepcl.data.file_types import (
    ADVICE,
    SHARD_SUFFIXES,
    Selection,
    is_manifest_name,
    is_shard_name,
    unsupported,
    without_query,
)
from facepcl.data.globs import expanded, matches, mode_of
from facepcl.data.remote import RemoteFile, is_url, list_url, read_url, stamp_url, without_secrets
from facepcl.data.vanished import is_gone
from facepcl.data.video import frame_path, read_frames, video_of
from facepcl.errors import ImageError, MissingPath, OptionError, require, shortened
from facepcl.images.decode import MAX_BYTES, read_file
from facepcl.images.face import Face
from facepcl.images.geometry import Square
from facepcl.utils.futures import in_order
from facepcl.utils.storage import ALONE, MISSING, RetriedFile, is_of_storage, open_text, retried, why_not

_logger = logging.getLogger("facepcl")

_MEMBER = re.compile(
    rf"(.+?(?:{'|'.join(map(re.escape, SHARD_SUFFIXES))})(?:\?[^/]*)?)/", re.IGNORECASE | re.DOTALL
)
SHARD_ERRORS = (tarfile.TarError, OSError, EOFError)  # of a file that is no tar, or is cut off
MANIFEST_COLUMNS = ("path", "file_name")  # ours, and that of Hugging Face's imagefolder
DELIMITERS = ",;\t"
REMOTE_VIDEO = "a video behind a URL, which is not read; download it first"
NAMES_TRIED = 1000  # of a manifest, to find the folder that they count from
URLS_AHEAD = 32  # images behind URLs that are asked for at once


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
    """One line of a listing: an image file, a shard or a video; or the reason why it is none of them."""

    path: str
    error: str | None = None


class Item(NamedTuple):
    """One image: a file (no `data` yet), a member of a shard or frame of a video (its `data`), or the reason
    why there is none; `square` is the part of it that is wanted, None = all; `faces`: those that are known to
    be in it."""

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


def shard_of(path: str) -> str | None:
    """The tar or video that the path of an image leads into, `SHARD.tar/MEMBER.jpg` or `CLIP.mp4/1.200s`;
    None for a file."""
    match = _MEMBER.match(path)
    shard = match[1] if match else video_of(path)
    return shard if shard and not os.path.isdir(shard) else None


def files_below(folder: str | Path, selection: Selection | None = None) -> Iterator[Path]:
    """The images and shards below `folder`, or what the `selection` takes: of each folder its files by name,
    then its subfolders.

    Hidden entries are left out. Links are followed, except those that lead back to a folder around them. A
    folder that cannot be listed is given itself, so that whoever reads it learns why. Raises RemoteError if
    its storage keeps failing.
    """
    selection = selection or Selection()
    waiting: list[tuple[Path, tuple[str, ...]]] = [(Path(folder), ())]
    while waiting:
        here, around = waiting.pop()
        try:
            listed = retried(here, partial(_listed, here))
        except OSError:
            yield here
            continue
        around = (*around, os.path.realpath(here))
        folders = []
        for name, is_folder, is_link in listed:
            if is_folder and not name.startswith("."):
                if not (is_link and os.path.realpath(here / name) in around):
                    folders.append(here / name)
            elif selection.takes(name):
                yield here / name
        waiting.extend((subfolder, around) for subfolder in reversed(folders))


def _listed(folder: Path) -> list[tuple[str, bool, bool]]:
    with os.scandir(folder) as entries:
        return sorted((e.name, _is_folder(e), e.is_symlink()) for e in entries)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # such as a link to itself
        if is_of_storage(error):
            raise
        return False


def list_entries(sources: Sequence[str | Path], selection: Selection | None = None) -> Iterator[Entry]:
    """What is behind `sources`, in order; of folders and globs what the `selection` takes. A file that is
    named itself is taken whatever its name.

    Raises MissingPath for a source that is not there, OptionError for one that cannot hold images, for a
    manifest without a column of paths or if there is nothing at all, RemoteError for a URL or drive that
    fails; the rest is listed lazily.
    """
    selection = selection or Selection()
    entries = chain.from_iterable([_entries_of(_spelled(source), selection) for source in sources])
    first = next(entries, None)
    if first is None:
        raise no_images(sources, selection)
    return chain((first,), entries)


def no_images(sources: Sequence[str | Path], selection: Selection) -> OptionError:
    """The error of sources without an image, which says what was skipped."""
    named = shortened(", ".join(map(str, sources))) or "an empty list of sources"
    skipped = selection.explain(ADVICE)
    return OptionError(f"no images in {named}: {skipped}" if skipped else f"no images in {named}")


def _spelled(source: str | Path) -> str:
    if source == "":
        raise OptionError("a source is an empty string; name a file or a folder, or . for the current folder")
    if str(source).startswith("data:"):
        raise OptionError(f"{shortened(source)} is an image in a data: URL; save it as a file and name that")
    return source if isinstance(source, str) and is_url(source) else str(Path(source))


def _entries_of(source: str, selection: Selection) -> Iterable[Entry]:
    if is_url(source):
        return _url_entries(source, selection)
    mode = mode_of(source)
    if stat.S_ISDIR(mode):
        return (Entry(str(path)) for path in files_below(source, selection))
    if is_manifest_name(source) and stat.S_ISREG(mode):
        return _manifest_entries(Path(source), selection)
    if os.path.lexists(source):
        if selection.is_video(source):
            require("av", "video")
        elif reason := unsupported(source):
            raise OptionError(reason)
        return (Entry(source),)
    if not glob.has_magic(source):
        raise MissingPath(f"{shortened(source)}: there is no such file or folder")
    return _glob_entries(source, selection)


def _glob_entries(pattern: str, selection: Selection) -> list[Entry]:
    """The images and shards that match. ** goes into folders as `files_below` does: glob's own would follow a
    link to a folder around it for ever."""
    parts = Path(pattern).parts
    if "**" in parts:
        before, rule = Path(*parts[: parts.index("**")]), parts[parts.index("**") :]
        folders = (path for path in expanded(before) if os.path.isdir(path))
        everything = Selection(all_files=True)
        files = ((path, base) for base in folders for path in files_below(base, everything))
        found = sorted(str(path) for path, base in files if matches(path.relative_to(base).parts, rule))
        return [Entry(path) for path in found if selection.takes(path)]
    found = sorted(map(str, expanded(Path(pattern))))
    if left_out := sum(map(os.path.isdir, found)):
        _logger.warning("%s: skipped %d matching folders; use ** to descend into them", pattern, left_out)
    return [Entry(path) for path in found if not os.path.isdir(path) and selection.takes(path)]


def _url_entries(url: str, selection: Selection) -> list[Entry]:
    if is_manifest_name(url):
        raise OptionError(
            f"{shortened(url)}: a manifest is read from the file system; the paths in it may be URLs"
        )
    if not glob.has_magic(without_query(url)):
        if selection.is_video(url):
            raise OptionError(f"{shortened(url)} is {REMOTE_VIDEO}")
        if reason := unsupported(url):
            raise OptionError(reason)
    return [Entry(name, _reason(name, size, selection)) for name, size in list_url(url, selection.takes)]


def _reason(url: str, size: int, selection: Selection) -> str | None:
    """Why a file behind a URL is not read; None if it is."""
    if selection.is_video(url):
        return REMOTE_VIDEO
    return None if size <= MAX_BYTES or is_shard_name(url) else _too_large(size)


def _too_large(size: int) -> str:
    return f"cannot be read: {size:,} bytes are too many for an image"


def _manifest_entries(manifest: Path, selection: Selection) -> Iterator[Entry]:
    """The paths of the first of `MANIFEST_COLUMNS`, below the folder that `_folder_of` gives, or URLs."""
    lines = csv_lines(manifest)
    header = [name.strip().lower() for name in next(lines, (1, []))[1]]
    column = next((header.index(name) for name in MANIFEST_COLUMNS if name in header), None)
    if column is None:
        raise OptionError(
            f"{manifest} has no column {MANIFEST_COLUMNS[0]!r} with the paths of images; its first line is "
            f"{','.join(header)[:80]!r}"
        )
    names = (cells[column] for _, cells in csv_lines(manifest) if column < len(cells))
    folder, is_alone = _folder_of(manifest, islice(names, 1, NAMES_TRIED)), cache(is_gone)

    def entries() -> Iterator[Entry]:
        for number, cells in lines:
            name = cells[column] if column < len(cells) else ""
            if not (bare := name.strip()):
                yield Entry(str(manifest), f"line {number} of the manifest names no path")
            elif is_url(bare):
                yield Entry(bare, _reason(bare, 0, selection))
            else:
                path = _below(folder, name)
                if selection.is_video(path):
                    require("av", "video")
                yield Entry(path, ALONE if is_alone(os.path.dirname(path) or ".") else None)

    return entries()


def _folder_of(manifest: Path, names: Iterator[str]) -> Path:
    """The folder that the relative ones of these names in a manifest count from: its own, or the working
    folder if the first of them that is in either is only there."""
    here = Path.cwd() if manifest.is_absolute() else Path()
    for name in names:
        if (bare := name.strip()) and not is_url(bare) and not os.path.isabs(bare):
            for folder in (manifest.parent, here):
                if os.path.lexists(_below(folder, name)):
                    return folder
    return manifest.parent


def _below(folder: Path, name: str) -> str:
    path = str(folder / name)
    if name != name.strip() and not os.path.lexists(path):  # spaces beside it in the list, not in its name
        path = str(folder / name.strip())
    if "\\" in name and os.sep == "/" and not os.path.lexists(path):  # written on Windows
        return path.replace("\\", "/")
    return path


def csv_lines(manifest: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, with their line numbers; the first line tells which of
    `DELIMITERS` it has. Raises OptionError for a damaged one."""
    with closing(RetriedFile(str(manifest))) as binary:  # spreadsheets write UTF-16 as well
        is_wide = binary.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding, errors = ("utf-16", "replace") if is_wide else ("utf-8-sig", "surrogateescape")
    with open_text(manifest, encoding, errors, newline="") as file:
        first = file.readline()
        # strict: an unclosed quote would take all lines that follow for one cell
        lines = csv.reader(chain([first], file), delimiter=max(DELIMITERS, key=first.count), strict=True)
        try:
            for cells in lines:
                if cells:  # blank lines count as none
                    yield lines.line_num, cells
        except csv.Error as error:
            raise OptionError(f"{manifest}, line {lines.line_num}: {error}") from error


def read_items(
    entries: Iterable[Entry], start: int = 0, selection: Selection | None = None
) -> Iterator[Item]:
    """The images of `entries` in order, from number `start` on; those of a shard, as `SHARD.tar/MEMBER.jpg`,
    are the members that the `selection` takes, those of a video, as `CLIP.mp4/1.200s`, frames at its rate.

    Plain files are not read here, but where they are decoded; those behind URLs are, several ahead, and are
    named without signatures. Raises RemoteError if a server, the network or a drive fails.
    """
    unread = _unread_items(entries, start, selection or Selection())
    for is_behind_url, items in groupby(unread, _is_behind_url):
        yield from (_fetched if is_behind_url else iter)(items)


def items_named(sources: Sequence[str], paths: Collection[str], fps: float = 0.0) -> Iterator[Item]:
    """The images of `sources` with the `paths` that a table names, read again; `fps`: of its videos."""
    files = {shard_of(path) or path for path in paths}
    every = Selection(all_files=True, fps=fps)  # the table has what was chosen of it
    entries = (entry for entry in list_entries(sources, every) if _in_tables(entry) in files)
    return (item for item in read_items(entries, selection=every) if printable(item.path) in paths)


def _is_behind_url(item: Item) -> bool:
    return item.data is None and item.error is None and is_url(item.path)


def _fetched(items: Iterator[Item]) -> Iterator[Item]:
    with ThreadPoolExecutor(URLS_AHEAD, "facepcl-url") as threads:
        yield from in_order(lambda item: threads.submit(_fetch, item), items, URLS_AHEAD)


def _fetch(item: Item) -> Item:
    named = item._replace(path=without_secrets(item.path))
    try:
        return named._replace(data=read_url(item.path))
    except MissingPath:  # its path is in the row already
        return named._replace(error=MISSING)
    except ImageError as error:
        return named._replace(error=str(error))


def _unread_items(entries: Iterable[Entry], start: int, selection: Selection) -> Iterator[Item]:
    number = 0
    for path, error in entries:
        if error == ALONE and os.path.exists(path):  # by now
            error = None
        if selection.is_shard(path) and not error:
            is_video = selection.is_video(path)
            for read in _frame_items(path, selection.fps) if is_video else _shard_items(path, selection):
                if number >= start:
                    yield read()
                number += 1
        else:
            if number >= start:
                yield Item(without_secrets(path) if error else path, error=error)
            number += 1


def _shard_items(shard: str, selection: Selection) -> Iterator[Callable[[], Item]]:
    """A function for each image member that reads it; without a call the member passes by."""
    name = without_secrets(shard)
    try:
        for member, read in read_shard(shard):
            if selection.takes_member(member.name):
                yield partial(_member_item, f"{name}/{member.name}", member, read)
    except FileNotFoundError:
        yield partial(Item, name, error=MISSING)
    except SHARD_ERRORS as error:
        yield partial(Item, name, error=why_not(error, "the shard is cut off or not a tar file"))


def _frame_items(video: str, fps: float) -> Iterator[Callable[[], Item]]:
    """As `_shard_items`, for the frames of a video."""
    try:
        for seconds, encoded in read_frames(video, fps):
            yield partial(_frame_item, frame_path(video, seconds), encoded)
    except FileNotFoundError:
        yield partial(Item, video, error=MISSING)
    except (OSError, ImageError) as error:
        yield partial(Item, video, error=why_not(error, "not a whole video"))


def _frame_item(path: str, encoded: Callable[[], bytes]) -> Item:
    try:
        return Item(path, encoded())
    except ImageError as error:
        return Item(path, error=str(error))


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
    """The files in a tar of any size, compressed or not, each with a function that reads it, which raises
    one of SHARD_ERRORS for a link.

    The function is good until the next member is asked for. Raises SHARD_ERRORS if the tar is none or is
    cut off, RemoteError if the network or the drive fails.
    """
    open_file: Any = RemoteFile if is_url(str(shard)) else RetriedFile
    # streamed: shards may be larger than memory, and may be compressed; with tarfile's own small buffer, of
    # which it copies the rest at every read
    with (
        closing(open_file(str(shard))) as file,
        tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as archive,
    ):
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # a million of them would stay in memory
            # devices and folders are no images, whatever they are called
            if member.isfile() or member.islnk() or member.issym():
                yield member, partial(_member_bytes, archive, member)
        if not getattr(archive, "ended", False):
            raise tarfile.ReadError("it has no end mark")
        stream: Any = archive.fileobj
        while rest := stream.read(1 << 16):  # zeros, up to a multiple of the block size
            if rest.strip(b"\0"):
                raise tarfile.ReadError("another archive follows its end mark; keep them in two files")


def _member_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if not member.isfile():
        raise tarfile.ReadError(f"it is a link to {shortened(member.linkname)}, which a stream cannot follow")
    file = archive.extractfile(member)
    return file.read() if file else b""


def printable(text: str | None) -> str | None:
    r"""A name that is not UTF-8 reaches Python with surrogates, which no table can hold: as \xff here."""
    return text and text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _in_tables(entry: Entry) -> str:
    """The path of an entry as tables hold it."""
    return str(printable(without_secrets(entry.path)))


def stamp(entry: Entry, selection: Selection) -> Any:
    """Return size and modification time of a shard, as JSON: its images are found again by their number."""
    if entry.error or not selection.is_shard(entry.path):
        return None
    if is_url(entry.path):
        return stamp_url(entry.path)
    with suppress(OSError):
        status = retried(entry.path, partial(os.stat, entry.path))
        return [status.st_size, status.st_mtime_ns]
    return None


def is_table_of(paths: Sequence[str], entries: Iterable[Entry], table: Path, selection: Selection) -> bool:
    """Whether the file `table` with these paths, one row or more an image, is what `entries` become."""
    written_at = table.stat().st_mtime_ns
    place, last = 0, None
    for entry in entries:
        path, begin = _in_tables(entry), place
        if path == last:
            continue
        last, is_shard = path, selection.is_shard(path)
        if is_shard and not is_url(path) and os.path.exists(path) and os.stat(path).st_mtime_ns > written_at:
            return False  # a shard that has changed since
        # of a shard its members, and behind them a row of its own where it breaks off
        while place < len(paths) and (
            paths[place] == path or (is_shard and paths[place].startswith(f"{path}/"))
        ):
            place += 1
        if place == begin and not is_shard:
            return False
    return place == len(paths)
