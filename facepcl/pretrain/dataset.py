"""Training images from folders, identity folders and `.tar` shards: one uint8 tensor, and labels."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facepcl.data.file_types import Selection, is_shard_name, unsupported
from facepcl.data.label_files import CLS_LABELS, LABEL_SUFFIXES, folder_labels, shard_labels
from facepcl.data.people import people_below
from facepcl.data.remote import is_url
from facepcl.data.sources import Entry, Item, files_below, read_items
from facepcl.data.vanished import check_there
from facepcl.errors import DataError, ImageError, MissingPath, OptionError, shortened
from facepcl.images.decode import decode, quiet_pillow, read_file
from facepcl.images.face import ANGLES, LANDMARKS
from facepcl.images.geometry import looks_like_crop
from facepcl.images.transform import Transform
from facepcl.utils.progress import Progress
from facepcl.utils.storage import MISSING

_logger = logging.getLogger("facepcl")


@dataclass
class Faces:
    """Square images and their labels, NaN or -1 where unknown."""

    images: torch.Tensor  # [N, 3, S, S] uint8
    names: list[str]
    landmarks: torch.Tensor  # [N, 5, 2] in pixels
    pose: torch.Tensor  # [N, 3] yaw, pitch, roll in degrees
    au: torch.Tensor  # [N, A], of the units in `au_names`
    expression: torch.Tensor  # [N], of the classes in `expression_names`
    identity: torch.Tensor  # [N]
    au_names: tuple[str, ...] = ()
    expression_names: tuple[str, ...] = ()
    skipped: list[tuple[str, str]] = field(default_factory=list)  # names of broken images, reasons
    file_bytes: int = 0  # of the images together

    def __len__(self) -> int:
        return len(self.images)

    def label_outputs(self, identity_width: int) -> dict[str, tuple[str, ...] | int]:
        """The outputs of the head of each label in the data: names, or the width of the identity.

        Raises DataError if there are no labels.
        """
        images_each = self.identity[self.identity >= 0].unique(return_counts=True)[1]
        known = (~self.pose.isnan()).any(0).tolist()
        if any(known) and not all(known):
            raise DataError(
                f"head pose needs yaw, pitch and roll, and no image has a {ANGLES[known.index(False)]}"
            )
        outputs: dict[str, tuple[str, ...] | int] = {
            "au": self.au_names,
            "expression": self.expression_names,
            "identity": identity_width if (images_each > 1).any() else 0,
            "pose": ANGLES if any(known) else (),
        }
        if not any(outputs.values()):
            raise DataError(
                "--method labels needs labels and the data has none: put NAME.json (yaw, pitch, roll, "
                "au, expression, identity) beside the images, or train with --method pcl"
            )
        return {label: names for label, names in outputs.items() if names}

    def digest(self) -> str:
        """A hash of file names, without folders, and labels."""
        sha = hashlib.sha256(json.dumps([self.au_names, self.expression_names]).encode())
        for name in self.names:
            sha.update(Path(name).name.encode(errors="surrogateescape") + b"/")
        for tensor in (self.landmarks, self.pose, self.au, self.expression, self.identity):
            sha.update(tensor.numpy().tobytes())
        return sha.hexdigest()[:16]


def read_samples(
    sources: Sequence[str | Path],
    labels: bool = True,
    cls: str = CLS_LABELS[0],
    selection: Selection | None = None,
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """The images of folders and `.tar` shards in a fixed order, with the labels of their JSON or `.cls` files
    if `labels`; the `selection` counts files that are neither.

    In a folder of folders, the first folder on the path of an image is its person, unless its JSON names an
    identity. `cls` is the label that NAME.cls holds. Identities of different folders are different people, as
    two data sets number theirs alike: those of a folder that is named, or of the one in which a named shard
    lies, are prefixed with its path.
    """
    selection = selection or Selection()
    for source in sources:
        path = Path(source)
        if is_url(str(source)):
            raise OptionError(f"{source}: .tar shards behind URLs are read with --stream")
        if path.is_dir():
            samples = _folder_samples(path, labels, cls, selection)
        elif is_shard_name(path.name) and path.is_file():
            samples = _shard_samples(path, labels, cls, selection)
        elif path.is_file():
            raise OptionError(
                unsupported(path) or f"{path} is one file; training reads folders of images and .tar shards"
            )
        else:
            raise MissingPath(f"{shortened(path)}: there is no such folder or .tar shard")
        folder = (path if path.is_dir() else path.parent).absolute()
        for item, found in samples:
            if "identity" in found:
                found["identity"] = str(folder / found["identity"])
            yield item, found


def _folder_samples(
    folder: Path, with_labels: bool, cls: str, selection: Selection
) -> Iterator[tuple[Item, dict[str, Any]]]:
    files = list(files_below(folder, selection))
    # a folder that cannot be listed is in its own list, to be reported
    images = [file for file in files if file != folder and not is_shard_name(file.name)]
    people, reason = {}, ""
    if with_labels and any(image.parent != folder for image in images):
        try:
            people = dict(zip(images, people_below(folder, images), strict=True))
        except DataError as error:
            reason = str(error)
    unknown = 0
    for file in files:
        if is_shard_name(file.name):
            yield from _shard_samples(file, with_labels, cls, selection)
            continue
        labels = {"identity": people[file]} if file in people else {}
        try:
            data = read_file(file)
            if with_labels:
                labels |= folder_labels(file, cls)
        except MissingPath:  # deleted since the folder was listed
            check_there([str(folder)], str(file))
            yield Item(str(file), error=MISSING), {}
        except ImageError as error:
            yield Item(str(file), error=str(error)), {}
        else:
            unknown += "identity" not in labels
            yield Item(str(file), data), labels
    if reason and unknown:
        _logger.warning("%d images have no identity: %s", unknown, reason)
    if people:
        names = set(people.values())
        _logger.info("%d people in %s: its folders, such as %s", len(names), folder, min(names))


def _shard_samples(
    shard: Path, with_labels: bool, cls: str, selection: Selection
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """The samples of a shard. Raises DataError if it is truncated or no tar."""
    labels = list(shard_labels(shard, cls, selection)) if with_labels else []
    counted = Selection() if with_labels else selection
    for number, item in enumerate(read_items([Entry(str(shard))], selection=counted)):
        if item.path == str(shard):
            raise DataError(f"{shard}: {item.error}")
        name, found = labels[number] if number < len(labels) else ("", {})
        if with_labels and name != item.path:
            raise DataError(f"{shard} changed while it was read")
        yield item, found


def read_faces(
    sources: Sequence[str | Path],
    size: int,
    progress: bool = False,
    labels: bool = True,
    cls: str = CLS_LABELS[0],
) -> Faces:
    """Read all images of `sources`, resized to `size` x `size` pixels, with their labels if `labels`.

    `cls` is the label that NAME.cls holds. Broken images are skipped. Raises MissingPath, or DataError if
    there are no images.
    """
    names, label_rows, landmarks, skipped, file_bytes, photos = [], [], [], [], 0, 0
    transform, selection = Transform.square(size), Selection(labels=LABEL_SUFFIXES)
    images = bytearray()  # grows in place; stacking a list of arrays at the end would need twice the memory
    with quiet_pillow(), Progress(None, "images", progress, "reading") as bar:
        for item, found in read_samples(sources, labels, cls, selection):
            try:
                data = item.read()
                image = decode(data)
            except ImageError as error:
                skipped.append((item.path, str(error)))
                continue
            photos += not looks_like_crop(*image.size)
            images += transform(image).transpose(2, 0, 1).tobytes()
            landmarks.append(_landmarks(found, image.size, size))
            names.append(item.path)
            file_bytes += len(data)
            label_rows.append(found)
            bar.update(1)
    for name, reason in skipped[:5]:
        _logger.warning("skipped %s: %s", name, reason)
    if len(skipped) > 5:
        _logger.warning("skipped %d more", len(skipped) - 5)
    if not names:
        reason = f" ({len(skipped)} are broken)" if skipped else ""
        if other := selection.explain():
            reason += f": {other}"
        raise DataError(f"no images to train on in {', '.join(map(str, sources))}{reason}")
    if photos > len(names) / 2:
        _logger.warning(
            "most of these %d images look like photos, not like face crops: run facepcl align first",
            len(names),
        )
    if any("cls" in row for row in label_rows):
        _logger.info("NAME.cls is read as the %s (--cls)", cls)
    selection.tell()
    pixels = torch.frombuffer(images, dtype=torch.uint8).view(-1, 3, size, size)
    return _collate(pixels, names, label_rows, landmarks, skipped, file_bytes)


def _landmarks(labels: dict[str, Any], image_size: tuple[int, int], size: int) -> np.ndarray:
    """Landmarks in pixels of the square image: short side resized to `size`, centre crop."""
    by_name = labels.get("landmarks") or {}
    points = np.array([by_name.get(name, (np.nan, np.nan)) for name in LANDMARKS], np.float32)
    short = min(image_size)
    offset = (np.array(image_size, np.float32) - short) / 2
    return (points - offset) * (size / short)


def _collate(
    images: torch.Tensor,
    names: list[str],
    labels: list[dict[str, Any]],
    landmarks: list[np.ndarray],
    skipped: list[tuple[str, str]],
    file_bytes: int,
) -> Faces:
    au_names = tuple(sorted({unit for row in labels for unit in row.get("au") or {}}))
    expression_names = tuple(sorted({row["expression"] for row in labels if row.get("expression")}))
    people = dict.fromkeys(row["identity"] for row in labels if "identity" in row)
    identities = {name: number for number, name in enumerate(people)}
    pose = [[float(row.get(angle, np.nan)) for angle in ANGLES] for row in labels]
    # inside `au` a missing unit is 0; without `au` all are unknown
    au = [[row["au"].get(unit, 0.0) if "au" in row else np.nan for unit in au_names] for row in labels]
    classes = {name: number for number, name in enumerate(expression_names)}
    return Faces(
        images,
        names,
        torch.from_numpy(np.stack(landmarks)),
        torch.tensor(pose),
        torch.tensor(au, dtype=torch.float32).view(len(names), len(au_names)),
        torch.tensor([classes.get(row.get("expression"), -1) for row in labels]),
        torch.tensor([identities.get(row.get("identity"), -1) for row in labels]),
        au_names,
        expression_names,
        skipped,
        file_bytes,
    )
