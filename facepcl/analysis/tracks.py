"""Faces followed through the frames of a video: one number for each person, as long as it can be told."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from facepcl.data.video import time_of, video_of
from facepcl.embedding.embeddings import Embeddings

TRACK = "track"
GAP = 1.0  # seconds after which a face is looked for by identity alone
OVERLAP = 0.3  # intersection over union of the boxes of one face in frames that follow each other
# Cosines of identity (MODEL_CARD.md, "Similarity of identities"): enough by itself, which one in a hundred
# pairs of strangers reaches, and enough where the boxes overlap, which one in ten reaches: after a cut,
# another face may be at the same place.
SAME, SIMILAR = 0.65, 0.43


@dataclass
class Track:
    """A face as it was seen last, and the sum of its identity vectors."""

    number: int
    time: float
    box: np.ndarray
    last: np.ndarray
    identity: np.ndarray


class Tracker:
    """Numbers for the faces of one video, given frame by frame."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []

    def __call__(self, time: float, boxes: np.ndarray, identities: np.ndarray) -> list[int]:
        """The track of each face of a frame, from boxes `[K, 4]` (NaN: the frame is the face) and unit
        vectors `[K, D]`: the pairs of a face and a track that fit best, and new tracks for the rest."""
        pairs = sorted(self._fits(time, boxes, identities), key=lambda pair: -pair[0])
        numbers: dict[int, int] = {}
        taken: set[int] = set()
        for _, face, number in pairs:
            if face not in numbers and number not in taken:
                numbers[face] = number
                taken.add(number)
        for face, (box, identity) in enumerate(zip(boxes, identities, strict=True)):
            if face not in numbers:
                numbers[face] = len(self.tracks)
                self.tracks.append(Track(len(self.tracks), time, box, identity, identity))
            else:
                track = self.tracks[numbers[face]]
                track.time, track.box, track.last = time, box, identity
                track.identity = track.identity + identity
        return [numbers[face] for face in range(len(boxes))]

    def _fits(
        self, time: float, boxes: np.ndarray, identities: np.ndarray
    ) -> Iterator[tuple[float, int, int]]:
        """Pairs that may be one person: how well they fit, the face, and the track."""
        if not self.tracks:
            return
        sums = np.stack([track.identity for track in self.tracks])
        cosines = sums @ identities.T / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12)
        for track, cosines_of_track in zip(self.tracks, cosines, strict=True):
            recent = time - track.time <= GAP
            for face in range(len(boxes)) if recent else np.flatnonzero(cosines_of_track >= SAME).tolist():
                cosine = float(cosines_of_track[face])
                overlap = overlap_of(track.box, boxes[face]) if recent else 0.0
                nearest = max(cosine, float(track.last @ identities[face]))
                if cosine >= SAME or (overlap >= OVERLAP and nearest >= SIMILAR):
                    yield overlap + cosine, face, track.number


def overlap_of(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes; 1 for crops, which have none."""
    if np.isnan(a).any() or np.isnan(b).any():
        return 1.0
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = max(width, 0.0) * max(height, 0.0)
    return float(both / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both, 1e-12))


def with_tracks(blocks: Iterator[Embeddings]) -> Iterator[Embeddings]:
    """The rows of a table with attributes, with a track for each face in a video. The numbers of each video
    begin at 0."""
    video, tracker = None, Tracker()
    for rows in blocks:
        assert rows.attributes is not None
        attributes, column = rows.attributes.copy(), rows.meta["attributes"].index(TRACK)
        boxes = np.full((len(rows), 4), np.nan) if rows.faces is None else rows.faces[:, 2:6]
        found = (i for i, error in enumerate(rows.errors) if error is None and video_of(rows.paths[i]))
        for path, some in groupby(found, key=lambda i: rows.paths[i]):
            if video_of(path) != video:
                video, tracker = video_of(path), Tracker()
            frame = list(some)
            attributes[frame, column] = tracker(time_of(path) or 0.0, boxes[frame], rows.vectors[frame])
        yield replace(rows, attributes=attributes)
