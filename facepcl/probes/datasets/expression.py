"""Facial expression: FER-2013, RAF-DB, AffectNet, class folders."""

from collections.abc import Iterator
from math import isqrt
from pathlib import Path

import numpy as np

from facepcl.data.sources import Item
from facepcl.errors import DataError
from facepcl.probes.datasets.common import (
    Layout,
    at,
    existing,
    fields,
    images_below,
    of_files,
    split_named,
    table,
    to_integer,
)
from facepcl.probes.datasets.csv_files import csv_layout
from facepcl.probes.datasets.shards import shards_layout
from facepcl.probes.manifest import TEST, TRAIN, VAL, Labelled, Manifest

FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
RAF_DB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # from 1 on
AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
_NO_EXPRESSION = 10  # AffectNet's 8 none, 9 uncertain and 10 no face
_USAGE = {"Training": TRAIN, "PublicTest": VAL, "PrivateTest": TEST}


def _fer2013_csv(path: Path) -> Path | None:
    names = [path] if path.is_file() else [path / "fer2013.csv", path / "icml_face_data.csv"]
    names = [p for p in names if p.suffix.lower() == ".csv" and p.is_file()]
    return next((p for p in names if {"emotion", "pixels", "Usage"} <= set(table(p)[0])), None)


def read_fer2013(path: Path, seed: int = 0) -> Manifest:
    """FER-2013 as Kaggle has it: PublicTest is val, PrivateTest is test.

    The pixels become images only as they are asked for. Raises DataError with the line.
    """
    if (file := _fer2013_csv(path)) is None:
        raise DataError(f"{path} is or holds no fer2013.csv with the columns emotion, pixels and Usage")
    images = []
    for number, row in table(file)[1]:
        where = at(file, number)
        label = to_integer(row["emotion"], 0, len(FER2013) - 1, "emotion", where)
        if row["Usage"] not in _USAGE:
            raise DataError(f"{where}: Usage is {row['Usage'][:40]!r}, not one of {', '.join(_USAGE)}")
        images.append(Labelled(where, _USAGE[row["Usage"]], expression=FER2013[label]))
    manifest = of_files("fer2013", images, classes=FER2013)
    manifest.items, manifest.files = lambda: _drawn(file), [file]
    return manifest


def _drawn(file: Path) -> Iterator[Item]:
    """Each row's pixels as an encoded image."""
    for number, row in table(file)[1]:
        where = at(file, number)
        try:
            pixels = np.array(row["pixels"].split(), dtype=np.int64)
        except (ValueError, OverflowError):
            pixels = np.empty(0, np.int64)
        side = isqrt(len(pixels))
        if not side or side * side != len(pixels) or pixels.min() < 0 or pixels.max() > 255:
            yield Item(where, error="its pixels are no square of numbers from 0 to 255")
        else:
            yield Item(where, b"P5 %d %d 255\n" % (side, side) + pixels.astype(np.uint8).tobytes())


_RAF_LIST = Path("EmoLabel", "list_patition_label.txt")  # so spelt


def _raf_root(path: Path) -> Path | None:
    return next((p for p in (path, path / "basic") if (p / _RAF_LIST).is_file()), None)


def read_raf_db(path: Path, seed: int = 0) -> Manifest:
    """The basic set of RAF-DB with its aligned images; the names tell train and test.

    Raises DataError or MissingPath with the line.
    """
    root = _raf_root(path) or path
    file, images = root / _RAF_LIST, []
    for number, (name, label) in fields(file, 2):
        where = at(file, number)
        split = split_named(name.partition("_")[0])
        if not split:
            raise DataError(f"{where}: {name[:40]!r} begins neither with train_ nor with test_")
        image = root / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg"
        expression = RAF_DB[to_integer(label, 1, len(RAF_DB), "the label", where) - 1]
        images.append(Labelled(str(existing(image, where)), split, expression=expression))
    return of_files("raf-db", images, [file], RAF_DB)


def read_affectnet(path: Path, seed: int = 0) -> Manifest:
    """AffectNet's train_set and val_set; val_set is what results are reported on, so it is test.

    Faces without one of the eight expressions are left out. Raises DataError or MissingPath.
    """
    images, files, dropped = [], [], 0
    for folder, split in (("train_set", TRAIN), ("val_set", TEST)):
        for image in images_below(path / folder / "images"):
            file = path / folder / "annotations" / f"{image.stem}_exp.npy"
            label = _array_label(file)
            files.append(file)
            if label < len(AFFECTNET):
                images.append(Labelled(str(image), split, expression=AFFECTNET[label]))
            else:
                dropped += 1
    notes = [f"{dropped} of {len(files)} images left out: no expression, or no face"] if dropped else []
    classes = [name for name in AFFECTNET if any(image.expression == name for image in images)]
    return of_files("affectnet", images, files, classes, dropped, notes)


def _array_label(file: Path) -> int:
    """The number in an annotation: an array of one string or number."""
    existing(file, f"{file.parent}")
    try:
        found = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{file} is no array of one label ({error})") from error
    if found.size != 1:
        raise DataError(f"{file} holds {found.size} labels where 1 was expected")
    return to_integer(str(found.item()), 0, _NO_EXPRESSION, "the expression", str(file))


def _split_folders(path: Path) -> dict[Path, str]:
    """The folders of splits with the split of each. FER-2013's public test half is val beside the private."""
    if not path.is_dir():
        return {}
    names = {f.name.lower().replace("_", ""): f for f in sorted(path.iterdir()) if f.is_dir()}
    found = {folder: split_named(name) for name, folder in names.items()}
    if "publictest" in names:
        found[names["publictest"]] = VAL if "privatetest" in names else TEST
    if "privatetest" in names:
        found[names["privatetest"]] = TEST
    return {folder: split for folder, split in found.items() if split}


def _classes_below(folder: Path) -> dict[str, list[Path]]:
    """The images in each class folder; those beside the folders are none's."""
    if not folder.is_dir():
        return {}
    found = {f.name: images_below(f) for f in sorted(folder.iterdir()) if f.is_dir() and f.name[0] != "."}
    return {name: images for name, images in found.items() if images}


def read_split_folders(path: Path, seed: int = 0) -> Manifest:
    """SPLIT/CLASS/IMAGE, as FER-2013 is spread as folders. Raises DataError if there is no image."""
    folders = _split_folders(path)
    images = [
        Labelled(str(image), split, expression=name)
        for folder, split in folders.items()
        for name, found in _classes_below(folder).items()
        for image in found
    ]
    return of_files("split-folders", images, classes=sorted({i.expression for i in images if i.expression}))


def read_class_folders(path: Path, seed: int = 0) -> Manifest:
    """CLASS/IMAGE, without splits. Raises DataError if there is no image."""
    classes = _classes_below(path)
    images = [Labelled(str(i), expression=name) for name, found in classes.items() for i in found]
    return of_files("class-folders", images, classes=list(classes))


LAYOUTS = (
    Layout(
        "fer2013",
        lambda path: _fer2013_csv(path) is not None,
        read_fer2013,
        "fer2013.csv or icml_face_data.csv with the columns emotion, pixels and Usage",
    ),
    csv_layout("expression"),
    shards_layout("expression"),
    Layout("raf-db", lambda path: _raf_root(path) is not None, read_raf_db, str(_RAF_LIST)),
    Layout(
        "affectnet",
        lambda path: any((path / s / "annotations").is_dir() for s in ("train_set", "val_set")),
        read_affectnet,
        "train_set/annotations or val_set/annotations",
    ),
    Layout(
        "split-folders",
        lambda path: any(_classes_below(folder) for folder in _split_folders(path)),
        read_split_folders,
        "train/CLASS/IMAGE and test/CLASS/IMAGE",
    ),
    Layout("class-folders", lambda path: len(_classes_below(path)) > 1, read_class_folders, "CLASS/IMAGE"),
)
