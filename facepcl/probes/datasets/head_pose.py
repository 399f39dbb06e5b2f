"""Head pose: 300W-LP, AFLW2000, FSA-Net's npz, BIWI."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from facepcl.data.labels import five_points
from facepcl.data.sources import Item
from facepcl.errors import DataError, require
from facepcl.images.geometry import Square, square_around
from facepcl.images.rotations import from_camera, from_pose_para
from facepcl.probes.datasets.common import Layout, existing, fields, images_below, keep, of_files, to_number
from facepcl.probes.datasets.csv_files import csv_layout
from facepcl.probes.datasets.shards import shards_layout
from facepcl.probes.manifest import TEST, TRAIN, Labelled, Manifest

MAX_ANGLE = 99.0  # degrees: the fits are wrong beyond it; every published table leaves such samples out
_HEAD = 110.0  # millimetres: half the side of BIWI's square
_300W_LP = ("AFW_", "HELEN_", "IBUG_", "LFPW_")
_SAME_PERSON = {"15": "03", "18": "05", "21": "02", "22": "07"}  # BIWI's second recordings of a person


def _triple(row: np.ndarray) -> tuple[float, float, float]:
    return float(row[0]), float(row[1]), float(row[2])


def _left_out(count: int, kept: int, reason: str = "an angle beyond 99 degrees") -> list[str]:
    return [f"{count} of {count + kept} images left out: {reason}"] if count else []


def _limited(layout: Layout) -> Layout:
    """The layout without images that are turned too far."""

    def read(path: Path, **options: str) -> Manifest:
        manifest = layout.read(path, **options)
        kept = [all(abs(angle) <= MAX_ANGLE for angle in image.pose or ()) for image in manifest.images]
        far = kept.count(False)
        if far == len(kept):
            raise DataError(f"{path}: every image has an angle beyond {MAX_ANGLE:g} degrees")
        manifest.dropped += far
        manifest.notes += tuple(_left_out(far, len(kept) - far))
        return keep(manifest, kept)

    return layout._replace(read=read)


def _protocol_splits(images: list[Labelled], test: Sequence[bool]) -> list[Labelled]:
    """Train and test if a path holds data of both kinds; otherwise no splits."""
    if all(test) or not any(test):
        return images
    return [i._replace(split=TEST if t else TRAIN) for i, t in zip(images, test, strict=True)]


def read_mat(path: Path) -> Manifest:
    """300W-LP or AFLW2000: a .mat beside each .jpg; of a folder with both, AFLW2000 is the test split.

    The subject of a 300W-LP image is the photo from which it was rendered. Raises DataError for a file
    without angles, MissingExtra without scipy.
    """
    loadmat = require("scipy.io", "probe").loadmat
    images, files, test, far, unlabelled = [], [], [], 0, 0
    for image in images_below(path):
        file = image.with_suffix(".mat")
        if not file.is_file():
            unlabelled += 1
            continue
        pitch_yaw_roll, points = _mat_labels(loadmat, file)
        if np.abs(pitch_yaw_roll).max() > MAX_ANGLE:
            far += 1
            continue
        is_aflw2000 = image.stem.startswith("image") and image.stem[5:].isdigit()
        subject = "" if is_aflw2000 else image.stem.rpartition("_")[0]
        pose = _triple(from_pose_para(pitch_yaw_roll)[0])
        square = square_around(points, turn=False) if points else None
        images.append(Labelled(str(image), subject=subject, pose=pose, landmarks=points, square=square))
        test.append(is_aflw2000)
        files.append(file)
    notes = _left_out(far, len(images)) + _left_out(unlabelled, len(images) + far, "no .mat file")
    layout = "aflw2000" if test and all(test) else "300w-lp"
    if not all(t or Path(i.name).name.startswith(_300W_LP) for i, t in zip(images, test, strict=True)):
        layout = "mat"  # another data set with labels of this form
    return of_files(layout, _protocol_splits(images, test), files, dropped=far + unlabelled, notes=notes)


def _mat_labels(
    loadmat: Callable[..., Any], file: Path
) -> tuple[np.ndarray, tuple[tuple[float, float], ...] | None]:
    """Pitch, yaw and roll in degrees, and the five landmarks if the file has 68."""
    try:
        content = loadmat(file, variable_names=["Pose_Para", "pt3d_68", "pt2d"])
        angles = np.degrees(np.asarray(content["Pose_Para"], np.float64).ravel()[:3])
    except KeyError as error:
        raise DataError(f"{file} holds no Pose_Para") from error
    except Exception as error:  # a damaged .mat raises nearly any error
        raise DataError(f"{file} is not a .mat file, or is cut off ({error})") from error
    if angles.shape != (3,) or not np.isfinite(angles).all():
        raise DataError(f"{file}: Pose_Para does not begin with pitch, yaw and roll")
    points = np.asarray(content.get("pt3d_68", content.get("pt2d", np.empty((0, 0)))), np.float64)
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 68:  # AFLW2000's pt2d has 21 points
        return angles, None
    return angles, five_points(points[:2].T)


def _npz_files(path: Path) -> list[Path]:
    if path.suffix == ".npz" and path.is_file():
        return [path]
    return sorted(path.glob("*.npz")) if path.is_dir() else []


def read_npz(path: Path) -> Manifest:
    """FSA-Net's arrays `image` and `pose` (yaw, pitch, roll), a file or a folder of them.

    In a folder, AFLW2000 and BIWI are the test split beside other files, except BIWI_train. Raises DataError
    for other arrays.
    """
    images, test, masks = [], [], []
    files = _npz_files(path)
    for file in files:
        angles = _npz_angles(file)
        kept = np.abs(angles).max(1) <= MAX_ANGLE
        pose = from_pose_para(angles[:, [1, 0, 2]])
        images += [Labelled(f"{file}/{i}", pose=_triple(pose[i])) for i in np.flatnonzero(kept)]
        name = file.stem.lower()
        test_name = name.startswith(("aflw2000", "biwi")) and not name.endswith("train")
        test += [test_name or name.endswith("test")] * int(kept.sum())
        masks.append(kept)
    far = sum(map(len, masks)) - len(images)
    images = _protocol_splits(images, test)
    manifest = of_files("fsa-net", images, dropped=far, notes=_left_out(far, len(images)))
    manifest.files = files
    manifest.items = lambda: (i for f, kept in zip(files, masks, strict=True) for i in _npz_items(f, kept))
    return manifest


def _npz_angles(file: Path) -> np.ndarray:
    """Yaw, pitch and roll `[N, 3]`."""
    try:
        with _npz_images(file) as (_, count, _, _):
            pass
        with np.load(file, allow_pickle=False) as arrays:
            angles = np.asarray(arrays["pose"], np.float64)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} holds no array of numbers `pose` or no `image` ({error})") from error
    if angles.shape != (count, 3) or not np.isfinite(angles).all():
        raise DataError(f"{file}: pose is {list(angles.shape)}, not {count} times yaw, pitch and roll")
    return angles


@contextmanager
def _npz_images(file: Path) -> Iterator[tuple[IO[bytes], int, int, int]]:
    """The opened array `image` after its header, with its number of images, their height and width."""
    with zipfile.ZipFile(file) as archive, archive.open("image.npy") as array:
        version = np.lib.format.read_magic(array)
        name = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
        shape, fortran, dtype = getattr(np.lib.format, name)(array)
        if len(shape) != 4 or shape[3] != 3 or fortran or dtype != np.uint8:
            raise DataError(f"{file}: image is {dtype} {list(shape)}, not uint8 [N, H, W, 3]")
        yield array, *shape[:3]


def _npz_items(file: Path, kept: np.ndarray) -> Iterator[Item]:
    """The kept images one by one: the whole array may be larger than memory. OpenCV wrote them as BGR."""
    with _npz_images(file) as (array, _, height, width):
        for i, is_kept in enumerate(kept):
            data = array.read(height * width * 3)
            if is_kept:
                pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)[..., ::-1]
                yield Item(f"{file}/{i}", b"P6 %d %d 255\n" % (width, height) + pixels.tobytes())


def _biwi_root(path: Path) -> Path | None:
    roots = (path, path / "hpdb")
    return next((p for p in roots if next(p.glob("[0-9][0-9]/frame_*_pose.txt"), None)), None)


def read_biwi(path: Path) -> Manifest:
    """BIWI: frame_00003_rgb.png, its rotation and the head's centre in frame_00003_pose.txt, and rgb.cal.

    Raises DataError or MissingPath with the file.
    """
    images, files = [], []
    for folder in sorted((_biwi_root(path) or path).glob("[0-9][0-9]")):
        poses = sorted(folder.glob("frame_*_pose.txt"))
        if not poses:
            continue
        head_square = _biwi_camera(folder / "rgb.cal")
        files += [folder / "rgb.cal", *poses]
        for file in poses:
            rows = [
                [to_number(n, "a value", f"{file}, line {line}") for n in numbers]
                for line, numbers in fields(file, 3)
            ]
            if len(rows) != 4:
                raise DataError(f"{file} has {len(rows)} lines of numbers where 4 were expected")
            pose = _triple(from_camera(np.array(rows[:3]))[0])
            image = existing(file.with_name(file.name.replace("_pose.txt", "_rgb.png")), str(file))
            subject = _SAME_PERSON.get(folder.name, folder.name)
            square = head_square(np.array(rows[3]))
            images.append(Labelled(str(image), subject=subject, pose=pose, square=square))
    return of_files("biwi", images, files)


def _biwi_camera(file: Path) -> Callable[[np.ndarray], Square]:
    """The square in the colour image around a head whose centre is given in the depth camera's axes."""
    rows = [numbers for _, numbers in fields(file)]
    lengths = [len(row) for row in rows[:8]]
    if len(rows) < 8 or lengths[:3] + lengths[4:] != [3] * 7:
        raise DataError(f"{file} is no calibration: a matrix, distortion, a rotation and a translation")
    numbers = [[to_number(n, "a value", str(file)) for n in row] for row in rows[:8]]
    matrix, rotation, translation = np.array(numbers[:3]), np.array(numbers[4:7]), np.array(numbers[7])

    def head_square(centre: np.ndarray) -> Square:
        x, y, depth = matrix @ (rotation @ centre + translation)
        return Square(float(x / depth), float(y / depth), float(matrix[0, 0] * _HEAD / depth))

    return head_square


LAYOUTS = (
    _limited(csv_layout("pose")),
    _limited(
        Layout(
            "biwi",
            lambda path: _biwi_root(path) is not None,
            read_biwi,
            "hpdb/01/frame_00003_pose.txt or 01/frame_...",
        )
    ),
    Layout(
        "aflw2000",
        lambda path: next(path.glob("image[0-9]*.mat"), None) is not None,
        read_mat,
        "image00002.mat beside image00002.jpg",
    ),
    Layout(
        "300w-lp",
        lambda path: path.is_dir() and any(i.with_suffix(".mat").is_file() for i in images_below(path)),
        read_mat,
        "IMAGE.mat beside IMAGE.jpg",
    ),
    _limited(shards_layout("pose")),
    Layout("fsa-net", lambda path: bool(_npz_files(path)), read_npz, "a .npz file with image and pose"),
)
