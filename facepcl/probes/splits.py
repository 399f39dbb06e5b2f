"""Which images train a probe, choose its strength, and are scored, once."""

from collections.abc import Iterator
from itertools import chain

import numpy as np

from facepcl.data.sources import Item
from facepcl.errors import DataError
from facepcl.probes.manifest import TEST, TRAIN, VAL, Labelled, Manifest
from facepcl.probes.metrics import subject_numbers

HELD_OUT = 0.2  # the part that a missing split gets
FOLDS = 3  # of subjects, where a data set has no split at all


def join(train: Manifest, test: Manifest) -> Manifest:
    """Two data sets as one: the first without its test images, and the second's test images, or all of it
    if it has no splits."""
    first = [i for i, image in enumerate(train.images) if image.split != TEST]
    second = [i for i, image in enumerate(test.images) if image.split == TEST] or range(len(test.images))
    images = [_as_train(train.images[i]) for i in first]
    images += [test.images[i]._replace(split=TEST) for i in second]

    def items() -> Iterator[Item]:
        return chain(_chosen(train, set(first)), _chosen(test, set(second)))

    return Manifest(
        layout=f"{train.layout} + {test.layout}",
        images=images,
        items=items,
        files=[*train.files, *test.files],
        pairs=[],
        classes=train.classes,
        dropped=train.dropped + test.dropped,
        notes=(*train.notes, *test.notes),
    )


def _as_train(image: Labelled) -> Labelled:
    return image if image.split == VAL else image._replace(split=TRAIN)


def _chosen(manifest: Manifest, rows: set[int]) -> Iterator[Item]:
    return (item for i, item in enumerate(manifest.items()) if i in rows)


def complete_splits(manifest: Manifest, seed: int) -> np.ndarray:
    """The split of each image `[N]`: the data set's own; a missing test or val split is drawn, by subject,
    out of the training images. Raises DataError if only some images have one."""
    splits = np.array([image.split for image in manifest.images], dtype="<U5")
    if (splits == "").any() and (splits != "").any():
        row = int(np.flatnonzero(splits == "")[0])
        raise DataError(f"{manifest.images[row].name} is in no split, and other images are; name all or none")
    splits[splits == ""] = TRAIN
    if not (splits == TRAIN).any():
        raise DataError(f"no image of the {manifest.layout} data is in the split {TRAIN!r}")
    for number, name in enumerate((TEST, VAL)):
        if not (splits == name).any():
            rows = np.flatnonzero(splits == TRAIN)
            splits[rows[_held_out(manifest, rows, (seed, number))]] = name
    return splits


def _held_out(manifest: Manifest, rows: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """A fifth of `rows`, all images of a subject together, or else of each expression, as a mask."""
    if not any(manifest.images[i].subject for i in rows):
        classes = np.array([manifest.images[i].expression or "" for i in rows])
        order = np.random.default_rng(seed).permutation(len(rows))
        order = order[np.argsort(classes[order], kind="stable")]
        held = np.zeros(len(rows), bool)
        held[order[:: round(1 / HELD_OUT)]] = True
        return held
    subjects = subject_numbers([manifest.images[i].subject for i in rows])
    if (people := len(np.unique(subjects))) < 2:
        raise DataError(
            f"{people} person is left to draw the missing splits from; test and val by person take 3 people"
        )
    return fold_of(subjects, min(round(1 / HELD_OUT), people), seed) == 0


def fold_of(subjects: np.ndarray, folds: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """The fold `[N]` of each example: subjects, shuffled, dealt so that folds hold about as many examples.

    Raises DataError for fewer subjects than folds.
    """
    counts = np.bincount(subjects)
    if len(counts) < folds:
        raise DataError(f"{len(counts)} subjects are too few for {folds} folds of different subjects")
    order = np.random.default_rng(seed).permutation(len(counts))
    if counts.max() > 1:  # big ones first, each to the emptiest fold
        order = order[np.argsort(-counts[order], kind="stable")]
    held, fold = np.zeros(folds), np.empty(len(counts), np.int64)
    for subject in order:
        fold[subject] = held.argmin()
        held[fold[subject]] += counts[subject]
    return fold[subjects]
