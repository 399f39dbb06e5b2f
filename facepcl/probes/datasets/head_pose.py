"""Head pose: 300W-LP, AFLW2000, FSA-Net's npz, BIWI."""

import dataclasses
import zipfile
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.data.sources import Item
from facepcl.errors import DataError, require
from facepcl.images.geometry import Square, square_around
from facepcl.probes.datasets.common import (
    Layout,
    existing,
    fields,
    five_points,
    images_below,
    of_files,
    to_number,
)
from facepcl.probes.datasets.csv_files import csv_layout
from facepcl.probes.datasets.shards import shards_layout
from facepcl.probes.manifest import TEST, TRAIN, Labelled, Manifest
from facepcl.probes.rotations import from_camera, from_pose_para

WIDEST = 99.0  # degrees: beyond it the fits are wrong; every published table leaves such samples out
_HEAD = 110.0  # millimetres: half the side of BIWI's square
_AGAIN = {"15": "03", "18": "05", "21": "02", "22": "07"}  # BIWI's recordings of people recorded before


def _triple(row: np.ndarray) -> tuple[float, float, float]:
    return float(row[0]), float(row[1]), float(row[2])


def _left_out(count: int, kept: int, why: str = "an angle beyond 99 degrees") -> list[str]:
    return [f"{count} of {count + kept} images left out: {why}"] if count else []


def _near(layout: Layout) -> Layout:
    """The layout without the images that are turned too far."""

    def read(path: Path, seed: int) -> Manifest:
        found = layout.read(path, seed)
        kept = [all(abs(angle) <= WIDEST for angle in image.pose or ()) for image in found.images]
        far = len(kept) - sum(kept)
        if not any(kept):
            raise DataError(f"{path}: every image has an angle beyond {WIDEST:g} degrees")
        return dataclasses.replace(
            found,
            images=list(compress(found.images, kept)),
            items=lambda: compress(found.items(), kept),
            dropped=found.dropped + far,
            notes=(*found.notes, *_left_out(far, sum(kept))),
        )

    return layout._replace(read=read)


def _protocol_splits(images: list[Labelled], test: Sequence[bool]) -> list[Labelled]:
    """Train and test where a path holds data of both kinds; otherwise no splits."""
    if all(test) or not any(test):
        return images
    return [i._replace(split=TEST if t else TRAIN) for i, t in zip(images, test, strict=True)]


def read_mat(path: Path, seed: int = 0) -> Manifest:
    """300W-LP or AFLW2000: a .mat beside each .jpg; of a folder with both, AFLW2000 is the test split.

    The subject of a 300W-LP image is the photograph that it was made from. Raises DataError for a file
    without its angles, MissingExtra without scipy.
    """
    scipy_io = require("scipy.io", "probe")
    images, files, test, far, bare = [], [], [], 0, 0
    for image in images_below(path):
        file = image.with_suffix(".mat")
        if not file.is_file():
            bare += 1
            continue
        theirs, points = _mat_labels(scipy_io, file)
        if np.abs(theirs).max() > WIDEST:
            far += 1
            continue
        pose = _triple(from_pose_para(theirs)[0])
        photograph = "" if _is_aflw2000(image) else image.stem.rpartition("_")[0]
        square = square_around(points, turn=False) if points else None
        images.append(Labelled(str(image), subject=photograph, pose=pose, landmarks=points, square=square))
        test.append(_is_aflw2000(image))
        files.append(file)
    notes = _left_out(far, len(images)) + _left_out(bare, len(images) + far, "no .mat file")
    layout = "aflw2000" if test and all(test) else "300w-lp"
    return of_files(layout, _protocol_splits(images, test), files, dropped=far + bare, notes=notes)


def _is_aflw2000(image: Path) -> bool:
    return image.stem.startswith("image") and image.stem[5:].isdigit()


def _mat_labels(scipy_io: Any, file: Path) -> tuple[np.ndarray, tuple[tuple[float, float], ...] | None]:
    """Pitch, yaw and roll in degrees, and the five landmarks if the 68 are there."""
    try:
        found = scipy_io.loadmat(file, variable_names=["Pose_Para", "pt3d_68", "pt2d"])
        theirs = np.degrees(np.asarray(found["Pose_Para"], np.float64).ravel()[:3])
    except KeyError as error:
        raise DataError(f"{file} holds no Pose_Para") from error
    except Exception as error:  # a damaged .mat raises nearly any error
        raise DataError(f"{file} is no .mat file, or is cut off ({error})") from error
    if theirs.shape != (3,) or not np.isfinite(theirs).all():
        raise DataError(f"{file}: Pose_Para does not begin with pitch, yaw and roll")
    points = np.asarray(found.get("pt3d_68", found.get("pt2d", np.empty((0, 0)))), np.float64)
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 68:  # AFLW2000's pt2d has 21 points
        return theirs, None
    return theirs, five_points(points[:2].T)


def _npz_files(path: Path) -> list[Path]:
    if path.suffix == ".npz" and path.is_file():
        return [path]
    return sorted(path.glob("*.npz")) if path.is_dir() else []


def read_npz(path: Path, seed: int = 0) -> Manifest:
    """FSA-Net's arrays `image` and `pose` (yaw, pitch, roll), a file or a folder of them.

    In a folder, AFLW2000 and BIWI are the test split beside other files, except BIWI_train. Raises DataError
    for other arrays.
    """
    images, test, kept, dropped = [], [], [], 0
    files = _npz_files(path)
    for file in files:
        count, _ = _npz_shape(file)
        theirs = _npz_pose(file, count)
        near = np.abs(theirs).max(1) <= WIDEST
        ours = from_pose_para(theirs[:, [1, 0, 2]])
        images += [Labelled(f"{file}/{i}", pose=_triple(ours[i])) for i in np.flatnonzero(near)]
        test += [_is_test_array(file)] * int(near.sum())
        kept.append(near)
        dropped += int((~near).sum())
    manifest = of_files(
        "fsa-net", _protocol_splits(images, test), dropped=dropped, notes=_left_out(dropped, len(images))
    )
    manifest.files = files
    manifest.items = lambda: (i for f, n in zip(files, kept, strict=True) for i in _npz_items(f, n))
    return manifest


def _is_test_array(file: Path) -> bool:
    name = file.stem.lower()
    return name.endswith("test") or (name.startswith(("aflw2000", "biwi")) and not name.endswith("train"))


def _npz_pose(file: Path, count: int) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            pose = np.asarray(arrays["pose"], np.float64)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} holds no array of numbers `pose` ({error})") from error
    if pose.shape != (count, 3) or not np.isfinite(pose).all():
        raise DataError(f"{file}: pose is {list(pose.shape)}, not {count} times yaw, pitch and roll")
    return pose


def _npz_shape(file: Path) -> tuple[int, tuple[int, int]]:
    """How many images there are, and their height and width, by the array's header."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("image.npy") as array:
            return _array_header(array, file)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} holds no array `image` ({error})") from error


def _array_header(array: Any, file: Path) -> tuple[int, tuple[int, int]]:
    version = np.lib.format.read_magic(array)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(array)
    if len(shape) != 4 or shape[3] != 3 or columns_first or dtype != np.uint8:
        raise DataError(f"{file}: image is {dtype} {list(shape)}, not uint8 [N, H, W, 3]")
    return shape[0], (shape[1], shape[2])


def _npz_items(file: Path, kept: np.ndarray) -> Iterator[Item]:
    """The kept images one by one: the whole array may be larger than memory. OpenCV wrote them as BGR."""
    with zipfile.ZipFile(file) as archive, archive.open("image.npy") as array:
        _, (height, width) = _array_header(array, file)
        for i, wanted in enumerate(kept):
            data = array.read(height * width * 3)
            if wanted:
                pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)[..., ::-1]
                yield Item(f"{file}/{i}", b"P6 %d %d 255\n" % (width, height) + pixels.tobytes())


def _biwi_root(path: Path) -> Path | None:
    roots = (path, path / "hpdb")
    return next((p for p in roots if next(p.glob("[0-9][0-9]/frame_*_pose.txt"), None)), None)


def read_biwi(path: Path, seed: int = 0) -> Manifest:
    """BIWI: frame_00003_rgb.png, its rotation and the head's centre in frame_00003_pose.txt, and rgb.cal.

    Raises DataError or MissingPath with the file.
    """
    root = _biwi_root(path) or path
    images, files, dropped = [], [], 0
    for folder in sorted(root.glob("[0-9][0-9]")):
        poses = sorted(folder.glob("frame_*_pose.txt"))
        if not poses:
            continue
        camera = _Camera(folder / "rgb.cal")
        files += [folder / "rgb.cal", *poses]
        for file in poses:
            rows = _rows(file, 4)
            pose = _triple(from_camera(rows[:3])[0])
            if max(map(abs, pose)) > WIDEST:
                dropped += 1
                continue
            image = existing(file.with_name(file.name.replace("_pose.txt", "_rgb.png")), str(file))
            subject = _AGAIN.get(folder.name, folder.name)
            images.append(Labelled(str(image), subject=subject, pose=pose, square=camera.square(rows[3])))
    return of_files("biwi", images, files, dropped=dropped, notes=_left_out(dropped, len(images)))


class _Camera:
    """The colour camera: its own matrix, and where it is seen from the depth camera, in whose axes poses are
    given."""

    def __init__(self, file: Path) -> None:
        rows = [numbers for _, numbers in fields(file)]
        if [len(row) for row in rows[:8]] != [3, 3, 3, len(rows[3]) if len(rows) > 3 else 0, 3, 3, 3, 3]:
            raise DataError(f"{file} is no calibration: a matrix, distortion, a rotation and a translation")
        numbers = [[to_number(n, "a value", str(file)) for n in row] for row in rows[:8]]
        self.matrix = np.array(numbers[:3])
        self.rotation, self.translation = np.array(numbers[4:7]), np.array(numbers[7])

    def square(self, centre: np.ndarray) -> Square:
        """The square around a head with this centre in millimetres."""
        x, y, depth = self.matrix @ (self.rotation @ centre + self.translation)
        return Square(float(x / depth), float(y / depth), float(self.matrix[0, 0] * _HEAD / depth))


def _rows(file: Path, count: int) -> np.ndarray:
    """A file of `count` rows of three numbers."""
    rows = [
        [to_number(n, "a value", f"{file}, line {line}") for n in numbers]
        for line, numbers in fields(file, 3)
    ]
    if len(rows) != count:
        raise DataError(f"{file} has {len(rows)} lines of numbers where {count} were expected")
    return np.array(rows)


def _has_mat(path: Path) -> bool:
    return path.is_dir() and any(image.with_suffix(".mat").is_file() for image in images_below(path))


LAYOUTS = (
    _near(csv_layout("pose")),
    _near(shards_layout("pose")),
    Layout("fsa-net", lambda path: bool(_npz_files(path)), read_npz, "a .npz file with image and pose"),
    Layout(
        "biwi",
        lambda path: _biwi_root(path) is not None,
        read_biwi,
        "hpdb/01/frame_00003_pose.txt or 01/frame_...",
    ),
    Layout(
        "aflw2000",
        lambda path: next(path.glob("image[0-9]*.mat"), None) is not None,
        read_mat,
        "image00002.mat beside image00002.jpg",
    ),
    Layout("300w-lp", _has_mat, read_mat, "IMAGE.mat beside IMAGE.jpg"),
)
