"""Processes that read and decode images, started again when one dies, ended when one hangs."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from facepcl.data.sources import Item
from facepcl.data.worker_main import request, write_line
from facepcl.errors import ReaderError, RemoteError
from facepcl.images.cropper import Alignment
from facepcl.images.face import Face
from facepcl.images.transform import Transform

SECONDS_AN_IMAGE = 60.0  # a decoder that is silent for longer is taken to hang
PIPE_BYTES = 1 << 20  # what an ordinary user may have
TRIES = 3  # of an image on which a reader died: it need not have been the image's fault

# A reader is a plain child that talks over its pipes, not one of multiprocessing's: those start the user's
# own script again, and with it torch.
_BOOT = """
import json, sys
setup = json.loads(sys.stdin.buffer.readline())
sys.path[:] = setup["path"]
from facepcl.data.worker_main import serve
serve(setup["transform"], setup["alignment"])
"""


def _import_path() -> list[str]:
    """Where a worker imports from: as here, but the working folder, which may hold anybody's `json.py`."""
    here = os.getcwd()
    package = str(Path(__file__).resolve().parents[2])
    return [*(path for path in sys.path if path and os.path.abspath(path) != here), package]


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

    @property
    def pid(self) -> int | None:
        """The process, if it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process; it gets ready while others work."""
        setup: dict[str, Any] = {"path": _import_path()}
        setup["transform"] = self._transform.to_json()
        setup["alignment"] = self._alignment and self._alignment.to_json()
        command = [sys.executable, "-I", "-c", _BOOT]  # isolated: no file of the working folder is imported
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
                self.kill()  # its other answers are nobody's
                self.close()
                raise
        return done

    def _make_ready(self) -> None:
        """Without this a process that never starts would be taken for millions of bad images."""
        for last in (False,) * (TRIES - 1) + (True,):
            if self._process is None:
                self.start()
            try:
                while not self._is_ready:
                    self._is_ready = b'"ready"' in self._receive()  # whatever the interpreter prints before
                return
            except (OSError, EOFError) as error:
                reason = self._end()
                if last:
                    raise ReaderError(f"the process that reads images does not start: {reason}") from error

    def _answer(self, path: str) -> Prepared:
        answer = json.loads(self._receive())
        if "failure" in answer:
            raise RemoteError(answer["failure"])
        if "error" in answer:
            return Prepared(path, error=answer["error"])
        faces = tuple(map(Face.from_numbers, answer["faces"])) if "faces" in answer else None
        shape = self._transform.shape if faces is None else (len(faces), *self._transform.shape)
        pixels = np.empty(shape, np.uint8)
        if pixels.nbytes and self._answers.readinto(pixels.data) < pixels.nbytes:
            raise EOFError
        return Prepared(path, pixels, tuple(answer["size"]), faces=faces)

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
        with suppress(subprocess.TimeoutExpired):  # one that is ending by itself tells why
            cast(subprocess.Popen[bytes], self._process).wait(1)
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
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not sent cannot be flushed any more
                cast(BinaryIO, pipe).close()
        return code


def _widen(pipe: BufferedReader) -> None:
    """Let answers to a whole request lie in the pipe (Linux): each time it is full both sides take turns."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Readers:
    """`with Readers(transform, count) as readers: future = readers.submit(items)`."""

    def __init__(self, transform: Transform, count: int, alignment: Alignment | None = None):
        self._all = [Reader(transform, alignment) for _ in range(count)]
        self._idle: SimpleQueue[Reader] = SimpleQueue()
        self._threads = ThreadPoolExecutor(count, "facepcl-reader")
        self._stop = threading.Event()

    def __enter__(self) -> "Readers":
        for reader in self._all:
            reader.start()
            self._idle.put(reader)
        threading.Thread(target=self._watch, name="facepcl-watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for reader in self._all:
            reader.kill(for_good=True)
        self._threads.shutdown(cancel_futures=True)
        for reader in self._all:
            reader.close()

    def submit(self, items: Sequence[Item]) -> Future[list[Prepared]]:
        """`Reader.prepare(items)` by whichever reader is free next."""
        return self._threads.submit(self._prepare, items)

    def _prepare(self, items: Sequence[Item]) -> list[Prepared]:
        reader = self._idle.get()
        try:
            return reader.prepare(items)
        finally:
            self._idle.put(reader)

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            for reader in self._all:
                reader.end_if_late()
