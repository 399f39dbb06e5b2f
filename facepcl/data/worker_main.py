"""What runs in a reader process: files or bytes come in, pixels or reasons go out; of a photo the
pixels of its faces.

Nothing here imports torch: a reader starts in a fraction of a second and takes 40 MB.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, BinaryIO

from PIL import Image

from facepcl.data.sources import Item
from facepcl.errors import FacepclError, MissingPath, RemoteError, one_line
from facepcl.images.cropper import Alignment, FaceCutter
from facepcl.images.decode import decode, decode_reduced, quiet_pillow
from facepcl.images.face import Face
from facepcl.images.geometry import Square, cut_square
from facepcl.images.transform import Transform
from facepcl.utils.storage import MISSING, unreadable
from facepcl.utils.streams import repair_streams

SECONDS_BETWEEN_ANSWERS = 0.25
Answer = tuple[dict[str, Any], bytes]  # the JSON line about an image, and its pixels


def serve(transform: dict[str, Any], alignment: dict[str, Any] | None, seconds_to_read: float) -> None:
    """Answer requests on standard input until it ends, each with an answer for each of its items: its pixels
    by `transform`, or, with an `alignment`, its faces. A file that takes longer to read is a failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    repair_streams()
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    nothing = os.open(os.devnull, os.O_WRONLY)
    Image.init()  # all formats now, not when the first odd file comes
    if alignment and alignment["detector"]:
        import cv2

        cv2.setNumThreads(1)  # there are as many readers as there are cores for them
    watch = _ReadWatch(answers, seconds_to_read)
    answer = answerer(Transform(**transform), Alignment(**alignment) if alignment else None, watch.reading)
    with suppress(OSError):  # whoever asks was killed meanwhile; its requests end, too
        write_line(answers, {"ready": os.getpid()})
        answers.flush()
    for stream in (1, 2):  # codecs print; their words must be neither among the answers nor on a terminal
        os.dup2(nothing, stream)
    with quiet_pillow():
        while line := sys.stdin.buffer.readline():
            asked = json.loads(line)
            sent = time.monotonic()
            for item in _received(asked["items"], sys.stdin.buffer):
                write_line(answers, *answer(item))
                if asked["one_by_one"] or time.monotonic() > sent + SECONDS_BETWEEN_ANSWERS:
                    answers.flush()
                    sent = time.monotonic()
            answers.flush()


class _ReadWatch:
    """Reports a failure and ends this process when a read hangs, as on a network drive whose server is gone.
    The parent process could not tell that from an image on which a decoder hangs."""

    def __init__(self, answers: BinaryIO, seconds: float):
        self._answers, self._seconds = answers, seconds
        self._lock = threading.Lock()
        self._path, self._deadline = "", float("inf")
        threading.Thread(target=self._run, name="facepcl-read-watch", daemon=True).start()

    @contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Watch the read of a file."""
        with self._lock:
            self._path, self._deadline = path, time.monotonic() + self._seconds
        try:
            yield
        finally:
            with self._lock:
                self._deadline = float("inf")

    def _run(self) -> None:
        while True:
            time.sleep(min(1.0, self._seconds))
            with self._lock:
                if time.monotonic() > self._deadline:
                    reason = unreadable(self._path, f"no answer for {self._seconds:g} s")
                    with suppress(OSError):
                        write_line(self._answers, {"failure": reason})
                        self._answers.flush()
                    os._exit(1)


def request(items: Sequence[Item], one_by_one: bool, to: BinaryIO) -> None:
    """Ask for `items`: a line of JSON with paths, sizes and reasons, then the bytes that were read already.

    Answers come together, which costs less, or `one_by_one`: then it is clear on which image a reader dies.
    """
    lengths = [None if item.data is None else len(item.data) for item in items]
    lines = [
        [i.path, length, i.error, i.square, i.faces and [face.numbers() for face in i.faces]]
        for i, length in zip(items, lengths, strict=True)
    ]
    write_line(to, {"items": lines, "one_by_one": one_by_one}, b"".join(item.data or b"" for item in items))
    to.flush()


def _received(lines: list[list[Any]], source: BinaryIO) -> list[Item]:
    # The request is read to its end before the first answer: then neither side waits for the other.
    return [
        Item(
            path,
            None if length is None else source.read(length),
            error,
            square and Square(*square),
            None if faces is None else tuple(map(Face.from_numbers, faces)),
        )
        for path, length, error, square, faces in lines
    ]


def answerer(
    transform: Transform,
    alignment: Alignment | None,
    reading: Callable[[str], AbstractContextManager[None]] = lambda path: nullcontext(),
) -> Callable[[Item], Answer]:
    """What answers for an item: its pixels by `transform` or, with an `alignment`, those of its faces. Files
    are read within `reading(path)`."""
    prepare = (
        partial(_answer_faces, FaceCutter(alignment, transform)) if alignment else partial(_answer, transform)
    )

    def answer(item: Item) -> Answer:
        try:
            with reading(item.path):
                data = item.read()
            return prepare(item, data)
        except RemoteError as error:  # the storage fails, not the image
            return {"failure": str(error)}, b""
        except MissingPath:  # its path is in the row already
            return {"error": MISSING}, b""
        except FacepclError as error:
            return {"error": str(error)}, b""
        except Exception as error:  # whatever it is, it is this image's, and the next ones wait
            return {"error": f"cannot be prepared: {one_line(error)}"}, b""

    return answer


def _answer(transform: Transform, item: Item, data: bytes) -> Answer:
    """The size of the file's picture, and the pixels of it, or of the square that is wanted."""
    if item.square:
        image = decode(data)
        return {"size": image.size}, transform(cut_square(image, item.square)).tobytes()
    picture = decode_reduced(data, transform.needed)
    return {"size": picture.size}, transform(*picture).tobytes()


def _answer_faces(cutter: FaceCutter, item: Item, data: bytes) -> Answer:
    size, faces, crops = cutter.of_file(data, item.faces)
    return {"size": size, "faces": [face.numbers() for face in faces]}, crops.tobytes()


def write_line(to: BinaryIO, value: Any, data: bytes = b"") -> None:
    """A line of JSON, and `data` behind it."""
    to.write(json.dumps(value).encode() + b"\n" + data)
