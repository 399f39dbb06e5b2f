"""What an embedding job has done, in numbers."""

import logging
from dataclasses import dataclass
from pathlib import Path

from facepcl.embedding.embeddings import Embeddings
from facepcl.errors import ImageError
from facepcl.images.face import NO_FACE
from facepcl.utils.launch import Share

_logger = logging.getLogger("facepcl")

CROP_ASPECT, CROP_PIXELS = 4 / 3, 640 * 640  # beyond either an image is a photograph, not a face crop
REASONS = 5


@dataclass
class Summary:
    """What `embed` did: `total` rows, of which `failed` hold a reason and `faceless` are photographs without
    a face; `embedded` images were done now, in `seconds`, the others were there before. Of a folder of
    shards: `share` is this process's part, with so many `shards`; of all `listed` ones so many are `missing`.
    """

    path: Path
    space: str
    device: str
    total: int = 0
    failed: int = 0
    faceless: int = 0
    embedded: int = 0
    photographs: int = 0  # images that do not look like face crops
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()  # the first few
    share: Share | None = None
    shards: int = 0
    listed: int = 0
    missing: int = 0

    def count(self, rows: Embeddings) -> None:
        """Take account of `rows`."""
        reasons = zip(rows.paths, rows.errors, strict=True)
        failed = [f"{path}: {error}" for path, error in reasons if error and error != NO_FACE]
        self.total += len(rows)
        self.faceless += rows.errors.count(NO_FACE)  # which is a finding, no error
        self.failed += len(failed)
        self.reasons = (*self.reasons, *failed)[:REASONS]
        if rows.faces is None:
            sizes = rows.sizes.tolist()
            self.photographs += sum(min(size) > 0 and not looks_like_crop(*size) for size in sizes)

    @property
    def images_per_second(self) -> float:
        return self.embedded / max(self.seconds, 1e-9)

    def warn_of_photographs(self) -> None:
        """Say so if most images do not look like crops."""
        if self.photographs > (self.total - self.failed) / 2:
            _logger.warning(
                "most of these %d images look like photographs, not like face crops; the weights expect a "
                "crop: add --align (align=True)",
                self.total,
            )


def raise_first(rows: Embeddings) -> None:
    """Raise ImageError for the first row that has a reason."""
    for path, error in zip(rows.paths, rows.errors, strict=True):
        if error and error != NO_FACE:
            raise ImageError(f"{path}: {error}")


def looks_like_crop(width: int, height: int) -> bool:
    """Whether an image of this size may be a face crop: near square, and not of a camera's size."""
    return max(width, height) <= CROP_ASPECT * min(width, height) and width * height <= CROP_PIXELS
