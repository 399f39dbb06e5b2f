"""Processes that read and decode images, started again when one dies, ended when one hangs."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from queue import LifoQueue
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from facepcl.data.sources import Item
from facepcl.data.worker_main import answerer, request, write_line
from facepcl.errors import OptionError, ReaderError, RemoteError
from facepcl.images.cropper import Alignment
from facepcl.images.decode import max_pixels
from facepcl.images.face import Face
from facepcl.images.transform import Transform
from facepcl.utils.interpreter import find_interpreter

_logger = logging.getLogger("facepcl")

SECONDS_AN_IMAGE = 60.0  # a decoder that is silent for longer is taken to hang
SECONDS_A_READ = 45.0  # then its drive is taken to hang; shorter, so that the reader reports it itself
SECONDS_TO_END = 10.0
PIPE_BYTES = 1 << 20  # what an ordinary user may have
TRIES = 3  # of an image on which a reader died: it need not have been the image's fault

# A reader is a plain child that talks over its pipes, not one of multiprocessing's: those start the user's
# own script again, and with it torch.
_BOOT = """
import json, sys
setup = json.loads(sys.stdin.buffer.readline())
sys.path[:] = setup["path"]
from facepcl.data.worker_main import serve
serve(setup["transform"], setup["alignment"], setup["seconds_to_read"])
"""


def _import_path() -> list[str]:
    """Where a worker imports from: as here, but for the working folder, which may hold anybody's `json.py`,
    and the folder of the user's script, whose `types.py` is not meant for us."""
    package = str(Path(__file__).resolve().parents[2])
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    excluded = {os.path.realpath(os.path.dirname(script))} & {os.path.realpath(sys.path[0])}
    with suppress(OSError):  # the working folder was deleted
        excluded.add(os.path.realpath(os.getcwd()))
    folders = [p for p in sys.path if isinstance(p, str) and os.path.isabs(p)]  # Python ignores other types
    return [*(p for p in folders if os.path.realpath(p) not in excluded), package]


class Prepared(NamedTuple):
    """One image on its way: its pixels uint8 `[H, W, 3]` and the size of the file's picture, or a reason;
    of a photo its `faces`, and the pixels of each, `[K, H, W, 3]`."""

    path: str
    pixels: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    error: str | None = None
    faces: tuple[Face, ...] | None = None


class Reader:
    """One process that applies `transform` to images or, with an `alignment`, to the faces in photos.

    It is used by one thread at a time and watched by another.
    """

    def __init__(self, transform: Transform, alignment: Alignment | None = None):
        self._transform, self._alignment = transform, alignment
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._deadline = float("inf")
        self._late = self._closed = False
        self._is_ready = False

    def start(self) -> None:
        """Start the process; it gets ready while others work."""
        setup: dict[str, Any] = {"path": _import_path(), "seconds_to_read": SECONDS_A_READ}
        setup["transform"] = asdict(self._transform)
        setup["alignment"] = self._alignment and asdict(self._alignment)
        # isolated: no file of the working folder is imported
        command = [find_interpreter() or "", "-I", "-c", _BOOT]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._closed:  # meanwhile, by another thread
            self.kill()
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BufferedReader, self._process.stdout)
        self._is_ready = False
        _widen(self._answers)
        with suppress(OSError):  # it will not get ready then; on Windows the pipe is not broken, but invalid
            write_line(self._requests, setup)
            self._requests.flush()

    def prepare(self, items: Sequence[Item]) -> list[Prepared]:
        """The images of `items` in order. A process that dies is replaced, and its images are done again.

        Raises RemoteError if the storage of an image keeps failing.
        """
        done: list[Prepared] = []
        tries, one_by_one = 0, False
        while len(done) < len(items):
            self._make_ready()
            try:
                request(items[len(done) :], one_by_one, self._requests)
                while len(done) < len(items):
                    done.append(self._answer(items[len(done)].path))
                    tries = 0
            except (OSError, EOFError):
                reason, tries = self._end(), tries + 1
                if one_by_one and (self._late or tries == TRIES):
                    done.append(Prepared(items[len(done)].path, error=reason))
                    tries = 0
                self._late, one_by_one = False, True
            except RemoteError:
                self.kill()  # its remaining answers would be taken for those to the next request
                self.close()
                raise
        return done

    def _make_ready(self) -> None:
        """Without this a process that never starts would be taken for millions of bad images."""
        for last in (False,) * (TRIES - 1) + (True,):
            try:
                if self._process is None:
                    self.start()
                while not self._is_ready:
                    self._is_ready = b'"ready"' in self._receive()  # whatever the interpreter prints before
                return
            except (OSError, EOFError) as error:
                reason = self._end()
                if last:
                    raise ReaderError(
                        f"the decoding process does not start: {reason}; workers=0 decodes images "
                        "in this process"
                    ) from error

    def _answer(self, path: str) -> Prepared:
        prepared = _prepared(path, json.loads(self._receive()), self._transform)
        pixels = prepared.pixels
        if pixels is not None and pixels.nbytes and self._answers.readinto(pixels.data) < pixels.nbytes:
            raise EOFError
        return prepared

    def _receive(self) -> bytes:
        self._deadline = time.monotonic() + SECONDS_AN_IMAGE
        line = self._answers.readline()
        with self._lock:
            self._deadline = float("inf")
            if not line.endswith(b"\n"):
                raise EOFError
            self._late = False  # an answer at the last moment; if the process was killed, it is replaced
        return line

    def end_if_late(self) -> None:
        """Kill a process that has been silent for too long."""
        with self._lock:
            if time.monotonic() > self._deadline:
                self._late = True
                self.kill()

    def _end(self) -> str:
        """Clear away a process that died; says how it ended."""
        if self._closed:
            raise CancelledError
        if self._process is None:
            return "the system starts no process"
        with suppress(subprocess.TimeoutExpired):  # one that is ending by itself tells why
            self._process.wait(1)
        self.kill()
        code = self.close()
        if self._late:
            return f"not decoded within {SECONDS_AN_IMAGE:g} s"
        return f"the process that decoded it died ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    def kill(self, for_good: bool = False) -> None:
        """End the process whatever it does; `for_good`: the thread that asks it gets a CancelledError."""
        self._closed = self._closed or for_good
        if process := self._process:
            process.kill()

    def close(self) -> int:
        """Wait for the end of a killed process and clear it away; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            code = process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:  # a read from a drive that hangs may outlast a kill
            code = -9
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not sent cannot be flushed any more
                cast(BinaryIO, pipe).close()
        return code


def _prepared(path: str, answer: dict[str, Any], transform: Transform) -> Prepared:
    """The answer of a reader about an image, with room for its pixels."""
    if "failure" in answer:
        raise RemoteError(answer["failure"])
    if "error" in answer:
        return Prepared(path, error=answer["error"])
    faces = tuple(map(Face.from_numbers, answer["faces"])) if "faces" in answer else None
    shape = transform.shape if faces is None else (len(faces), *transform.shape)
    return Prepared(path, np.empty(shape, np.uint8), tuple(answer["size"]), faces=faces)


class LocalReader:
    """What `Reader` does, in the thread that calls: it cannot be ended, and a crash is this process's."""

    def __init__(self, transform: Transform, alignment: Alignment | None = None):
        self._transform = transform
        self._answer = answerer(transform, alignment)
        self._closed = False

    def prepare(self, items: Sequence[Item]) -> list[Prepared]:
        """The images of `items` in order."""
        return [self._one(item) for item in items]

    def _one(self, item: Item) -> Prepared:
        if self._closed:
            raise CancelledError
        answer, data = self._answer(item)
        prepared = _prepared(item.path, answer, self._transform)
        if prepared.pixels is not None:
            prepared.pixels.ravel()[:] = np.frombuffer(data, np.uint8)
        return prepared

    def end_if_late(self) -> None:
        """Threads cannot be ended."""

    def kill(self, for_good: bool = False) -> None:
        """Have the thread that waits end after its image, with a CancelledError."""
        self._closed = for_good

    def close(self) -> None:
        """There is nothing to clear away."""


def _widen(pipe: BufferedReader) -> None:
    """Let answers to a whole request lie in the pipe (Linux): each time it is full both sides take turns."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Readers:
    """`with Readers(transform, count) as readers: future = readers.submit(items)`.

    At most `count` processes, each started when there is work for it; with 0, or where there is no Python
    interpreter to start, images are decoded by threads of this process.
    """

    def __init__(self, transform: Transform, count: int, alignment: Alignment | None = None):
        max_pixels()  # raises if it is no number, which is not the fault of each image
        kind: type[Reader] | type[LocalReader] = Reader if count and find_interpreter() else LocalReader
        if count and kind is LocalReader:
            _logger.warning(
                "sys.executable is %r, not a Python interpreter that could decode images in processes of "
                "their own: they are decoded in this process, which a damaged file may crash",
                sys.executable,
            )
        self._all = [kind(transform, alignment) for _ in range(max(1, count))]
        self._idle: LifoQueue[Reader | LocalReader] = LifoQueue()  # the one that runs already is next
        for reader in reversed(self._all):
            self._idle.put(reader)
        self._threads = ThreadPoolExecutor(len(self._all), "facepcl-reader")
        self._stop = threading.Event()
        # also when an iterator is abandoned, and at the interpreter's exit, where modules are gone early
        self._end = weakref.finalize(self, _end_readers, self._all, self._threads, self._stop)

    def __enter__(self) -> "Readers":
        threading.Thread(
            target=_watch, args=(self._all, self._stop), name="facepcl-watch", daemon=True
        ).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def submit(self, items: Sequence[Item]) -> Future[list[Prepared]]:
        """`Reader.prepare(items)` by whichever reader is free next."""
        return self._threads.submit(_prepare, self._idle, items)


def check_workers(count: int | None) -> None:
    """Raise OptionError unless so many readers can be asked for; None leaves it to the package."""
    if count is not None and count < 0:
        raise OptionError(f"workers must be at least 0 (0: decode in this process), not {count}")


def _prepare(idle: "LifoQueue[Reader | LocalReader]", items: Sequence[Item]) -> list[Prepared]:
    reader = idle.get()
    try:
        return reader.prepare(items)
    finally:
        idle.put(reader)


def _watch(readers: Sequence[Reader | LocalReader], stop: threading.Event) -> None:
    while not stop.wait(1.0):
        for reader in readers:
            reader.end_if_late()


def _end_readers(
    readers: Sequence[Reader | LocalReader], threads: ThreadPoolExecutor, stop: threading.Event
) -> None:
    stop.set()
    for reader in readers:
        reader.kill(for_good=True)
    threads.shutdown(cancel_futures=True)
    for reader in readers:
        reader.close()
