"""The state of a job, in a folder beside its output: the listing, locks, finished parts."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from facepcl.data.file_types import ADVICE, Selection
from facepcl.data.remote import is_url, without_secrets
from facepcl.data.sources import Entry, list_entries, stamp
from facepcl.data.vanished import check_there
from facepcl.errors import OptionError, RemoteError, TableError
from facepcl.utils.files import atomic_first, beside, locked
from facepcl.utils.launch import Share
from facepcl.utils.storage import MISSING, unreadable

_logger = logging.getLogger("facepcl")

SUFFIX, LISTING, SKIPPED = ".parts", "job.jsonl", "skipped"
FILES_PER_SHARD = 8192
EARLIER_LISTING = "job.json"  # of the format before job.jsonl


Listed = tuple[str, str | None, Any]  # path, error and stamp of a file


class Shard(NamedTuple):
    """Shard `number` of a listing: a tar, a video or a group of files."""

    number: int
    listed: list[Listed]

    @property
    def entries(self) -> list[Entry]:
        return [Entry(path, error) for path, error, _ in self.listed]


class Job:
    """The unfinished work on `out`, in the folder `OUT.parts`.

    `job.jsonl` holds the description of the job in its first line, a shard of the listing in each other
    line, and in the last one how many files were skipped, by extension. The process that comes first writes
    it, and all processes of a job read it: they share nothing but the file system. Each process locks a
    folder of its own, `rank-R-of-W`. An output that is written as a whole has its finished parts here,
    `part-NUMBER`.
    """

    def __init__(
        self,
        out: Path,
        share: Share | None = None,
        all_files: bool = False,
        fps: float = 0.0,
        sources: Sequence[str] = (),
    ):
        self.out, self.share = out, share or Share()
        self.sources = sources
        self._signed = {without_secrets(source): source for source in sources}
        self.selection = Selection(all_files, fps)
        named = out if out.name.strip(".") else out.resolve()
        if not named.name:
            raise OptionError(f"{out} is the root of the file system; name a folder in it")
        self.folder = beside(named, SUFFIX)
        self._own_folder = self.folder / f"rank-{self.share.rank}-of-{self.share.world_size}"
        self._listing = self.folder / LISTING
        self.is_new = False  # whether this process began it
        self._was_interrupted = False
        self._is_whole: Callable[[], bool] | None = None  # asked once this process has done its share

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from this share of the job. Raises OptionError if one is at work on it."""
        self._was_interrupted = os.path.isdir(self._own_folder)
        name = f" {self.share} of it" if self.share.world_size > 1 else " it"
        refusal = f"{self.out}: another process is writing{name}; wait for it, or choose another output"
        try:
            with locked(self._own_folder, refusal, lambda: self._listing.exists() and not self._is_whole):
                if self._others_at_work(f"-of-{self.share.world_size}"):
                    raise OptionError(
                        f"{self.out}: processes with another world size are writing it; wait for them, or "
                        "choose another output"
                    )
                yield
        finally:
            # after releasing its own lock: of several processes that end at once, the last sees no other
            with suppress(FileNotFoundError):  # another process has cleared it
                if self._is_whole and self._is_whole() and not self._others_at_work():
                    self._clear()
            with suppress(OSError):  # not empty
                self.folder.rmdir()

    def _others_at_work(self, but: str = "/") -> bool:
        """Whether processes have a lock, `but` those whose folder's name ends so; the folders of those that
        were killed are removed."""

        def others() -> list[Path]:
            return [folder for folder in self.folder.glob("rank-*") if not folder.name.endswith(but)]

        for folder in others():
            with suppress(OptionError), locked(folder, "", lambda: False):
                pass
        return bool(others())

    def _clear(self) -> None:
        self._listing.unlink(missing_ok=True)  # first: parts without a listing are nobody's
        # of several processes a newcomer may be writing its listing, under another name
        left = "*" if self.share.world_size == 1 else "part-*"
        for path in list(self.folder.glob(left)):
            with suppress(OSError):
                path.unlink()

    def read(self) -> dict[str, Any] | None:
        """Return the description that the job began with; None if it has not begun. Raises TableError."""
        if os.path.exists(self.folder / EARLIER_LISTING):
            raise TableError(
                f"{self.folder} was started by an earlier version of facepcl; delete it to start over, or "
                "finish it with that version"
            )
        try:
            with self._listing.open(encoding="ascii") as file:
                return dict(json.loads(file.readline()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise TableError(f"{self._listing} is damaged; delete {self.traces()} to start over") from error

    def previous(self, resume: bool) -> dict[str, Any] | None:
        """Return what `read` does. Raises OptionError for another call's unfinished work, unless `resume`."""
        previous = self.read()
        if previous is None or resume:
            return previous
        if self.share.world_size == 1 or self._was_interrupted:
            self.refuse_to_restart(f"{self.folder} holds unfinished work on {self.out}")
        if previous["world_size"] != self.share.world_size:
            there, own = previous["world_size"], self.share.world_size
            self.refuse_to_restart(f"{self.out} was started with the world size {there}, not {own}")
        return previous

    def refuse_to_restart(self, reason: str) -> None:
        """Raise OptionError rather than lose or continue unasked what another call has done."""
        raise OptionError(
            f"{reason}: add --resume (resume=True) to continue, or delete {self.traces()} to start over"
        )

    def traces(self) -> str:
        """Name what has to be deleted to start over."""
        there = [(self.folder, self._listing.exists()), (self.out, self.out.is_dir())]
        return " and ".join(str(path) for path, is_there in there if is_there)

    def check(self, command: str, previous: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Raise OptionError unless the job of the description `previous` is the one that is `wanted`."""
        check_same(self.out, previous, {"command": command, **wanted}, self.traces())

    def describe_sources(self) -> dict[str, Any]:
        """Return the sources, the folder that relative ones count from and what is read of them."""
        is_relative = any(not is_url(source) and not Path(source).is_absolute() for source in self.sources)
        return {
            "sources": list(map(without_secrets, self.sources)),
            "folder": str(Path.cwd()) if is_relative else "",
            "all_files": self.selection.all_files or None,  # None where it is not known yet, too
            "fps": self.selection.fps or None,
        }

    def begin(
        self, command: str, wanted: Mapping[str, Any], entries: Iterable[Entry] | None = None
    ) -> dict[str, Any]:
        """Write the listing, of `entries` or of what is behind the sources, unless there is one or another
        process is first; return the description that holds."""
        if self.read() is None:
            entries = list_entries(self.sources, self.selection) if entries is None else entries
            self.is_new = True
            if self.share.world_size == 1:
                for part in self.parts():
                    part.unlink()
            header = {"command": command, **wanted, "world_size": self.share.world_size}
            with atomic_first(self._listing) as temporary, temporary.open("w", encoding="ascii") as file:
                file.write(json.dumps(header) + "\n")
                for listed in cut(entries, self.selection):
                    file.write(json.dumps(listed) + "\n")
                file.write(json.dumps({SKIPPED: self.selection.skipped}) + "\n")
        self.selection.skipped.clear()  # the listing has them, of whichever process wrote it
        return self.read() or {}

    def shards(self) -> Iterator[Shard]:
        """Yield the shards of the listing, in order."""
        with self._listing.open(encoding="ascii") as file:
            file.readline()
            for number, line in enumerate(file):
                if not line.startswith("{"):
                    yield Shard(number, json.loads(line))

    def tell_skipped(self) -> None:
        """Log what is skipped of the sources: by the listing, and by this process in shards."""
        if self.share.rank == 0:
            with self._listing.open(encoding="ascii") as file:
                *_, last = file
            self.selection.skipped.update(json.loads(last).get(SKIPPED, {}))
        self.selection.tell(ADVICE)

    def image_count(self) -> int | None:
        """Return the number of images in the listing; None if there are tars or videos, which do not tell."""
        count = 0
        for shard in self.shards():
            path, error, _ = shard.listed[0]
            if self.selection.is_shard(path) and not error:
                return None
            count += len(shard.listed)
        return count

    def check_there(self, path: str, error: str | None) -> None:
        """Raise RemoteError if an image is missing because its source has vanished, as with its drive."""
        if error == MISSING:
            check_there(self.sources, path)

    def unchanged(self, shards: Iterable[Shard]) -> Iterator[Entry]:
        """Yield the entries of `shards`. Raises TableError for a tar or video that has changed since it was
        listed, RemoteError for one that has vanished."""
        for shard in shards:
            for path, error, then in shard.listed:
                # a signature may have expired since
                entry = Entry(self._signed.get(without_secrets(path), path), error)
                now = stamp(entry, self.selection)
                if then and not now:
                    raise RemoteError(unreadable(path, MISSING))
                if then != now:
                    raise TableError(
                        f"{path} has changed since the work on {self.out} began; delete {self.traces()} "
                        "to start over"
                    )
                yield entry

    def part(self, number: int, suffix: str) -> Path:
        """Return the path of a part."""
        return self.folder / f"part-{number:08d}{suffix}"

    def drop_parts(self, has_failed: Callable[[Path], bool]) -> None:
        """Delete the first part that `has_failed` and those after it, so that they are made again."""
        parts = self.parts()
        for number, part in enumerate(parts):
            if has_failed(part):
                _logger.warning("%s: retrying files that were missing and exist now", self.out)
                for later in reversed(parts[number:]):  # a kill must not leave a gap
                    later.unlink()
                return

    def parts(self) -> list[Path]:
        """Return the finished parts, in order."""
        return sorted(self.folder.glob("part-*"))

    def release_when(self, is_whole: Callable[[], bool]) -> None:
        """Note that this process has done its share. The job's state goes where the output `is_whole` once no
        process is at work."""
        self._is_whole = is_whole


def cut(entries: Iterable[Entry], selection: Selection) -> Iterator[list[Listed]]:
    """Yield what a listing has of each shard, in its order."""
    files: list[Listed] = []
    for entry in entries:
        is_shard = selection.is_shard(entry.path) and not entry.error
        if files and (is_shard or len(files) == FILES_PER_SHARD):
            yield files
            files = []
        if is_shard:
            yield [(*entry, stamp(entry, selection))]
        else:
            files.append((*entry, None))
    if files:
        yield files


def check_same(out: Path, previous: Mapping[str, Any], wanted: Mapping[str, Any], delete: str) -> None:
    """Raise OptionError that names the first difference between the description of a job and a call's."""
    for name, value in wanted.items():
        if previous.get(name) != value:
            raise OptionError(
                f"{out} was made {_difference(name, previous.get(name), value)}"
                f"{if_replaced(previous.get(name), value)}; repeat the command as it was, choose another "
                f"output, or delete {delete}"
            )


def if_replaced(previous: Any, value: Any) -> str:
    """A hint if two spaces of embeddings, `MODEL BRANCH/POOL (HASH)`, differ by their hashes alone."""
    if not all(isinstance(space, str) and space.endswith(")") for space in (previous, value)):
        return ""
    same = previous.rpartition(" (")[0] == value.rpartition(" (")[0]
    return ": the weights of this name have been replaced since, or are used at another size" if same else ""


def _difference(name: str, previous: Any, value: Any) -> str:
    if isinstance(value, bool) or isinstance(previous, bool):
        return f"{'with' if previous else 'without'} --{name.replace('_', '-')}"
    link = "from" if name == "sources" else f"with {name}"
    return f"{link} {_in_words(previous)}, not {_in_words(value)}"


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(item)}" for name, item in value.items())
    return ", ".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
