"""Videos that PyAV writes, and one of a rendered head that turns."""

import math
from fractions import Fraction
from functools import cache
from unittest import mock

import av
import numpy as np
from PIL import Image

from facepcl.images.face import LANDMARKS
from facepcl.images.geometry import cut_to_size, square_around

_TICKS = 90_000  # a second, as MPEG counts
_STANDARDS = {"bt601": (5, 0.299, 0.114), "bt709": (1, 0.2126, 0.0722)}  # FFmpeg's number; red, blue in Y
# The first two rows of the matrix in an .mp4's track header, for a picture that is shown turned clockwise
_TURNS = {0: (1, 0, 0, 0, 1, 0), 90: (0, 1, 0, -1, 0, 0), 180: (-1, 0, 0, 0, -1, 0), 270: (0, -1, 0, 1, 0, 0)}


def write_video(
    path, frames, fps=10, times=None, turned=0, codec="libx264", aspect=None, colours="bt601", levels=220
):
    """Write `frames`, uint8 `[H, W, 3]`, at `times` in seconds, or `fps` a second. A player shows them
    `turned` clockwise (.mp4, .mov), with pixels as wide as `aspect`. `levels` of grey are 220 as on
    television, or 256. The index of an .mp4 comes first, as on the web."""
    time_base = Fraction(1, fps if times is None else _TICKS)
    times = [number / fps for number in range(len(frames))] if times is None else times
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "8", "preset": "veryfast"}
        else:
            stream.bit_rate = 4_000_000
        stream.time_base = stream.codec_context.time_base = time_base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        stream.codec_context.colorspace = _STANDARDS[colours][0]
        stream.codec_context.color_range = 1 if levels == 220 else 2
        for pixels, seconds in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(_yuv(pixels, *_STANDARDS[colours][1:], levels), "yuv420p")
            frame.time_base, frame.pts = time_base, round(seconds / time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if turned:
        _turn(path, turned)
    return path


def _yuv(pixels, red, blue, levels):
    """Planes of Y, Cb and Cr by the formula of ITU-R BT.601 and BT.709, one below the other."""
    r, g, b = np.moveaxis(pixels.astype(float), 2, 0) / 255
    y = red * r + (1 - red - blue) * g + blue * b
    halves = [
        (part - y).reshape(y.shape[0] // 2, 2, y.shape[1] // 2, 2).mean((1, 3)) / (2 * (1 - share))
        for part, share in ((b, blue), (r, red))
    ]
    dark, spread = (16, 224) if levels == 220 else (0, 255)
    planes = [dark + (levels - 1) * y, *(128 + spread * half for half in halves)]
    return (
        np.concatenate([plane.ravel() for plane in planes])
        .clip(0, 255)
        .round()
        .astype(np.uint8)
        .reshape(-1, y.shape[1])
    )


def _turn(path, degrees):
    """Replace the matrix of the track's header: the truth of a phone's file, whatever PyAV's signs are."""
    data = path.read_bytes()
    before, after = (
        b"".join((value << 16).to_bytes(4, "big", signed=True) for value in _TURNS[turn])
        for turn in (0, degrees)
    )
    place = data.index(before, data.index(b"tkhd"))
    path.write_bytes(data[:place] + after + data[place + len(after) :])


def write_sound(path):
    """Write a second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        for start in range(0, 16_000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def greys(count, size=(64, 48)):
    """Frames that differ: each is one grey, 0, 20, 40 and so on; black again after 240."""
    return [np.full((size[1], size[0], 3), 20 * (number % 13), np.uint8) for number in range(count)]


def write_turning_head(path, fps=10, seconds=10, identity=3):
    """Write a video of one rendered person, a face crop of 96 px, who turns the head from -45 to 45 degrees
    of yaw and back; returns the yaw of each frame."""
    frames, yaws = _turning_head(fps * seconds, identity)
    write_video(path, frames, fps)
    return yaws


def _crop(pixels, landmarks):
    """The face as the weights expect it."""
    square = square_around([landmarks[name] for name in LANDMARKS], turn=False)
    return np.asarray(cut_to_size(Image.fromarray(pixels), square, pixels.shape[0]))


@cache
def _turning_head(count, identity):
    from synthetic_faces import generator, pose

    # the way back shows the same pictures: half of them are rendered
    yaws = [-45 * math.cos(2 * math.pi * number / count) for number in range(count)]
    series = [pose.Pose(yaw, 0.0, 0.0) for yaw in yaws[: count // 2 + 1]]
    with (
        mock.patch.object(pose, "SERIES", series),
        mock.patch.object(generator, "SERIES_LENGTH", len(series)),
    ):
        maker = generator.Generator(seed=7, size=96)
        rendered = [maker.image(identity, number, "pose") for number in range(len(series))]
    pictures = [_crop(pixels, labels["landmarks"]) for pixels, labels in rendered]
    assert [labels["yaw"] for _, labels in rendered] == [round(place.yaw, 3) for place in series]
    return [pictures[min(number, count - number)] for number in range(count)], yaws
