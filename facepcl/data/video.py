"""Frames of videos by PyAV (extra `video`), which is imported when the first video is met."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache, partial
from typing import Any

import numpy as np

from facepcl.errors import ImageError, MissingExtra, require
from facepcl.images.decode import check_pixels, max_pixels
from facepcl.utils.storage import RetriedFile

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
VIDEO_EXTRA = "pip install 'facepcl[video]'"
MOST_FPS = 240.0  # what phones record in slow motion; paths tell frames apart to a millisecond

# The others open files and addresses that a video names, such as playlists.
_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,asf,flv"
_BUFFER = 1 << 18  # bytes that are read together
_ROUNDING = 0.001  # seconds by which Matroska rounds the time of a frame
_MISSING = 0.5  # seconds that a whole video may end before the time it states
_ASPECTS = (0.25, 4.0)  # of a pixel; others are taken for damage
_FRAME = re.compile(
    rf"(.+(?:{'|'.join(map(re.escape, VIDEO_SUFFIXES))}))/(\d+\.\d{{3}})s", re.IGNORECASE | re.DOTALL
)


def frame_path(video: str, seconds: float) -> str:
    """The path of a frame: the video, and its time from the first frame, as in `clip.mp4/12.400s`."""
    return f"{video}/{seconds:.3f}s"


def video_of(path: str) -> str | None:
    """The video that the path of a frame leads into; None for any other path."""
    match = _FRAME.fullmatch(path)
    return match and match[1]


def time_of(path: str) -> float | None:
    """The seconds from the first frame that the path of a frame names; None for any other path."""
    match = _FRAME.fullmatch(path)
    return match and float(match[2])


def clock(seconds: float) -> str:
    """A time as 12 s, 0.5 s or 2:05."""
    if seconds >= 120:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    return f"{seconds:.4g} s"


@cache
def can_read_videos() -> bool:
    """Whether the extra is installed."""
    try:
        require("av", "video")
    except MissingExtra:
        return False
    return True


def read_frames(video: str, fps: float) -> Iterator[tuple[float, Callable[[], bytes]]]:
    """At most `fps` frames a second: for each multiple of 1/`fps` seconds the first frame at or after it,
    with its time and a function that encodes it, without loss and without compression.

    The function raises ImageError for a frame that has too many pixels once they are square. Raises
    ImageError if the file is no video, is cut off or damaged, after the frames that can be read; OSError if
    it cannot be opened, RemoteError if its drive fails, MissingExtra.
    """
    start, due = None, 0  # the number of the sample that is next
    for seconds, frame, aspect in _all_frames(require("av", "video"), video):
        start = seconds if start is None else start
        sample = int((seconds - start + _ROUNDING) * fps)
        if sample >= due:
            due = sample + 1
            yield seconds - start, partial(_encoded, frame, aspect)


def _all_frames(av: Any, video: str) -> Iterator[tuple[float, Any, float]]:
    """Yield the time of each frame, the frame and the aspect of its pixels."""
    last = float("-inf")
    # several threads are quicker, but lose frames beside a damaged packet: from there on one decodes
    for threads in ("AUTO", "NONE"):
        with _opened(av, video, threads) as decoder:
            for seconds, frame in decoder.frames():
                if seconds > last:
                    last = seconds
                    yield seconds, frame, decoder.aspect
            if not decoder.is_damaged or threads == "NONE":
                decoder.check_end()
                return


@contextmanager
def _opened(av: Any, video: str, threads: str) -> Iterator["_Decoder"]:
    options = {"format_whitelist": _FORMATS}
    try:
        with (
            closing(RetriedFile(video)) as file,
            av.open(file, options=options, metadata_errors="ignore", buffer_size=_BUFFER) as container,
        ):
            yield _Decoder(av, container, threads)
    except av.error.ArgumentError as error:  # of a format that is not in the list
        raise ImageError("it is in another format") from error
    except av.error.FFmpegError as error:
        raise ImageError(error.strerror or str(error)) from error


class _Decoder:
    """The frames of the video stream of a container, and whether it is whole."""

    def __init__(self, av: Any, container: Any, threads: str):
        self._av, self._container, self._threads = av, container, threads
        self._stream = container.streams.best("video")
        if self._stream is None or self._stream.disposition & av.stream.Disposition.attached_pic:
            raise ImageError("it has no video stream")
        context = self._stream.codec_context
        if context is None:
            raise ImageError("FFmpeg does not support its codec")
        context.thread_type = threads
        check_pixels(context.width, context.height)
        context.options = {"max_pixels": str(max_pixels())}  # of frames that say they are larger
        self._end = 0.0  # seconds that were read
        self._frames, self._damaged, self._is_cut = 0, 0, False
        aspect = float(self._stream.sample_aspect_ratio or 1)
        self.aspect = aspect if _ASPECTS[0] <= aspect <= _ASPECTS[1] else 1.0

    def frames(self) -> Iterator[tuple[float, Any]]:
        """Yield each frame with its time. Packets that are damaged are left out, and counted; with several
        threads the first of them is the end."""
        seconds = -1.0
        for packet in self._container.demux(self._stream):
            self._note(packet)
            for frame in self._decoded(packet):
                self._frames += 1
                seconds = self._time(frame, seconds)
                yield seconds, frame
            if self.is_damaged and self._threads != "NONE":
                return

    @property
    def is_damaged(self) -> bool:
        return bool(self._is_cut or self._damaged)

    def _decoded(self, packet: Any) -> list[Any]:
        if packet.is_corrupt and self._threads != "NONE":
            return []
        try:
            return list(packet.decode())
        except self._av.error.FFmpegError:
            self._damaged += 1
            return []

    def _note(self, packet: Any) -> None:
        self._is_cut = self._is_cut or packet.is_corrupt
        if packet.pts is not None:
            end = packet.pts + (packet.duration or 0)
            self._end = max(self._end, float(end * packet.time_base))

    def _time(self, frame: Any, before: float) -> float:
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None:  # as in some .avi
            return before + 1 / float(self._stream.average_rate or 25) if before >= 0 else 0.0
        return float(stamp * frame.time_base)

    def check_end(self) -> None:
        """Raise ImageError if the video has no frames, or ends before it should, or parts are damaged."""
        if self._damaged and not self._is_cut:
            raise ImageError(f"damaged packets: {self._damaged:,}")
        if not self._frames:
            raise ImageError("it has no frames")
        whole = self._stated_end()
        if self._is_cut or whole - self._end > _MISSING:
            raise ImageError(f"it is cut off after {self._end:.1f} of {max(whole, self._end):.1f} s")

    def _stated_end(self) -> float:
        """The time at which the stream should end; 0 if the file does not say."""
        stream = self._stream
        if stream.duration:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        # Matroska's tag, which counts from 0 wherever the stream starts
        stated = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if stated is None:
            return 0.0
        hours, minutes, seconds = map(float, stated.groups())
        return 3600 * hours + 60 * minutes + seconds


def _encoded(frame: Any, aspect: float) -> bytes:
    """A frame upright and with square pixels as PPM: half the cost of BMP."""
    width = max(1, round(frame.width * aspect))
    check_pixels(width, frame.height)
    pixels = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
    pixels = np.rot90(pixels, round(frame.rotation / 90) % 4)
    height, width = pixels.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()
