"""Features of a data set, extracted once and cached under everything they depend on."""

import hashlib
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.data.sources import Item
from facepcl.embedding.embedder import NOT_FINITE, FaceEmbedder
from facepcl.errors import DataError, OptionError, WriteError
from facepcl.images.geometry import square_around
from facepcl.probes.manifest import Labelled, Manifest
from facepcl.utils.files import allocate, write_text, writing
from facepcl.utils.progress import Progress

_logger = logging.getLogger("facepcl")

MIRRORED = "mirrored "  # before a branch's name: its code of the mirrored image


@dataclass
class Features:
    """Features of a data set: `of[branch]` float32 `[N, D]`, memory-mapped; `good` `[N]` marks the rows that
    are valid, `failed` has the names and reasons of the others."""

    of: dict[str, np.ndarray]
    good: np.ndarray
    failed: list[tuple[str, str]]
    meta: dict[str, Any]
    folder: Any = None  # a temporary one that goes with the features


def default_cache() -> Path:
    """The folder of cached features: $FACEPCL_CACHE, or facepcl/features in the user's cache folder."""
    if folder := os.environ.get("FACEPCL_CACHE"):
        return Path(folder)
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches) / "facepcl" / "features"


def _check_writable(folder: Path) -> None:
    """Create the folder and a file in it. Raises OSError."""
    if not folder.is_absolute() and str(folder).startswith("~"):
        raise FileNotFoundError("there is no home folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def extract(
    manifest: Manifest,
    embedder: FaceEmbedder,
    branches: Sequence[str],
    *,
    mirrored: bool = False,
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Features:
    """The codes of all `branches` for all images, and for their mirror images if `mirrored`.

    They are cached by weights, preprocessing, branch, pool, dtype and the data's files, sizes, times and
    squares. If nothing can be written to `cache`, a warning says so and a temporary folder takes its place.
    Raises DataError if no image can be read, or a code is not finite.
    """
    cache, temporary = Path(cache) if cache else default_cache(), None
    names = [*branches, *(MIRRORED + branch for branch in branches if mirrored)]
    data = _data_hash(manifest)
    keys = {name: _key(embedder, name, data) for name in names}
    if not all(os.path.isfile(cache / f"{key}.{end}") for key in keys.values() for end in ("json", "npy")):
        try:
            _check_writable(cache)
        except OSError as error:
            _logger.warning(
                "%s cannot be written to (%s), so the features are not kept: name another folder by --cache "
                "or FACEPCL_CACHE",
                cache,
                error.strerror or error,
            )
            temporary = tempfile.TemporaryDirectory(prefix="facepcl-", ignore_cleanup_errors=True)
            cache = Path(temporary.name)
        try:
            _extract(manifest, embedder, cache, keys, data, workers, progress)
        except WriteError as error:
            raise WriteError(f"{error}; name another folder by --cache or FACEPCL_CACHE") from error
    else:
        _logger.info("using the cached features of %d images in %s", len(manifest.images), cache)
    errors = json.loads((cache / f"{keys[names[0]]}.json").read_text("utf-8"))["errors"]
    good = np.array([error is None for error in errors], bool)
    if bad := errors.count(NOT_FINITE):
        raise DataError(f"{embedder.name} returns numbers that are not finite for {bad} images")
    failed = [(image.name, e) for image, e in zip(manifest.images, errors, strict=True) if e]
    if not good.any():
        raise DataError(f"no image of the data can be read; the first: {failed[0][0]}: {failed[0][1]}")
    of, rows = {}, np.flatnonzero(good)
    for name, key in keys.items():
        of[name] = np.load(cache / f"{key}.npy", mmap_mode="r", allow_pickle=False)
        for block in np.array_split(rows, len(rows) // 4096 + 1):
            if bad := int((~np.isfinite(of[name][block]).all(1)).sum()):
                raise DataError(
                    f"{embedder.name} returns numbers that are not finite, under {name} for {bad} images"
                )
    for name, reason in failed[:5]:
        _logger.warning("left out %s: %s", name, reason)
    return Features(of, good, failed, embedder.meta, temporary)


def _data_hash(manifest: Manifest) -> str:
    """A hash of the files of the data, and of the squares to crop."""
    digest = hashlib.sha256()
    for path in manifest.files:
        try:
            status = path.stat()
            state = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:  # a broken link, which is reported when it is read
            state = "gone"
        digest.update(f"{path.absolute()}\0{state}\n".encode(errors="replace"))
    for image in manifest.images:
        digest.update(f"{os.path.abspath(image.name)}\0{image.square}\n".encode(errors="replace"))
    return digest.hexdigest()


def _parse(name: str) -> tuple[str, str]:
    """MIRRORED or "", and the branch."""
    branch = name.removeprefix(MIRRORED)
    return name.removesuffix(branch), branch


def _key(embedder: FaceEmbedder, name: str, data: str) -> str:
    side, branch = _parse(name)
    text = json.dumps([embedder.space(branch), embedder.meta["dtype"], side, data])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _extract(
    manifest: Manifest,
    embedder: FaceEmbedder,
    cache: Path,
    keys: dict[str, str],
    data: str,
    workers: int | None,
    progress: bool,
) -> None:
    count = len(manifest.images)
    errors: list[str | None] = []
    all_branches = any(_parse(name)[1] != "shared" for name in keys)
    arrays: dict[str, np.memmap] = {}
    # at random, not by process id: containers that share the cache have the same ids
    partial = {name: cache / f".{key}.{secrets.token_hex(4)}.npy" for name, key in keys.items()}
    try:
        with Progress(count, "images", progress, "features") as bar:
            for batch in embedder.batches(_items(manifest), workers, all_branches):
                rows = len(errors) + np.array(batch.good, np.int64)
                maps = {"": batch.maps}
                for name in keys if batch.good else ():
                    side, branch = _parse(name)
                    if side not in maps:
                        pixels = np.ascontiguousarray(batch.pixels[:, :, ::-1])
                        maps[side] = embedder.maps(pixels, all_branches)
                    vectors = embedder.vectors(maps[side], branch)
                    if name not in arrays:
                        shape = (count, vectors.shape[1])
                        arrays[name] = _new_array(partial[name], shape)
                    arrays[name][rows] = vectors
                errors += batch.rows.errors
                bar.update(len(batch.rows))
        if _data_hash(manifest) != data:  # as when a drive is unmounted: nothing to be cached
            raise DataError(
                f"files of the {manifest.layout} data have vanished or changed while they were read; check "
                "the drive they are on, and start again"
            )
        for name, key in keys.items():
            if name in arrays:  # there is at least one good image
                arrays[name].flush()
                os.replace(partial[name], cache / f"{key}.npy")
            text = json.dumps({"errors": errors, "meta": {**embedder.meta, "branch": name}})
            write_text(cache / f"{key}.json", text)  # last: it marks the array as complete
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _new_array(path: Path, shape: tuple[int, int]) -> np.memmap:
    """A file of float32 in memory. Raises WriteError if the disk has no room for it."""
    with writing(path.parent):
        array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        allocate(path)
        return array


def _items(manifest: Manifest) -> Iterator[Item]:
    """The encoded images with the squares to crop."""
    items = iter(manifest.items())
    for image in manifest.images:
        if (item := next(items, None)) is None:
            raise DataError(f"{image.name} has vanished while the {manifest.layout} data was read")
        yield item._replace(square=image.square)


def aligned(manifest: Manifest, turn: bool) -> list[Labelled]:
    """The images with the square around their landmarks as the crop: half side 1.5 eyes-to-mouth distances;
    upright if `turn`, else parallel to the image.

    Raises OptionError for data without landmarks.
    """
    images = []
    for image in manifest.images:
        if image.landmarks is None:
            raise OptionError(f"--align needs landmarks, and {image.name} has none")
        images.append(image._replace(square=square_around(image.landmarks, turn)))
    return images
