"""Shared by the probes: options, the images of each split, the fit of a linear probe, mistakes to show."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from facepcl.errors import DataError
from facepcl.probes.features import Features
from facepcl.probes.manifest import TEST, TRAIN, VAL, Manifest
from facepcl.probes.metrics import tidy
from facepcl.probes.solvers import STRENGTHS, Basis, Linear, class_path, ridge_path
from facepcl.probes.splits import complete_splits

MISTAKES = 24  # in a report
MAPPED = 1500  # embeddings laid out in a report
EPOCHS = 300  # METHOD 6


@dataclass(frozen=True)
class Options:
    """How a task is scored; `shots` images per class in `repeats` draws, 0 = all images."""

    protocol: str = "clean"
    seed: int = 0
    shots: int = 0
    repeats: int = 5


class Rows(NamedTuple):
    """Indices of the readable, labelled images of each split."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @property
    def fitted(self) -> np.ndarray:
        """What the final probe is trained on, once its strength is chosen."""
        return np.sort(np.concatenate([self.train, self.val]))


def split_rows(manifest: Manifest, features: Features, seed: int) -> Rows:
    """The rows of train, val and test. Raises DataError if one is empty."""
    splits = complete_splits(manifest, seed)
    rows = Rows(*(np.flatnonzero(features.good & (splits == name)) for name in (TRAIN, VAL, TEST)))
    for name, indices in zip(Rows._fields, rows, strict=True):
        if not len(indices):
            count = int(features.good.sum())
            raise DataError(
                f"the split {name!r} has no readable image; the data has {count:,} in all, from which splits "
                "that it does not name are drawn"
            )
    faces = [(image.name, image.square) for image in manifest.images]
    fitted = {faces[i] for i in rows.fitted}
    if both := next((faces[i] for i in rows.test if faces[i] in fitted), None):
        raise DataError(f"{both[0]} is in train and in test; leave it out of one of them")
    return rows


def describe_rows(manifest: Manifest, rows: Rows) -> dict[str, int | None]:
    """The numbers of images per split, of subjects, and of subjects in train and test, None if unknown.

    Splits without images are left out: rows that are scored in folds are all in `test`.
    """
    subjects = [{manifest.images[i].subject for i in indices} for indices in rows]
    everybody = set.union(*subjects)
    known = "" not in everybody
    overlap = len((subjects[0] | subjects[1]) & subjects[2]) if known else None
    counts = {
        f"n_{name}": len(indices) for name, indices in zip(Rows._fields, rows, strict=True) if len(indices)
    }
    return {**counts, "subjects": len(everybody) if known else None, "subjects_in_train_and_test": overlap}


def people_note(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """A note if people are unknown, or are in train and in test."""
    if "subjects_in_train_and_test" not in numbers:
        return ()
    if (overlap := numbers["subjects_in_train_and_test"]) is None:
        return ("The people in some images are unknown, so the same person may be in both train and test.",)
    if overlap:
        return (f"{overlap} people are in both train and test, so the scores say little about new people.",)
    return ()


def fit(
    x: np.ndarray,
    targets: np.ndarray,
    rows: Rows,
    path: Callable[..., Iterator[Linear]],
    score: Callable[[np.ndarray, np.ndarray], float],
) -> tuple[Linear, float]:
    """Fit a probe on train and val with the strength that has the highest `score(outputs, targets)` on val,
    the strongest of equal ones. Returns the probe and its strength."""
    val, basis = x[rows.val], Basis(x, rows.train)
    linears = path(basis, targets[rows.train])
    best = int(np.argmax([score(linear(val), targets[rows.val]) for linear in linears]))
    *_, linear = path(Basis(x, rows.fitted), targets[rows.fitted], strengths=STRENGTHS[: best + 1])
    return linear, STRENGTHS[best]


def fit_classes(x: np.ndarray, labels: np.ndarray, rows: Rows, classes: int) -> tuple[Linear, float]:
    """`fit` logistic regression for the accuracy of `labels` `[N]`."""
    path = partial(class_path, classes=classes)
    return fit(x, labels, rows, path, lambda scores, truth: (scores.argmax(1) == truth).mean())


def fit_angles(x: np.ndarray, pose: np.ndarray, rows: Rows) -> tuple[Linear, float]:
    """`fit` ridge regression, which is batch norm and a linear layer in closed form, for the mean absolute
    error of `pose` `[N, 3]`."""
    return fit(x, pose, rows, ridge_path, lambda angles, truth: -np.abs(angles - truth).mean())


class Predicted(NamedTuple):
    """Outputs `[T, K]` for the test rows, numbers on how they came about, and notes."""

    outputs: np.ndarray
    numbers: dict[str, Any]
    notes: tuple[str, ...]


def predict(x: np.ndarray, linear: Linear, strength: float) -> Predicted:
    """Outputs of a fitted probe for the features `x` of the test rows."""
    at_end = strength in (STRENGTHS[0], STRENGTHS[-1])
    notes = ("the best strength is at an end of the path that was tried",) if at_end else ()
    return Predicted(linear(x), {"strength": strength}, notes)


def train_published(
    train_epoch: Callable[[], None],
    outputs_of_test: Callable[[], torch.Tensor],
    score: Callable[[torch.Tensor], float],
    last: str,
) -> Predicted:
    """Train as published (METHOD 6): 300 epochs, the best of which is chosen on the test split. That
    flatters, so the absolute score of the last epoch is returned, too, as `last`."""
    best, best_score, best_epoch, latest = torch.empty(0), float("-inf"), 0, 0.0
    for epoch in range(1, EPOCHS + 1):
        train_epoch()
        with torch.no_grad():
            outputs = outputs_of_test()
        latest = score(outputs)
        if latest > best_score:
            best, best_score, best_epoch = outputs, latest, epoch
    numbers = {"epoch": best_epoch, last: tidy(abs(latest))}
    return Predicted(best.numpy(), numbers, ("the epoch was chosen on the test split, as published",))


def evenly(rows: np.ndarray, count: int = MAPPED) -> np.ndarray:
    """At most `count` of `rows`, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]
