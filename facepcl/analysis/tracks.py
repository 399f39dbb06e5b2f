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
        self._recent: set[int] = set()  # tracks that were seen within GAP
        self._identities = np.empty((0, 0), np.float32)  # of all tracks, of unit length; with room for more

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
        if len(self.tracks) > len(self._identities):  # doubled, so that tracks are rarely copied
            self._identities.resize((2 * len(self.tracks), identities.shape[1]), refcheck=False)
        for number in numbers.values():
            identity = self.tracks[number].identity
            self._identities[number] = identity / np.linalg.norm(identity).clip(1e-12)
        self._recent.update(numbers.values())
        return [numbers[face] for face in range(len(boxes))]

    def _fits(
        self, time: float, boxes: np.ndarray, identities: np.ndarray
    ) -> Iterator[tuple[float, int, int]]:
        """Pairs that may be one person: how well they fit, the face, and the track."""
        self._recent = {number for number in self._recent if time - self.tracks[number].time <= GAP}
        if not self.tracks:
            return
        cosines = self._identities[: len(self.tracks)] @ identities.T
        recent = list(self._recent)
        boxes_before = np.array([self.tracks[number].box for number in recent]).reshape(-1, 4)
        overlaps = dict(zip(recent, overlaps_of(boxes_before, boxes), strict=True))
        may_fit = cosines >= SAME
        for number, of_track in overlaps.items():
            may_fit[number] |= of_track >= OVERLAP
        for number, face in np.argwhere(may_fit).tolist():
            cosine = float(cosines[number, face])
            overlap = float(overlaps[number][face]) if number in overlaps else 0.0
            nearest = max(cosine, float(self.tracks[number].last @ identities[face]))
            if cosine >= SAME or nearest >= SIMILAR:
                yield overlap + cosine, face, number


def overlaps_of(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, `[M, 4]` and `[N, 4]` to `[M, N]`; 1 for crops, which have none."""
    a, b = some[:, None], others[None]
    both = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(2)
    either = (a[..., 2:] - a[..., :2]).prod(2) + (b[..., 2:] - b[..., :2]).prod(2) - both
    return np.where(np.isnan(both), 1.0, both / either.clip(1e-12))


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
