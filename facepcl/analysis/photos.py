"""The photos of an analysis read again, to be shown with what was found in them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from facepcl.analysis.drawing import DrawnFace, box_of, framed, whole_photo
from facepcl.data.sources import items_named, printable
from facepcl.data.workers import Readers
from facepcl.embedding.embeddings import Embeddings
from facepcl.jobs.engine import chunks
from facepcl.utils.futures import in_order

AT_ONCE = 4  # photos that a reader is asked for
AROUND = 1.0  # of the largest box: what is shown around faces


class ShownPhoto(NamedTuple):
    """A photo, reduced: pixels of it for one of the photo, and its faces."""

    path: str
    picture: Image.Image
    scale: float
    faces: list[DrawnFace]


def photos_with_faces(table: Embeddings) -> list[str]:
    """The paths of the photos that show faces."""
    return list(
        dict.fromkeys(path for path, error in zip(table.paths, table.errors, strict=True) if not error)
    )


def spread(paths: Sequence[str], limit: int) -> list[str]:
    """`limit` of them or fewer, spread evenly."""
    places = np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int)
    return [paths[place] for place in places]


def read_photos(
    table: Embeddings, paths: Sequence[str], sources: Sequence[str], side: int, workers: int | None = None
) -> Iterator[ShownPhoto]:
    """Read photos of a table of `sources`, reduced to `side` pixels, in the order of the table; those that
    are gone are left out."""
    faces: dict[str, list[DrawnFace]] = {path: [] for path in paths}
    for row in table.rows():
        if row.path in faces and row.error is None:
            faces[row.path].append(DrawnFace(row.face, row.attributes or {}))
    with Readers(whole_photo(side), 2 if workers is None else workers) as readers:
        items = items_named(sources, faces, table.meta["fps"] or 0.0)
        for prepared in in_order(readers.submit, chunks(items, AT_ONCE, AT_ONCE), 4):
            for one in prepared:
                if one.pixels is not None:
                    path = str(printable(one.path))
                    yield ShownPhoto(path, *framed(one, side), faces[path])


def closer(photo: ShownPhoto, side: int) -> ShownPhoto:
    """The part of a photo around its faces, no larger than `side` pixels."""
    boxes = [box_of(face) for face, _ in photo.faces if face is not None]
    picture, left, top = photo.picture, 0.0, 0.0
    if boxes:
        edges = np.array(boxes)
        margin = AROUND * (edges[:, 2:] - edges[:, :2]).max()
        low, high = edges[:, :2].min(0) - margin, edges[:, 2:].max(0) + margin
        low, high = (np.clip(photo.scale * edge, 0, picture.size).round().astype(int) for edge in (low, high))
        picture = picture.crop((*low.tolist(), *high.tolist()))
        left, top = low / photo.scale
    shrink = min(1.0, side / max(picture.size))
    size = max(1, round(shrink * picture.width)), max(1, round(shrink * picture.height))
    faces = [DrawnFace(face and face.moved(-left, -top), attributes) for face, attributes in photo.faces]
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    return ShownPhoto(photo.path, picture, shrink * photo.scale, faces)
