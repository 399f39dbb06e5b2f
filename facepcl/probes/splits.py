"""Which images train a probe, choose its strength, and are scored, once."""

from itertools import chain, compress

import numpy as np

from facepcl.errors import DataError
from facepcl.probes.manifest import TEST, TRAIN, VAL, Manifest

HELD_OUT = 5  # one in so many images is in a missing split
FOLDS = 3  # of subjects, if a data set has no split at all


def join(train: Manifest, test: Manifest) -> Manifest:
    """Two data sets as one: the first without its test images, and the second's test images, or all of it
    if it has no splits."""
    first = [image.split != TEST for image in train.images]
    second = [image.split == TEST for image in test.images]
    if not any(second):
        second = [True] * len(second)
    images = [i if i.split == VAL else i._replace(split=TRAIN) for i in compress(train.images, first)]
    images += [image._replace(split=TEST) for image in compress(test.images, second)]
    return Manifest(
        layout=f"{train.layout} + {test.layout}",
        images=images,
        items=lambda: chain(compress(train.items(), first), compress(test.items(), second)),
        files=[*train.files, *test.files],
        classes=train.classes,
        dropped=train.dropped + test.dropped,
        notes=(*train.notes, *test.notes),
    )


def complete_splits(manifest: Manifest, seed: int) -> np.ndarray:
    """The split of each image `[N]`: the data set's own; a missing test or val split is drawn, by subject,
    from the training images. Raises DataError if only some images have a split."""
    splits = np.array([image.split for image in manifest.images], dtype="<U5")
    if (splits == "").any() and (splits != "").any():
        row = int(np.flatnonzero(splits == "")[0])
        raise DataError(
            f"{manifest.images[row].name} has no split, but other images have one; name it for all or none"
        )
    splits[splits == ""] = TRAIN
    if not (splits == TRAIN).any():
        raise DataError(f"no image of the {manifest.layout} data is in the split {TRAIN!r}")
    for number, name in enumerate((TEST, VAL)):
        if not (splits == name).any():
            rows = np.flatnonzero(splits == TRAIN)
            splits[rows[_held_out(manifest, rows, (seed, number))]] = name
    return splits


def _held_out(manifest: Manifest, rows: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """A mask of a fifth of `rows`, by subject, or by expression if no subject is known."""
    if not any(manifest.images[i].subject for i in rows):
        classes = np.array([manifest.images[i].expression or "" for i in rows])
        order = np.random.default_rng(seed).permutation(len(rows))
        order = order[np.argsort(classes[order], kind="stable")]
        held_out = np.zeros(len(rows), bool)
        held_out[order[::HELD_OUT]] = True
        return held_out
    subjects = manifest.subjects(rows)
    if (people := len(np.unique(subjects))) < 2:
        raise DataError(
            f"{people} person is left to draw the missing splits from; test and val by person take 3 people"
        )
    return fold_of(subjects, min(HELD_OUT, people), seed) == 0


def fold_of(subjects: np.ndarray, folds: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """The fold `[N]` of each example, by subject: shuffled and dealt so that folds have similar sizes.

    Raises DataError for fewer subjects than folds.
    """
    counts = np.bincount(subjects)
    if len(counts) < folds:
        raise DataError(f"{len(counts)} subjects are too few for {folds} folds of different subjects")
    order = np.random.default_rng(seed).permutation(len(counts))
    if counts.max() > 1:  # largest first, each to the emptiest fold
        order = order[np.argsort(-counts[order], kind="stable")]
    sizes, fold = np.zeros(folds), np.empty(len(counts), np.int64)
    for subject in order:
        fold[subject] = sizes.argmin()
        sizes[fold[subject]] += counts[subject]
    return fold[subjects]
