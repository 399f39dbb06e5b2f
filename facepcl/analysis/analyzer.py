"""Head pose, expression, action units and identity of faces: `FaceAnalyzer`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from facepcl.analysis.tracks import TRACK
from facepcl.analysis.words import expressions_of
from facepcl.data.video import time_of
from facepcl.embedding.embedder import FaceEmbedder, named_in_errors
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.encoder import IDENTITY, MODEL
from facepcl.errors import OptionError
from facepcl.images.cropper import FaceCutter
from facepcl.images.face import ANGLES, Face, face_columns
from facepcl.images.rotations import angles, rotation
from facepcl.models.branches import Branches
from facepcl.models.heads import Heads, HeadSpec

TIME = "time"  # of a frame, in seconds
POSE, UNITS = "pose", "AU"  # a head, and what the names of action units begin with
EYES = slice(6, 10)  # of FACE_COLUMNS: x and y of the right eye, then of the left one
LIMITS = (
    "expression probabilities are not calibrated; action units were trained on rendered faces and are not "
    "validated on photos"
)


@dataclass(frozen=True, eq=False)  # arrays are neither compared nor hashed
class AnalyzedFace:
    """What `FaceAnalyzer` says of one face.

    Attributes:
        image: Which of the images it is in, counted from 0.
        box: Left, top, right and bottom in pixels of the photo; None for a crop.
        landmarks: x, y of right eye, left eye, nose, right and left mouth corner; None for a crop.
        score: Of the detector, 0 to 1; None for a crop.
        yaw: Degrees; > 0: the nose points to the right of the image.
        pitch: Degrees; > 0: up.
        roll: Degrees; > 0: the head tilts clockwise in the image.
        expression: The most likely expression.
        expressions: The probability of each expression; not calibrated.
        action_units: The intensity of each action unit, 0 to 1; not validated on photos.
        identity: Float32 vector [D] of unit length: the cosine of two says whether they are one person.
    """

    image: int
    box: tuple[float, ...] | None
    landmarks: tuple[tuple[float, float], ...] | None
    score: float | None
    yaw: float
    pitch: float
    roll: float
    expression: str
    expressions: dict[str, float]
    action_units: dict[str, float]
    identity: np.ndarray


class AttributeEmbedder(FaceEmbedder):
    """The identity of faces, and their attributes in the same pass of the network."""

    def __init__(self, model: str | nn.Module = MODEL, fps: float = 0.0, **options: Any):
        if not options.get("align") and (options.get("one") or options.get("detector") is not None):
            raise OptionError("crops need no detector and show one face each: leave out --one and --detector")
        super().__init__(model, IDENTITY, **options)
        self.meta["attributes"] = [TIME, TRACK, *attribute_names(self._heads.specs)]
        self.meta["fps"] = fps or None  # of videos
        self.meta["limits"] = LIMITS

    @property
    def _heads(self) -> Heads:
        assert self.heads is not None  # or branch `identity` was refused
        return self.heads

    def _reads_branches(self, branch: str) -> bool:
        return True

    @cached_property
    def _cutter(self) -> FaceCutter:
        assert self.alignment
        return FaceCutter(self.alignment, self.transform)

    def _attributes(self, rows: Embeddings, good: list[int], maps: dict[str, torch.Tensor]) -> np.ndarray:
        values = np.full((len(rows), len(self.meta["attributes"])), np.nan, np.float32)
        values[:, 0] = [np.nan if (time := time_of(path)) is None else time for path in rows.paths]
        if good:
            values[good, 2:] = self._predict(maps, None if rows.faces is None else rows.faces[good])
        return values

    def _predict(self, maps: dict[str, torch.Tensor], faces: np.ndarray | None) -> np.ndarray:
        """The attributes `[B, A]` of faces; of those cut out of photos the pose that they have there."""
        with self._inference():
            by_head = self._heads(Branches(*(maps[name] for name in Branches._fields)))
        columns = []
        for name in attribute_heads(self._heads.specs):
            values = by_head[name].float().cpu().numpy()
            names = self._heads.specs[name].names
            if name == POSE and faces is not None and set(ANGLES) <= set(names):
                places = [names.index(angle) for angle in ANGLES]
                values[:, places] = in_photo(values[:, places], faces)
            columns.append(values)
        return np.concatenate(columns, 1) if columns else np.empty((len(maps["shared"]), 0), np.float32)

    def attributes_of(
        self, maps: dict[str, torch.Tensor], faces: Sequence[Face] | None
    ) -> list[dict[str, float]]:
        """The attributes, by name, of crops with these branch maps; `faces`: where they are in photos."""
        columns = None if faces is None else face_columns(faces, [0] * len(faces))
        names = self.meta["attributes"][2:]
        return [dict(zip(names, row, strict=True)) for row in self._predict(maps, columns).tolist()]

    def analyze(self, items: Iterable[Any]) -> list[AnalyzedFace]:
        """As `FaceAnalyzer.__call__`."""
        found: list[AnalyzedFace] = []
        places: list[int] = []
        faces: list[Face] = []
        crops: list[np.ndarray] = []

        def finish() -> None:
            if crops:
                found.extend(self._records(places, faces, np.stack(crops)))
            for some in (places, faces, crops):
                some.clear()

        for place, item in enumerate(items):
            with named_in_errors(place, item):
                if self.alignment:
                    here, cut = self._faces(item, self._cutter)
                    faces += here
                else:
                    cut = self._crop(item)[None]
            crops += list(cut)
            places += [place] * len(cut)
            if len(crops) >= self.batch_size:
                finish()
        finish()
        return found

    def _records(self, places: Sequence[int], faces: Sequence[Face], crops: np.ndarray) -> list[AnalyzedFace]:
        maps = self._maps_that_fit(crops)
        vectors, values = self.vectors(maps), self.attributes_of(maps, faces if self.alignment else None)
        shown: Sequence[Face | None] = faces if self.alignment else [None] * len(places)
        return [_record(*one) for one in zip(places, shown, values, vectors, strict=True)]


class FaceAnalyzer:
    """Predict head pose, expression, action units and an identity vector of each face.

    Several threads may use one analyzer at once.

    Args:
        model: Weights with heads, as for `facepcl.create_heads`.
        crops: The images are face crops, and no detector is needed.
        one: Only the most prominent face of each photo.
        batch_size: Faces in a pass of the network.
        device: `cpu`, `cuda`, `mps`, or `auto`.
        dtype: `float32`, `bfloat16` or `auto`, as for `facepcl.FaceEmbedder`.
        detector: YuNet's ONNX file; None downloads it once from the Hub.

    Raises:
        WeightsError: There are no weights or no detector.
        OptionError: The weights have no heads, or another argument is wrong.
        MissingExtra: OpenCV is not installed (needs `facepcl[align]`, unless `crops`).

    Example:
        >>> analyzer = facepcl.FaceAnalyzer("pcl_resnet18")
        >>> for face in analyzer(["photo.jpg", pil_image, uint8_array]):
        ...     print(face.image, face.yaw, face.expression)
    """

    def __init__(
        self,
        model: str | nn.Module = MODEL,
        *,
        crops: bool = False,
        one: bool = False,
        batch_size: int = 64,
        device: str = "auto",
        dtype: str = "auto",
        detector: str | Path | None = None,
    ):
        self.embedder = AttributeEmbedder(
            model,
            align=not crops,
            one=one,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            detector=detector,
        )

    def __call__(self, images: Iterable[Any]) -> list[AnalyzedFace]:
        """Analyze paths, encoded bytes, Pillow images, uint8 arrays or tensors, in order: the faces of a
        photo, most prominent first (none if no face is found), or the one face of a crop.

        Raises:
            ImageError: An image cannot be read; it says which.
            MissingPath: There is no such file.
        """
        if isinstance(images, (str, bytes, Path)) or not isinstance(images, Iterable):
            raise OptionError(
                "give a list, as in analyzer([image]); facepcl.analyze takes folders and videos"
            )
        return self.embedder.analyze(images)


def attribute_heads(specs: dict[str, HeadSpec]) -> list[str]:
    """The heads whose outputs are attributes, in the order of the columns."""
    order = {POSE: 0, "expression": 1}
    return sorted((name for name in specs if name != IDENTITY), key=lambda name: (order.get(name, 2), name))


def attribute_names(specs: dict[str, HeadSpec]) -> list[str]:
    """The columns of attributes: the outputs of the heads, with the head's name before those of a class."""
    found = []
    for head in attribute_heads(specs):
        spec = specs[head]
        prefix = f"{head}_" if spec.activation == "softmax" or not spec.names else ""
        found += [f"{prefix}{name}" for name in spec.names or map(str, range(spec.width))]
    return found


def in_photo(pose: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Yaw, pitch, roll `[B, 3]` in photos of poses in crops, whose eyes are level; the eyes in photos are in
    `FACE_COLUMNS` `[B, 16]`."""
    right_x, right_y, left_x, left_y = faces[:, EYES].astype(np.float64).T
    turn = np.degrees(np.arctan2(left_y - right_y, left_x - right_x))
    about_view = rotation(np.stack([0 * turn, 0 * turn, turn], 1))
    return angles(about_view @ rotation(pose))


def _record(place: int, face: Face | None, values: dict[str, float], vector: np.ndarray) -> AnalyzedFace:
    expressions = expressions_of(values)
    yaw, pitch, roll = (values.get(name, float("nan")) for name in ANGLES)
    return AnalyzedFace(
        image=place,
        box=face and face.box,
        landmarks=face and face.landmarks,
        score=face and face.score,
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        expression=max(expressions, key=lambda name: expressions[name], default=""),
        expressions=expressions,
        action_units={name: value for name, value in values.items() if name.startswith(UNITS)},
        identity=vector,
    )
