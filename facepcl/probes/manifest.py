"""A data set as the probes take it, whatever its layout on disk: `Manifest`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepcl.data.sources import Item
from facepcl.images.geometry import Square

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)
DRAWN_PAIRS = "verification (drawn pairs)"  # no protocol of a data set: never reported under its name alone
OCCURS_AT = 0.4  # intensity from which a unit counts as present: 2 of the 5 steps of FACS


class Labelled(NamedTuple):
    """One image and its labels.

    `name` appears in messages and reports; `split` is train, val, test or "" (the probe splits); `subject`
    is the person, or whatever else ties images together, "" = unknown; `pose` yaw, pitch, roll in degrees,
    signs as in docs/DATASETS.md; `units` intensities of 0 to 1 (`AU12` -> 0.4); `landmarks` x, y of right
    eye, left eye, nose, right and left mouth corner (the subject's), in pixels; `square` the face to crop
    from a photo; `series` the name of what alone changes in its series of images.
    """

    name: str
    split: str = ""
    subject: str = ""
    expression: str | None = None
    pose: tuple[float, float, float] | None = None
    units: dict[str, float] | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    square: Square | None = None
    series: str = ""


class Pair(NamedTuple):
    """Two images by index, whether they show the same person, and the fold of cross-validation, -1 if the
    data set has none."""

    a: int
    b: int
    same: bool
    fold: int = -1


@dataclass
class Manifest:
    """A data set: `images`, and `items()`, the encoded images in the same order.

    `files` are all files it was read from (cached features are valid while their sizes and times are the
    same), `classes` the expressions in the data set's order, `dropped` the number of images left out, with
    the reason in `notes`, `task` the name of its results if it is not that of the probe.
    """

    layout: str
    images: list[Labelled]
    items: Callable[[], Iterator[Item]]
    files: list[Path]
    pairs: list[Pair] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    dropped: int = 0
    notes: tuple[str, ...] = ()
    task: str = ""

    def subjects(self, rows: np.ndarray) -> np.ndarray:
        """The index of the subject of each of the `rows`; an image without one is its own."""
        names = [self.images[row].subject or f"\0{i}" for i, row in enumerate(rows)]
        return np.unique(names, return_inverse=True)[1].reshape(-1)
