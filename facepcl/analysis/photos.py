"""The photos of an analysis read again, to be shown with what was found in them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from facepcl.analysis.drawing import DrawnFace, box_of, framed, whole_photo
from facepcl.data.sources import items_named, printable
from facepcl.data.workers import Readers
from facepcl.embedding.embeddings import Embeddings
from facepcl.images.face import Face
from facepcl.jobs.engine import chunks
from facepcl.utils.futures import in_order

AT_ONCE = 4  # photos that a reader is asked for
AROUND = 0.75  # of its box are shown on each side of a face


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


def closer(photo: ShownPhoto, side: int) -> ShownPhoto:
    """The part of a photo with its faces and their surroundings, in at most `side` pixels."""
    boxes = [box_of(face) for face, _ in photo.faces if face]
    region = (0, 0, *photo.picture.size)
    if boxes:
        edges = np.array([_surroundings(box) for box in boxes]) * photo.scale
        left, top = np.maximum(edges[:, :2].min(0), 0).astype(int).tolist()
        right, bottom = np.minimum(edges[:, 2:].max(0), photo.picture.size).astype(int).tolist()
        region = (left, top, max(right, left + 1), max(bottom, top + 1))
    picture = photo.picture.crop(region)
    before = picture.width
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    faces = [_moved(face, region[0] / photo.scale, region[1] / photo.scale) for face in photo.faces]
    return ShownPhoto(photo.path, picture, photo.scale * picture.width / before, faces)


def _surroundings(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    margin = AROUND * max(right - left, bottom - top)
    return left - margin, top - margin, right + margin, bottom + margin


def _moved(drawn: DrawnFace, left: float, top: float) -> DrawnFace:
    """A face in a photo that begins at this place of the whole one."""
    if drawn.face is None:
        return drawn
    *places, score = drawn.face.numbers()
    moved = np.reshape(places, (-1, 2)) - (left, top)
    return drawn._replace(face=Face.from_numbers([*moved.ravel().tolist(), score]))


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
