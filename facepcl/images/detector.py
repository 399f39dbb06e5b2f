"""Faces in a photo: OpenCV's YuNet, on a reduced copy, upright and, where it is unsure, turned.

No torch: it runs in the reader processes.
"""

import os
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from facepcl.errors import MissingExtra, MissingPath, OptionError, WeightsError, one_line, require
from facepcl.images.face import Face
from facepcl.utils.files import sha256_file, unwritable_hub_cache

REPOSITORY, FILE = "opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
# Chosen on 90 photos of people (benchmarks/RESULTS.md, "Alignment"). At 640 px faces of 20 px are
# found (95 %; of 30 px all), close-ups too; larger copies cost more and lose the close-ups.
SCORE = 0.7
LONG_SIDE, LONGER_SIDE = 640, 1280
SMALL = 40  # pixels: with a face lower than this there may be others that only the larger copy shows
# A face upside down is found as well, but with landmarks of a face that is upright. What gives it away is its
# score: of 89 upright photos 88 have 0.92 and more, so below that the other three ways up are tried.
SURE = 0.92
SAME = 0.5  # two boxes that share more than this of the smaller one are one face

_CREATING = Lock()  # OpenCV's log level is one for all threads
_BACK = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class Detector:
    """YuNet from the ONNX file at `path`: `Detector(path)(image)`, from any number of threads.

    Raises MissingExtra without OpenCV, OptionError for a file that is not YuNet's.
    """

    def __init__(self, path: str | Path, score: float = SCORE):
        self._cv2 = _opencv()
        self._path, self._score = str(path), score
        self._idle: list[Any] = []  # networks; each keeps the image that it is at, so a thread takes its own
        try:
            self._rows(Image.new("RGB", (64, 64)))  # a network of another kind fails here
        except self._cv2.error as error:
            raise OptionError(f"{path} is not an ONNX file of the face detector YuNet") from error

    def __call__(self, image: Image.Image) -> list[Face]:
        """The faces in an upright RGB image, in its pixels, in no order."""
        small = _at_most(image, LONG_SIDE)
        angle, rows = 0, self._rows(small)
        if _best(rows) < SURE:
            angle, rows = self._other_ways_up(small, rows)
        scale = _scale(small, image)
        faces = _in_upright(rows, angle, small.size) * scale
        if max(image.size) > LONG_SIDE and (not len(rows) or (rows[:, 3] - rows[:, 1]).min() < SMALL):
            larger = _at_most(image, LONGER_SIDE)
            more = _in_upright(self._rows(_turned(larger, angle)), angle, larger.size)
            faces = np.concatenate([faces, _new(more * _scale(larger, image), faces)])
        return [Face.from_numbers(row) for row in faces.tolist()]

    def _other_ways_up(self, image: Image.Image, upright: np.ndarray) -> tuple[int, np.ndarray]:
        """By how many degrees the image is to be turned back, and the faces of it then."""
        ways = {0: upright} | {angle: self._rows(_turned(image, angle)) for angle in _BACK}
        angle = max(ways, key=lambda angle: _best(ways[angle]))  # of equals the first: upright
        return angle, ways[angle]

    def _rows(self, image: Image.Image) -> np.ndarray:
        """Faces as `Face.numbers` `[K, 15]`."""
        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # BGR
        try:
            net = self._idle.pop()
        except IndexError:
            net = self._create()
        net.setInputSize(image.size)
        _, rows = net.detect(pixels)
        self._idle.append(net)
        if rows is None:
            return np.empty((0, 15))
        rows = rows.astype(float)
        rows[:, 2:4] += rows[:, :2]  # left, top, width, height
        return rows

    def _create(self) -> Any:
        logs = self._cv2.utils.logging
        with _CREATING:
            before = logs.setLogLevel(logs.LOG_LEVEL_ERROR)  # it warns of targets that nobody asked for
            try:
                return self._cv2.FaceDetectorYN.create(self._path, "", (LONG_SIDE, LONG_SIDE), self._score)
            finally:
                logs.setLogLevel(before)


def _at_most(image: Image.Image, side: int) -> Image.Image:
    share = side / max(image.size)
    if share >= 1:
        return image
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _scale(small: Image.Image, image: Image.Image) -> np.ndarray:
    """What brings `Face.numbers` from a reduced copy to the image."""
    return np.array([image.width / small.width, image.height / small.height] * 7 + [1.0])


def _best(rows: np.ndarray) -> float:
    return float(rows[:, 14].max()) if len(rows) else 0.0


def _turned(image: Image.Image, angle: int) -> Image.Image:
    return image.transpose(_BACK[angle]) if angle else image


def _in_upright(rows: np.ndarray, angle: int, size: tuple[int, int]) -> np.ndarray:
    """Faces of an image of `size` that was turned back by `angle`, in its own pixels."""
    (width, height), x, y = size, rows[:, 0:14:2], rows[:, 1:14:2]
    ways = {0: (x, y), 90: (width - y, x), 180: (width - x, height - y), 270: (y, height - x)}
    new = rows.copy()
    new[:, 0:14:2], new[:, 1:14:2] = ways[angle]
    corners = new[:, :4].reshape(-1, 2, 2)
    new[:, :4] = np.concatenate([corners.min(1), corners.max(1)], 1)
    return new


def _new(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Those of `rows` that are none of the `known` faces."""
    low, high = np.maximum(rows[:, None, :2], known[:, :2]), np.minimum(rows[:, None, 2:4], known[:, 2:4])
    shared = (high - low).clip(0).prod(2)
    areas = [(r[:, 2:4] - r[:, :2]).prod(1) for r in (rows, known)]
    smaller = np.minimum(areas[0][:, None], areas[1][None])
    return rows[~(shared > SAME * smaller).any(1)]


def _opencv() -> Any:
    """OpenCV. Raises MissingExtra without it, or if it is too old."""
    cv2 = require("cv2", "align")
    if not hasattr(cv2, "FaceDetectorYN"):
        raise MissingExtra("this OpenCV is older than 4.8; type: pip install -U 'facepcl[align]'")
    return cv2


def find_detector(path: str | Path | None = None) -> Path:
    """YuNet's ONNX file: the one at `path`, or that of the Hub, from its cache if it is there.

    Raises MissingExtra without OpenCV, MissingPath if there is no file at `path`, WeightsError if it cannot
    be fetched or is another one.
    """
    _opencv()  # first: it is of no use to fetch what cannot be run
    if path is not None:
        if not Path(path).is_file():
            raise MissingPath(f"{path}: there is no such file; the face detector is {_where()}")
        return Path(path).absolute()  # each process and thread opens it, perhaps in another working folder
    path = _fetch()
    if (digest := sha256_file(path)) != SHA256:
        raise WeightsError(
            f"{path} is not the face detector that facepcl expects: sha256 {digest[:12]}, not {SHA256[:12]}; "
            "delete it to download it again, or pass your own file with --detector PATH (detector=PATH)"
        )
    return path


def _fetch() -> Path:
    from huggingface_hub import hf_hub_download

    from facepcl.utils.progress import hub_progress_bars

    try:
        with hub_progress_bars(False):  # 230 kB need none
            return Path(hf_hub_download(REPOSITORY, FILE))
    except Exception as error:  # offline, no such repository, no room: the Hub's client has many of them
        reason = unwritable_hub_cache(error) or one_line(error).split(". ")[0][:200]
        raise WeightsError(
            f"the face detector could not be downloaded from the Hub ({reason}); get {_where()} and pass its "
            "path with --detector PATH (detector=PATH)"
        ) from error


def _where() -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{FILE} from {endpoint}/{REPOSITORY}"
