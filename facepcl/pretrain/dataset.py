"""Faces to train on: folders, identity folders and `.tar` shards, as one uint8 tensor with labels beside."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from facepcl.data.labels import read_labels
from facepcl.data.remote import is_url
from facepcl.data.sources import SHARD_ERRORS, Item, files_below, is_image_name, is_shard_name, read_shard
from facepcl.errors import DataError, ImageError, MissingPath, OptionError
from facepcl.images.decode import MAX_BYTES, decode, quiet_pillow, read_file
from facepcl.images.face import ANGLES, LANDMARKS
from facepcl.images.transform import Fit
from facepcl.utils.progress import Progress

_logger = logging.getLogger("facepcl")


class Sample(NamedTuple):
    """One image as it lies on disk: its name, its bytes and what its JSON or `.cls` file says; or the reason
    why it cannot be read."""

    name: str
    data: bytes
    labels: dict[str, Any]
    error: str | None = None


@dataclass
class Faces:
    """Square images `[N, 3, S, S]` uint8 and their labels, unknown = NaN, -1 or absent.

    `landmarks` `[N, 5, 2]` pixels; `pose` `[N, 3]` yaw, pitch, roll in degrees; `au` `[N, A]`, the units
    named in `au_names`; `expression` `[N]`, the classes named in `expression_names`; `identity` `[N]`.
    """

    images: torch.Tensor
    names: list[str]
    landmarks: torch.Tensor
    pose: torch.Tensor
    au: torch.Tensor
    expression: torch.Tensor
    identity: torch.Tensor
    au_names: tuple[str, ...] = ()
    expression_names: tuple[str, ...] = ()
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def label_outputs(self, identity_width: int) -> dict[str, tuple[str, ...] | int]:
        """What a head predicts for each label that occurs: names, or the number of values of the identity.

        Raises DataError if no label occurs.
        """
        outputs: dict[str, tuple[str, ...] | int] = {
            "au": self.au_names,
            "expression": self.expression_names,
            "identity": identity_width if self._has_pairs() else 0,
            "pose": ANGLES if not self.pose.isnan().all() else (),
        }
        if not any(outputs.values()):
            raise DataError(
                "--method labels needs labels and the data has none: put NAME.json (yaw, pitch, roll, "
                "au, expression, identity) beside the images, or train with --method pcl"
            )
        return {label: named for label, named in outputs.items() if named}

    def _has_pairs(self) -> bool:
        """Whether there are two images of anybody."""
        return bool((self.identity[self.identity >= 0].unique(return_counts=True)[1] > 1).any())

    def digest(self) -> str:
        """What tells other images or labels from these: their names, without folders, and what is known."""
        known = (self.landmarks, self.pose, self.au, self.expression, self.identity)
        found = hashlib.sha256(json.dumps([self.au_names, self.expression_names]).encode())
        for name in self.names:
            found.update(Path(name).name.encode(errors="surrogateescape") + b"/")
        for tensor in known:
            found.update(tensor.numpy().tobytes())
        return found.hexdigest()[:16]


def read_samples(sources: Sequence[str | Path], labels: bool = True) -> Iterator[Sample]:
    """The images of folders and `.tar` shards in a fixed order, with the `labels` that are there if they are
    wanted.

    In a folder whose images all lie in subfolders, the subfolder is the identity.
    """
    for given in sources:
        if is_url(str(given)):
            raise OptionError(f"{given}: .tar shards behind URLs are read with --stream")
        source = Path(given)
        if source.is_dir():
            yield from _folder_samples(source, labels)
        elif is_shard_name(source.name) and source.is_file():
            yield from _shard_samples(source, labels)
        else:
            raise MissingPath(f"{source}: there is no such folder or .tar shard")


def _folder_samples(folder: Path, wanted: bool) -> Iterator[Sample]:
    files = list(files_below(folder))
    by_identity = all(file.parent != folder for file in files)
    for file in files:
        if is_shard_name(file.name):
            yield from _shard_samples(file, wanted)
            continue
        # with the path to it: two folders may both have a person 0001
        labels = {"identity": str(file.parent)} if by_identity else {}
        sidecar = file.with_suffix(".json")
        try:
            data = read_file(file)
            if wanted and sidecar.is_file():
                labels |= read_labels(read_file(sidecar), str(sidecar))
        except MissingPath:  # gone since the folder was listed
            yield Sample(str(file), b"", {}, "there is no such file")
        except ImageError as error:
            yield Sample(str(file), b"", {}, str(error))
        else:
            yield Sample(str(file), data, labels)


def _shard_samples(shard: Path, wanted: bool) -> Iterator[Sample]:
    """The samples of a shard. Raises DataError if it is no tar or is cut off."""
    try:
        yield from _grouped(shard, wanted)
    except SHARD_ERRORS as error:
        raise DataError(f"{shard} breaks off or is no tar ({error})") from error


def _grouped(shard: Path, wanted: bool) -> Iterator[Sample]:
    """WebDataset order: an image and its labels lie together and share their name up to the last dot."""
    stem, sample = "", Sample("", b"", {})
    for member, read in read_shard(shard):
        key, _, kind = member.name.rpartition(".")
        if member.size > MAX_BYTES:  # a packed shard of a megabyte may hold a file of a thousand
            raise DataError(f"{shard}/{member.name}: {member.size:,} bytes are more than an image has")
        is_image = is_image_name(member.name)
        if key != stem or (is_image and sample.name):
            if sample.name:
                yield sample
            stem, sample = key, Sample("", b"", sample.labels if key == stem else {})
        if is_image:
            sample = sample._replace(name=f"{shard}/{member.name}", data=read())
        elif wanted and kind == "json":
            sample = sample._replace(labels=sample.labels | read_labels(read(), f"{shard}/{member.name}"))
        elif wanted and kind == "cls":
            sample = sample._replace(
                labels={"identity": read().decode(errors="replace").strip(), **sample.labels}
            )
    if sample.name:
        yield sample


def read_faces(
    sources: Sequence[str | Path], size: int, progress: bool = False, labels: bool = True
) -> Faces:
    """All images of `sources`, each brought to `size` x `size` pixels, with the `labels` that are there if
    they are wanted.

    A broken image is skipped and named in `skipped`. Raises MissingPath, or DataError if nothing is left.
    """
    names, known, marks, skipped = [], [], [], []
    fit, images = Fit.square(size), _Images(size)
    with quiet_pillow(), Progress(None, "images", progress, "reading") as bar:
        for sample in read_samples(sources, labels):
            try:
                image = decode(Item(*sample[:2], sample.error).read())
            except ImageError as error:
                skipped.append((sample.name, str(error)))
                continue
            images.append(fit(image))
            marks.append(_landmarks(sample.labels, image.size, size))
            names.append(sample.name)
            known.append(sample.labels)
            bar.update(1)
    for name, reason in skipped[:5]:
        _logger.warning("skipped %s: %s", name, reason)
    if len(skipped) > 5:
        _logger.warning("skipped %d more", len(skipped) - 5)
    if not names:
        broken = f" ({len(skipped)} are broken)" if skipped else ""
        raise DataError(f"no images to train on in {', '.join(map(str, sources))}{broken}")
    return _collate(images.tensor(), names, known, marks, skipped)


class _Images:
    """Images `[N, 3, S, S]` uint8 that come one by one, in one growing piece of memory.

    A list that is stacked at the end would hold all of them twice. The C library grows a large piece without
    copying it; so little is grown at a time because numpy fills it.
    """

    def __init__(self, size: int):
        self.count, self.store = 0, np.empty((64, 3, size, size), np.uint8)

    def append(self, image: np.ndarray) -> None:
        """Add an image `[S, S, 3]`."""
        if self.count == len(self.store):
            self._resize(self.count + self.count // 8)
        self.store[self.count] = image.transpose(2, 0, 1)
        self.count += 1

    def tensor(self) -> torch.Tensor:
        self._resize(self.count)
        return torch.from_numpy(self.store)

    def _resize(self, count: int) -> None:
        self.store.resize((count, *self.store.shape[1:]), refcheck=False)  # nothing else refers to it


def _landmarks(labels: dict[str, Any], image_size: tuple[int, int], size: int) -> np.ndarray:
    """Landmarks in pixels of the square image: short side resized to `size`, centre crop."""
    known = labels.get("landmarks") or {}
    points = np.array([known.get(name, (np.nan, np.nan)) for name in LANDMARKS], np.float32)
    short = min(image_size)
    offset = (np.array(image_size, np.float32) - short) / 2
    return (points - offset) * (size / short)


def _collate(
    images: torch.Tensor,
    names: list[str],
    labels: list[dict[str, Any]],
    marks: list[np.ndarray],
    skipped: list[tuple[str, str]],
) -> Faces:
    au_names = tuple(sorted({unit for row in labels for unit in row.get("au") or {}}))
    expression_names = tuple(sorted({row["expression"] for row in labels if row.get("expression")}))
    identities = {
        name: i
        for i, name in enumerate(dict.fromkeys(row.get("identity") for row in labels if "identity" in row))
    }
    pose = [[float(row.get(angle, np.nan)) for angle in ANGLES] for row in labels]
    # inside `au` a missing unit is 0; without `au` all are unknown
    au = [
        [row["au"].get(u, 0.0) if row.get("au") is not None else np.nan for u in au_names] for row in labels
    ]
    return Faces(
        images=images,
        names=names,
        landmarks=torch.from_numpy(np.stack(marks)),
        pose=torch.tensor(pose),
        au=torch.tensor(au, dtype=torch.float32).view(len(names), len(au_names)),
        expression=torch.tensor(
            [expression_names.index(row["expression"]) if row.get("expression") else -1 for row in labels]
        ),
        identity=torch.tensor([identities.get(row.get("identity"), -1) for row in labels]),
        au_names=au_names,
        expression_names=expression_names,
        skipped=skipped,
    )
