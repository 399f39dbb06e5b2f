"""Writing faces into tar shards (WebDataset layout): NAME.jpg and NAME.json, whole files only."""

import io
import json
import multiprocessing
import signal
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from facepcl.errors import MissingPath, OptionError
from facepcl.utils.files import atomic, write_text
from facepcl.utils.progress import Progress
from facepcl.utils.signals import until_interrupted
from synthetic_faces.generator import Generator
from synthetic_faces.sensor import jpeg

OPTIONS_FILE = "faces.json"  # what a folder of shards was made of
Row = tuple[str, bytes, bytes]  # name, JPEG, JSON


@dataclass(frozen=True)
class Job:
    """What to make: `images` of each of `people` people from number `start` on (in each of `series`)."""

    people: int = 100
    images: int = 5
    size: int = 96
    seed: int = 0
    start: int = 0
    quality: int = 85
    series: tuple[str, ...] = ()
    shard_images: int = 5000

    def check(self) -> None:
        """Raise OptionError for numbers that cannot be."""
        limits = {
            "people": (1, 10**6),
            "images": (1, 1000),
            "size": (32, 512),
            "seed": (0, 2**32 - 1),
            "start": (0, 10**6),
            "quality": (1, 100),
            "shard_images": (1, 10**6),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                option = name.replace("_", "-")
                raise OptionError(f"--{option} {value}: give a number from {low} to {high}")

    @property
    def images_of_person(self) -> int:
        return self.images * max(1, len(self.series))

    def identities(self) -> range:
        return range(self.start, self.start + self.people)


def write_faces(out: Path, job: Job, workers: int = 1, progress: bool = False) -> list[Path]:
    """The shards: `out` itself if it is a .tar, else `out`/faces-00000.tar, ...; those there are kept.

    Raises OptionError, or MissingPath, before any work is done.
    """
    job.check()
    if workers < 1:
        raise OptionError(f"--workers {workers}: give 1 or more")
    shards = _plan(out, job)
    missing = {path: people for path, people in shards.items() if not path.is_file()}
    total = job.images_of_person * sum(map(len, missing.values()))
    if not missing:
        return list(shards)
    with (
        until_interrupted() as interrupted,
        _makers(job, workers) as make,
        Progress(total, "images", progress) as bar,
    ):
        people = make(identity for identities in missing.values() for identity in identities)
        people = _while_wanted(people, interrupted)
        for path, identities in missing.items():
            with atomic(path) as temporary:
                _write_shard(temporary, (next(people) for _ in identities), bar)
    return list(shards)


def _plan(out: Path, job: Job) -> dict[Path, range]:
    """The people of each shard. Creates the folder and its OPTIONS_FILE."""
    identities = job.identities()
    if out.suffix == ".tar":
        if out.exists():
            raise OptionError(f"{out} is there already: remove it or give another name")
        if not out.absolute().parent.is_dir():
            raise MissingPath(f"{out.absolute().parent}: there is no such folder to write to")
        return {out: identities}
    if out.exists() and not out.is_dir():
        raise OptionError(f"{out}: give a folder, or a file that ends in .tar")
    out.mkdir(parents=True, exist_ok=True)
    _same_job(out / OPTIONS_FILE, job)
    step = max(1, job.shard_images // job.images_of_person)
    starts = range(0, job.people, step)
    return {out / f"faces-{k:05d}.tar": identities[s : s + step] for k, s in enumerate(starts)}


def _same_job(path: Path, job: Job) -> None:
    """Note the options, or raise OptionError if the folder holds faces of others."""
    options = json.dumps(asdict(job), indent=1) + "\n"
    if not path.exists():
        write_text(path, options)
    elif path.read_text("utf-8") != options:
        raise OptionError(
            f"{path.parent} holds faces of other options (see {path.name}): give another folder"
        )


def _while_wanted(people: Iterator[list[Row]], interrupted: Callable[[], int]) -> Iterator[list[Row]]:
    """The people until Ctrl-C, which is asked for between two: inside compiled code it could get lost."""
    for rows in people:
        if interrupted():
            raise KeyboardInterrupt
        yield rows


def _write_shard(path: Path, people: Iterable[list[Row]], bar: Progress) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for rows in people:
            for name, picture, labels in rows:
                for end, data in (("jpg", picture), ("json", labels)):
                    member = tarfile.TarInfo(f"{name}.{end}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
            bar.update(len(rows))


@contextmanager
def _makers(job: Job, workers: int) -> Iterator[Callable[[Iterable[int]], Iterator[list[Row]]]]:
    """A function that makes people in order, in this process or in several."""
    maker = _Maker(job)
    if workers == 1:
        yield lambda identities: map(maker.rows, identities)
        return
    maker.rows(job.start)  # compiles once, before the others start
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _start_worker, (job,))
    try:
        yield lambda identities: pool.map(_rows, identities, chunksize=2)
    finally:
        pool.shutdown(cancel_futures=True)


class _Maker:
    """Makes all pictures of one person after another."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._generator = Generator(job.seed, job.size)

    def rows(self, identity: int) -> list[Row]:
        job, rows = self._job, []
        for series in job.series or (None,):
            for image in range(job.images):
                pixels, labels = self._generator.image(identity, image, series)
                name = "-".join([f"{identity:06d}", *([series] if series else []), f"{image:03d}"])
                data = jpeg(pixels, job.quality, optimize=True)
                rows.append((name, data, json.dumps(labels, separators=(",", ":")).encode()))
        return rows


_worker: _Maker | None = None


def _start_worker(job: Job) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    cv2.setNumThreads(1)
    _worker = _Maker(job)


def _rows(identity: int) -> list[Row]:
    return _worker.rows(identity)
