"""Facial expression: FER-2013, RAF-DB, AffectNet, class folders."""

from collections.abc import Iterator
from functools import partial
from math import isqrt
from pathlib import Path

import numpy as np

from facepcl.data.people import are_splits, split_named
from facepcl.data.sources import Item
from facepcl.errors import DataError
from facepcl.probes.datasets.common import (
    Layout,
    at,
    existing,
    fields,
    images_below,
    of_files,
    table,
    to_integer,
    unread_note,
)
from facepcl.probes.datasets.csv_files import csv_layout
from facepcl.probes.datasets.shards import shards_layout
from facepcl.probes.manifest import TEST, TRAIN, VAL, Labelled, Manifest
from facepcl.utils.files import check_exists

FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
RAF_DB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # from 1 on
AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
_NO_EXPRESSION = 10  # AffectNet's 8 none, 9 uncertain and 10 no face
_USAGE = {"Training": TRAIN, "PublicTest": VAL, "PrivateTest": TEST}
_RAF_LIST = Path("EmoLabel", "list_patition_label.txt")  # [sic]


def _fer2013_csv(path: Path) -> Path | None:
    files = [path] if path.is_file() else [path / "fer2013.csv", path / "icml_face_data.csv"]
    files = [p for p in files if p.suffix.lower() == ".csv" and p.is_file()]
    return next((p for p in files if {"emotion", "pixels", "usage"} <= set(table(p)[0])), None)


def read_fer2013(path: Path) -> Manifest:
    """FER-2013 as distributed on Kaggle: PublicTest is val, PrivateTest is test.

    Pixels are encoded lazily. Raises DataError with the line.
    """
    file, images = _fer2013_csv(path) or path, []
    for number, row in table(file)[1]:
        where = at(file, number)
        label = to_integer(row["emotion"], 0, len(FER2013) - 1, "emotion", where)
        if row["usage"] not in _USAGE:
            raise DataError(f"{where}: Usage is {row['usage'][:40]!r}, not one of {', '.join(_USAGE)}")
        images.append(Labelled(where, _USAGE[row["usage"]], expression=FER2013[label]))
    manifest = of_files("fer2013", images, classes=FER2013)
    manifest.items, manifest.files = lambda: _fer2013_items(file), [file]
    return manifest


def _fer2013_items(file: Path) -> Iterator[Item]:
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


def _raf_root(path: Path) -> Path | None:
    return next((p for p in (path, path / "basic") if (p / _RAF_LIST).is_file()), None)


def read_raf_db(path: Path) -> Manifest:
    """The basic set of RAF-DB with its aligned images; file names begin with the split.

    Raises DataError or MissingPath with the line.
    """
    root = _raf_root(path) or path
    file, images = root / _RAF_LIST, []
    for number, (name, label) in fields(file, 2):
        where = at(file, number)
        if not (split := split_named(name.partition("_")[0])):
            raise DataError(f"{where}: {name[:40]!r} begins neither with train_ nor with test_")
        image = root / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg"
        expression = RAF_DB[to_integer(label, 1, len(RAF_DB), "the label", where) - 1]
        images.append(Labelled(str(existing(image, where)), split, expression=expression))
    return of_files("raf-db", images, [file], RAF_DB)


def read_affectnet(path: Path) -> Manifest:
    """AffectNet's train_set and val_set; results are reported on val_set, so it is test.

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
    """The label in an annotation file: an array of one string or number."""
    check_exists(file)
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{file} is no array of one label ({error})") from error
    if array.size != 1:
        raise DataError(f"{file} holds {array.size} labels where 1 was expected")
    return to_integer(str(array.item()), 0, _NO_EXPRESSION, "the expression", str(file))


def _split_folders(path: Path) -> dict[Path, str]:
    """The folders of splits. FER-2013's public_test is val if there is a private_test, else test."""
    if not path.is_dir():
        return {}
    folders = {f: f.name.lower().replace("_", "") for f in sorted(path.iterdir()) if f.is_dir()}
    special = {"publictest": VAL if "privatetest" in folders.values() else TEST, "privatetest": TEST}
    splits = {folder: special.get(name) or split_named(name) for folder, name in folders.items()}
    return {folder: split for folder, split in splits.items() if split}


def _classes_below(folder: Path) -> dict[str, list[Path]]:
    """The images in each class folder; images beside the folders are ignored."""
    if not folder.is_dir():
        return {}
    classes = {f.name: images_below(f) for f in sorted(folder.iterdir()) if f.is_dir() and f.name[0] != "."}
    return {name: images for name, images in classes.items() if images}


def read_folders(path: Path, layout: str) -> Manifest:
    """SPLIT/CLASS/IMAGE, as FER-2013 is often distributed, or CLASS/IMAGE without splits.

    Raises DataError if there is no image.
    """
    splits = _split_folders(path) if layout == "split-folders" else {path: ""}
    for folder in splits:
        _check_classes(folder)
    images = [
        Labelled(str(image), split, expression=name)
        for folder, split in splits.items()
        for name, files in _classes_below(folder).items()
        for image in files
    ]
    classes = sorted({str(image.expression) for image in images})
    return of_files(layout, images, classes=classes, notes=unread_note(path))


def _check_classes(folder: Path) -> None:
    """Raise DataError for folders that are no classes: splits, or those of a data set in another packing."""
    classes = _classes_below(folder)
    if classes and are_splits(list(classes)):
        raise DataError(
            f"the folders in {folder} are splits ({', '.join(classes)}), not classes: CLASS/IMAGE or "
            "SPLIT/CLASS/IMAGE was expected"
        )
    for name, images in classes.items():
        if deeper := next((image for image in images if image.parent != folder / name), None):
            raise DataError(
                f"{deeper} lies deeper than CLASS/IMAGE or SPLIT/CLASS/IMAGE, so its class is not known"
            )


LAYOUTS = (
    Layout(
        "fer2013",
        lambda path: _fer2013_csv(path) is not None,
        read_fer2013,
        "fer2013.csv or icml_face_data.csv with the columns emotion, pixels and Usage",
    ),
    csv_layout("expression"),
    Layout("raf-db", lambda path: _raf_root(path) is not None, read_raf_db, str(_RAF_LIST)),
    Layout(
        "affectnet",
        lambda path: any((path / s / "annotations").is_dir() for s in ("train_set", "val_set")),
        read_affectnet,
        "train_set/annotations or val_set/annotations",
    ),
    Layout(
        "split-folders",
        lambda path: any(map(_classes_below, _split_folders(path))),
        partial(read_folders, layout="split-folders"),
        "train/CLASS/IMAGE and test/CLASS/IMAGE",
    ),
    Layout(
        "class-folders",
        lambda path: len(_classes_below(path)) > 1,
        partial(read_folders, layout="class-folders"),
        "CLASS/IMAGE",
    ),
    shards_layout("expression"),
)
