"""Features of a data set: extracted once, then read back by what they depend on."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.data.sources import Item
from facepcl.embedding.embedder import NOT_FINITE, Batch, FaceEmbedder
from facepcl.errors import DataError, OptionError
from facepcl.images.geometry import square_around
from facepcl.probes.manifest import Labelled, Manifest
from facepcl.utils.files import atomic
from facepcl.utils.progress import Progress

_logger = logging.getLogger("facepcl")

MIRRORED = "mirrored "  # before a branch's name: its code of the mirrored image


@dataclass
class Features:
    """What an encoder makes of a data set: `of[branch]` float32 `[N, D]`, mapped from the disk; `good` `[N]`
    tells the rows that hold something, `failed` the names and reasons of the others."""

    of: dict[str, np.ndarray]
    good: np.ndarray
    failed: list[tuple[str, str]]
    meta: dict[str, Any]


def default_cache() -> Path:
    """Where features are kept: $FACEPCL_CACHE, or facepcl/features in the user's cache folder."""
    if given := os.environ.get("FACEPCL_CACHE"):
        return Path(given)
    caches = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    return Path(caches) / "facepcl" / "features"


def extract(
    manifest: Manifest,
    embedder: FaceEmbedder,
    branches: Sequence[str],
    *,
    mirrored: bool = False,
    cache: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Features:
    """The codes of all `images` under each of `branches`, and of their mirror images too if `mirrored`.

    They are kept in `cache` by weights, preprocessing, branch, pool, dtype and the data's files, sizes,
    times and squares. Raises DataError if no image can be read, or a code is not finite.
    """
    cache = cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    names = [*branches, *(MIRRORED + branch for branch in branches if mirrored)]
    data = _stamp(manifest)
    keys = {name: _key(embedder, name, data) for name in names}
    if not all((cache / f"{key}.json").is_file() for key in keys.values()):
        _extract(manifest, embedder, cache, keys, workers, progress)
    else:
        _logger.info("features of %d images are at hand in %s", len(manifest.images), cache)
    found = {
        name: np.load(cache / f"{key}.npy", mmap_mode="r", allow_pickle=False) for name, key in keys.items()
    }
    errors = json.loads((cache / f"{keys[names[0]]}.json").read_text("utf-8"))["errors"]
    good = np.array([error is None for error in errors], bool)
    if bad := errors.count(NOT_FINITE):
        raise DataError(f"{embedder.name} gives numbers that are not finite for {bad} images")
    failed = [(image.name, e) for image, e in zip(manifest.images, errors, strict=True) if e]
    if not good.any():
        raise DataError(f"no image of the data can be read; the first: {failed[0][0]}: {failed[0][1]}")
    _check_finite(found, np.flatnonzero(good), embedder.name)
    for name, reason in failed[:5]:
        _logger.warning("left out %s: %s", name, reason)
    return Features(found, good, failed, embedder.meta)


def _check_finite(found: dict[str, np.ndarray], rows: np.ndarray, name: str) -> None:
    for branch, vectors in found.items():
        for some in np.array_split(rows, len(rows) // 4096 + 1):
            if bad := int((~np.isfinite(vectors[some]).all(1)).sum()):
                raise DataError(f"{name} gives numbers that are not finite, under {branch} for {bad} images")


def _stamp(manifest: Manifest) -> str:
    """A hash that changes with any file of the data, and with what of its images is wanted."""
    digest = hashlib.sha256()
    for path in manifest.files:
        try:
            status = path.stat()
            state = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:  # a link to nothing: whoever reads it says so
            state = "gone"
        digest.update(f"{path.absolute()}\0{state}\n".encode(errors="replace"))
    for image in manifest.images:
        digest.update(f"{os.path.abspath(image.name)}\0{image.square}\n".encode(errors="replace"))
    return digest.hexdigest()


def _key(embedder: FaceEmbedder, name: str, data: str) -> str:
    branch = name.removeprefix(MIRRORED)
    side = name.removesuffix(branch)
    text = json.dumps([embedder.space(branch), embedder.meta["dtype"], side, data])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _extract(
    manifest: Manifest,
    embedder: FaceEmbedder,
    cache: Path,
    keys: dict[str, str],
    workers: int | None,
    progress: bool,
) -> None:
    count = len(manifest.images)
    errors: list[str | None] = []
    wide = any(name.removeprefix(MIRRORED) != "shared" for name in keys)
    arrays: dict[str, np.memmap] = {}
    partial = {name: cache / f".{key}.{os.getpid()}.npy" for name, key in keys.items()}
    try:
        with Progress(count, "images", progress, "features") as bar:
            for batch in embedder.batches(_items(manifest), workers, wide):
                rows = len(errors) + np.array(batch.good, np.int64)
                for name, vectors in _codes(embedder, batch, keys, wide):
                    if name not in arrays:
                        shape = (count, vectors.shape[1])
                        arrays[name] = np.lib.format.open_memmap(partial[name], "w+", np.float32, shape)
                    arrays[name][rows] = vectors
                errors += batch.rows.errors
                bar.update(len(batch.rows))
        for name, key in keys.items():
            if name in arrays:
                arrays[name].flush()
            else:  # not one good image
                np.save(partial[name], np.empty((count, 0), np.float32))
            os.replace(partial[name], cache / f"{key}.npy")
            with atomic(cache / f"{key}.json") as temporary:  # last: it tells that the array is whole
                meta = {**embedder.meta, "branch": name}
                temporary.write_text(json.dumps({"errors": errors, "meta": meta}), "utf-8")
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _items(manifest: Manifest) -> Iterator[Item]:
    """The encoded images with the squares that are wanted of them."""
    items = iter(manifest.items())
    for image in manifest.images:
        if (item := next(items, None)) is None:
            raise DataError(f"{image.name} has vanished while the {manifest.layout} data was read")
        yield item._replace(square=image.square)


def _codes(
    embedder: FaceEmbedder, batch: Batch, names: Iterable[str], wide: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """The good images' codes under each name."""
    if not batch.good:
        return
    mirrored = None
    for name in names:
        branch = name.removeprefix(MIRRORED)
        if branch == name:
            yield name, embedder.vectors(batch.maps, branch)
            continue
        if mirrored is None:
            mirrored = embedder.maps(np.ascontiguousarray(batch.pixels[:, :, ::-1]), wide)
        yield name, embedder.vectors(mirrored, branch)


def aligned(manifest: Manifest, turn: bool) -> list[Labelled]:
    """The images with the square around their landmarks as what is wanted of them: half side 1.5
    eyes-to-mouth distances; upright if `turn`, else as the image stands.

    Raises OptionError for data without landmarks.
    """
    images = []
    for image in manifest.images:
        if image.landmarks is None:
            raise OptionError(f"--align needs landmarks, and {image.name} has none")
        images.append(image._replace(square=square_around(image.landmarks, turn)))
    return images
