"""What is read of a source by the names of its files, what is skipped, and what cannot be a source."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path

from PIL import Image

from facepcl.data.remote import is_url
from facepcl.data.video import MOST_FPS, VIDEO_EXTRA, VIDEO_SUFFIXES, can_read_videos
from facepcl.errors import OptionError, shortened
from facepcl.utils.files import check_outside
from facepcl.utils.storage import retried

_logger = logging.getLogger("facepcl")

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MANIFEST_SUFFIXES = (".csv", ".tsv")
# Without their extras these are rows that name the extra.
_OF_EXTRAS = frozenset([".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl"])
# What Pillow recognises but does not decode, or has another program decode.
_NOT_DECODED = frozenset(["BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"])
_OF_SYSTEMS = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"])
_MOST_NAMED, _LONGEST_NAMED = 8, 20  # extensions in a message, and letters of one

_ARCHIVE = "an archive, which is not read; unpack it and name the folder"
_TABLE = "a table, not images; facepcl.read_embeddings reads tables of embeddings"
_RECORDS = (
    "an MXNet record file, as insightface packs faces, which is not read; write its images to folders or "
    ".tar shards first"
)
_LIST = "no image, and lists are read from .csv files with a column path"
_DATA = "a data file, which is not read; write its images to folders or .tar shards first"
_VIDEO = "a video, which only facepcl analyze reads; extract its frames as images first"
_UNSUPPORTED = {  # the first of them is what a folder of several holds
    ".rec": _RECORDS,
    **dict.fromkeys((".zip", ".rar", ".7z", ".gz", ".bz2", ".xz", ".zst"), _ARCHIVE),
    **dict.fromkeys((".parquet", ".npz", ".npy", ".arrow", ".feather"), _TABLE),
    **dict.fromkeys((".txt", ".json", ".jsonl", ".xls", ".xlsx"), _LIST),
    **dict.fromkeys((".h5", ".hdf5", ".mat", ".pkl", ".lmdb", ".mdb", ".tfrecord"), _DATA),
    **dict.fromkeys(VIDEO_SUFFIXES, _VIDEO),
    ".bin": "no image; pairs of insightface are for facepcl probe verification",
    ".pdf": "a document; extract its images first",
}
_SIGNATURES = {
    **dict.fromkeys((b"PK\3\4", b"PK\5\6", b"Rar!", b"7z\xbc\xaf"), _ARCHIVE),
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), _ARCHIVE),
    **dict.fromkeys((b"PAR1", b"ARROW1", b"\x93NUMPY"), _TABLE),
    b"\x0a\x23\xd7\xce": _RECORDS,
    b"\x89HDF": _DATA,
    b"%PDF": _UNSUPPORTED[".pdf"],
}


def without_query(path: str) -> str:
    """A URL up to its query, such as a signature; any other path as it is."""
    return path.partition("?")[0] if is_url(path) else path


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as those of images do that the installed decoders read."""
    suffixes = {_suffix(name), _suffix(without_query(name))}
    return not suffixes.isdisjoint(_image_suffixes()) and not _is_hidden(name)


def check_no_source(path: str | Path, sources: Sequence[str]) -> None:
    """Raise OptionError if the file `path` would replace one of the `sources`, or be an image in one."""
    if is_image_name(os.path.basename(path)):
        check_outside(path, sources)
    files = [os.path.realpath(source) for source in sources if not is_url(source) and os.path.isfile(source)]
    if os.path.realpath(path) in files:
        raise OptionError(f"{path} is one of the sources and would be overwritten; choose another name")


def is_shard_name(name: str) -> bool:
    """Whether a file's name ends as those of shards do."""
    ends = (each.lower().endswith(SHARD_SUFFIXES) for each in (name, without_query(name)))
    return any(ends) and not _is_hidden(name)


def is_video_name(name: str) -> bool:
    """Whether a file's name ends as those of videos do."""
    return _suffix(without_query(name)) in VIDEO_SUFFIXES and not _is_hidden(name)


def is_manifest_name(name: str) -> bool:
    """Whether a file's name ends as those of manifests do."""
    return without_query(name).lower().endswith(MANIFEST_SUFFIXES)


@cache
def _image_suffixes() -> frozenset[str]:
    known = Image.registered_extensions().items()
    decoded = {suffix for suffix, kind in known if kind in Image.OPEN and kind not in _NOT_DECODED}
    return _OF_EXTRAS | {".mpo"} | decoded


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_hidden(name: str) -> bool:
    base = os.path.basename(without_query(name))
    return base.startswith(".") or base.lower() in _OF_SYSTEMS


class Selection:
    """Which files of folders, globs and shards are read: those with names of images and shards or, with
    `all_files`, all that are not hidden. It counts the others by extension, but for `labels`. With `fps`
    above 0 videos are shards, with at most so many frames a second."""

    def __init__(self, all_files: bool = False, fps: float = 0.0, labels: Iterable[str] = ()):
        if not 0 <= fps <= MOST_FPS:  # NaN fails this too
            raise OptionError(f"fps must be between 0 (leave videos out) and {MOST_FPS:g}, not {fps}")
        self.all_files, self.fps, self._labels = all_files, fps, frozenset(labels)
        self.skipped: Counter[str] = Counter()

    def again(self) -> "Selection":
        """The same choice, with nothing counted yet."""
        return Selection(self.all_files, self.fps, self._labels)

    def takes(self, name: str) -> bool:
        """Whether a file is read; it is counted if not."""
        if self.is_video(name):
            return can_read_videos() or self._skips(name)
        return is_shard_name(name) or self.takes_member(name)

    def takes_member(self, name: str) -> bool:
        """As `takes`, of a file in a shard, where shards are not read."""
        if is_image_name(name):
            return True
        if _is_hidden(name) or self.all_files:
            return self.all_files and not _is_hidden(name)
        return self._skips(name)

    def is_shard(self, name: str) -> bool:
        """Whether a file is read as a shard: one entry of a listing, and any number of images."""
        return is_shard_name(name) or self.is_video(name)

    def is_video(self, name: str) -> bool:
        """Whether a file is read as a video."""
        return self.fps > 0 and is_video_name(name)

    def _skips(self, name: str) -> bool:
        suffix = os.path.splitext(without_query(name))[1]
        self.skipped[suffix] += suffix.lower() not in self._labels
        return False

    def forget(self, files: Iterable[Path]) -> None:
        """Do not count these files, which are read for something else."""
        self.skipped.subtract(file.suffix for file in files if not is_image_name(file.name))

    def __str__(self) -> str:
        """Such as "skipped 3 files: 2 .NEF, 1 without extension"; empty if none was."""
        skipped = +self.skipped
        if not skipped:
            return ""
        named = [f"{n:,} {_shown(suffix)}" for suffix, n in skipped.most_common(_MOST_NAMED)]
        if others := skipped.total() - sum(n for _, n in skipped.most_common(_MOST_NAMED)):
            named.append(f"{others:,} others")
        files = "file" if skipped.total() == 1 else "files"
        return f"skipped {skipped.total():,} {files}: {', '.join(named)}"

    def tell(self, advice: str = "") -> None:
        """Log what was skipped, if anything."""
        if text := str(self):
            _logger.warning("%s%s", text, self._for_videos() or advice)

    def explain(self, advice: str = "") -> str:
        """What was skipped, and what such a file is or, if that is not known, `advice`; empty if none was."""
        if hint := self._for_videos():
            return f"{self}{hint}"
        there = {suffix.lower() for suffix in +self.skipped}
        if known := next(filter(there.__contains__, _UNSUPPORTED), None):
            return f"{self}; {known} is {_UNSUPPORTED[known]}"
        return f"{self}{advice}" if there else ""

    def _for_videos(self) -> str:
        """What reads the videos that were skipped without the extra; empty if none was."""
        skipped = any(suffix.lower() in VIDEO_SUFFIXES for suffix in +self.skipped)
        return f"; to read videos, type: {VIDEO_EXTRA}" if self.fps and skipped else ""


ADVICE = "; use --all-files to read them"


def _shown(suffix: str) -> str:
    text = " ".join(suffix.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())
    return shortened(text, _LONGEST_NAMED) or "without extension"


def unsupported(path: str | Path) -> str | None:
    """Why a file that is named as a source cannot be one, and what to do; None if its content may be an
    image."""
    path = str(path)
    if is_url(path):
        kind = _UNSUPPORTED.get(_suffix(without_query(path)))
    elif is_image_name(path) or is_shard_name(path):
        kind = None
    else:
        kind = _kind(path)
    return kind and f"{shortened(path)} is {kind}"


def _kind(path: str) -> str | None:
    try:
        head = retried(path, partial(_read_head, path))
    except (OSError, ValueError):
        return None
    if head[257:262] == b"ustar":
        return f"a tar, and the names of shards end in {', '.join(SHARD_SUFFIXES)}; rename it"
    if signature := next(filter(head.startswith, _SIGNATURES), None):
        return _SIGNATURES[signature]
    kind = _UNSUPPORTED.get(_suffix(path))
    return None if kind is None or _is_image(path) else kind


def _read_head(path: str) -> bytes:
    if not os.path.isfile(path):  # a pipe would wait for its writer for ever
        return b""
    with open(path, "rb") as file:
        return file.read(512)


def _is_image(path: str) -> bool:
    try:
        Image.open(path).close()
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow's plugins raise almost anything
        return False
    return True
