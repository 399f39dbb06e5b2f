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
# Files of systems, and what `facepcl align` writes beside its crops.
_UNSEEN = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "faces.csv", "faces.csv.meta.json"])
_MOST_NAMED, _LONGEST_NAMED = 8, 20  # extensions in a message, and letters of one

_ARCHIVE = "an archive, which is not read; unpack it and name the folder"
_TABLE = "a table, not images; facepcl.read_embeddings reads tables of embeddings"
_RECORDS = (
    "an MXNet record file, as insightface packs faces, which is not read; write its images to folders or "
    ".tar shards first"
)
_LIST = "not an image; a list of images is a .csv file with a column path"
_DATA = "a data file, which is not read; write its images to folders or .tar shards first"
_VIDEO = "a video, which only facepcl analyze reads; extract its frames as images first"
_UNSUPPORTED = {  # of what a folder holds, they are told in this order
    ".rec": _RECORDS,
    **dict.fromkeys((".zip", ".rar", ".7z", ".gz", ".bz2", ".xz", ".zst"), _ARCHIVE),
    **dict.fromkeys((".parquet", ".npz", ".npy", ".arrow", ".feather"), _TABLE),
    **dict.fromkeys((".txt", ".json", ".jsonl", ".xls", ".xlsx"), _LIST),
    **dict.fromkeys((".h5", ".hdf5", ".mat", ".pkl", ".lmdb", ".mdb", ".tfrecord"), _DATA),
    **dict.fromkeys(VIDEO_SUFFIXES, _VIDEO),
    ".bin": "not an image; pairs of insightface are for facepcl probe verification",
    ".pdf": "a document; extract its images first",
}
_LABELS = (
    "a label file, which facepcl pretrain and probe read; lists of images are .csv files with a column path"
)
_MANIFEST = "a list or a table; if its column path names images, name the file itself to read them"
_PACKED_VIDEO = "a video in a shard, which is not read; unpack it first"
_VIDEO_TO_COME = f"a video; to read videos, type: {VIDEO_EXTRA}"
_SKIPPED = {  # by their names
    **_UNSUPPORTED,
    **dict.fromkeys((".json", ".cls"), _LABELS),
    **dict.fromkeys(MANIFEST_SUFFIXES, _MANIFEST),
    **dict.fromkeys((".tar", ".tgz"), "a shard in a shard, which is not read; unpack it first"),
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
    return base.startswith(".") or base.lower() in _UNSEEN


class Selection:
    """Which files of folders, globs and shards are read: those with names of images and shards or, with
    `all_files`, all that are not hidden. It counts the others by extension, but for `labels`. With `fps`
    above 0 videos are shards, with at most so many frames a second."""

    def __init__(self, all_files: bool = False, fps: float = 0.0, labels: Iterable[str] = ()):
        if not 0 <= fps <= MOST_FPS:  # NaN fails this too
            raise OptionError(f"fps must be between 0 (leave videos out) and {MOST_FPS:g}, not {fps}")
        self.all_files, self.fps, self._labels = all_files, fps, frozenset(labels)
        self.skipped: Counter[str] = Counter()
        self._packed_videos = 0  # that were skipped

    def again(self) -> "Selection":
        """The same choice, with nothing counted yet."""
        return Selection(self.all_files, self.fps, self._labels)

    def takes(self, name: str) -> bool:
        """Whether a file is read; it is counted if not."""
        if self.is_video(name):
            return can_read_videos() or self._skips(name)
        return is_shard_name(name) or self._takes_image(name)

    def takes_member(self, name: str) -> bool:
        """As `takes`, of a file in a shard, where shards and videos are not read."""
        is_taken = self._takes_image(name)
        self._packed_videos += not is_taken and is_video_name(name)
        return is_taken

    def _takes_image(self, name: str) -> bool:
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
        """Log what was skipped, if anything; with an `advice` as `explain` does."""
        if text := self.explain(advice) if advice else str(self):
            _logger.warning("%s", text)

    def explain(self, advice: str = "") -> str:
        """What was skipped, what the known kinds of files among it are, and an `advice` such as ADVICE for
        the others; empty if none was."""
        there = {suffix.lower() for suffix in +self.skipped}
        reasons: dict[str, str] = {}
        for suffix in filter(there.__contains__, _SKIPPED):
            reasons.setdefault(self._reason(suffix), suffix)
        known = "".join(f"; {suffix} is {reason}" for reason, suffix in reasons.items())
        others = advice.format("the others" if known else "them") if there - _SKIPPED.keys() else ""
        return f"{self}{known}{others}"

    def _reason(self, suffix: str) -> str:
        """What a file that was skipped is, and what to do."""
        if suffix not in VIDEO_SUFFIXES:
            return _SKIPPED[suffix]
        videos = sum(count for name, count in self.skipped.items() if name.lower() in VIDEO_SUFFIXES)
        if videos == self._packed_videos:
            return _PACKED_VIDEO
        return _VIDEO_TO_COME if self.fps else _VIDEO


ADVICE = "; use --all-files to read {}"


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
