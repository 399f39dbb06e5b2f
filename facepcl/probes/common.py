"""What the probes have in common: their options, the rows of each split, the choice of a strength."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from facepcl.errors import DataError
from facepcl.probes.features import Features
from facepcl.probes.manifest import TEST, TRAIN, VAL, Manifest
from facepcl.probes.metrics import subject_numbers
from facepcl.probes.solvers import STRENGTHS, Basis, Linear, class_path, ridge_path
from facepcl.probes.splits import complete_splits

WORST = 24  # mistakes that a report shows
MAPPED = 1500  # embeddings that a report lays out


@dataclass(frozen=True)
class Options:
    """How a task is scored; `shots` images a class in `repeats` draws, 0 = all images."""

    protocol: str = "clean"
    seed: int = 0
    shots: int = 0
    repeats: int = 5


class Rows(NamedTuple):
    """Numbers of the images of each split that could be read and have a label."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @property
    def fitted(self) -> np.ndarray:
        """What the final probe sees: its strength is chosen by then."""
        return np.sort(np.concatenate([self.train, self.val]))


def rows_of(manifest: Manifest, features: Features, seed: int) -> Rows:
    """The rows of train, val and test. Raises DataError if one of them is empty."""
    splits = complete_splits(manifest, seed)
    rows = Rows(*(np.flatnonzero(features.good & (splits == name)) for name in (TRAIN, VAL, TEST)))
    for name, chosen in zip(Rows._fields, rows, strict=True):
        if not len(chosen):
            raise DataError(f"no readable image of the {manifest.layout} data is in the split {name!r}")
    return rows


def describe_rows(manifest: Manifest, rows: Rows) -> dict[str, int | None]:
    """How many images each split has, how many subjects are known, and how many are in train and test: None
    where people are unknown."""
    subjects = [{manifest.images[i].subject for i in chosen} for chosen in rows]
    everybody = set.union(*subjects)
    known = "" not in everybody
    both = len((subjects[0] | subjects[1]) & subjects[2]) if known else None
    counts = {f"n_{name}": len(chosen) for name, chosen in zip(Rows._fields, rows, strict=True)}
    return {**counts, "subjects": len(everybody) if known else None, "subjects_in_train_and_test": both}


def people_note(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """A word where people are unknown, or are both trained and scored on."""
    if "subjects_in_train_and_test" not in numbers:
        return ()
    if (both := numbers["subjects_in_train_and_test"]) is None:
        return ("people are not known for all images: one may be in train and in test",)
    if both:
        return (f"{both} people are in train and in test: the scores say little about new people",)
    return ()


def groups(manifest: Manifest, rows: np.ndarray) -> np.ndarray:
    """The number of the subject of each of `rows`, each image its own where none is known."""
    return subject_numbers([manifest.images[i].subject for i in rows])


def fit(
    x: np.ndarray,
    targets: np.ndarray,
    rows: Rows,
    path: Callable[[Basis, np.ndarray, Sequence[float]], Iterator[Linear]],
    score: Callable[[np.ndarray, np.ndarray], float],
) -> tuple[Linear, float]:
    """A probe and its strength: the one whose scores of val have the highest `score(scores, targets)`, of
    equal ones the strongest; then fitted on train and val together."""
    val, wanted = x[rows.val], targets[rows.val]
    basis = Basis(x, rows.train)
    found = [score(linear(val), wanted) for linear in path(basis, targets[rows.train], STRENGTHS)]
    chosen = int(np.argmax(found))
    *_, linear = path(Basis(x, rows.fitted), targets[rows.fitted], STRENGTHS[: chosen + 1])
    return linear, STRENGTHS[chosen]


def fit_classes(x: np.ndarray, labels: np.ndarray, rows: Rows, classes: int) -> tuple[Linear, float]:
    """`fit` by logistic regression for the accuracy of `labels` `[N]`."""

    def path(basis: Basis, target: np.ndarray, strengths: Sequence[float]) -> Iterator[Linear]:
        return class_path(basis, target, classes, strengths)

    return fit(x, labels, rows, path, lambda scores, wanted: (scores.argmax(1) == wanted).mean())


def fit_angles(x: np.ndarray, pose: np.ndarray, rows: Rows) -> tuple[Linear, float]:
    """`fit` by ridge regression, which is batch norm and a linear layer in closed form, for the mean
    absolute error of `pose` `[N, 3]`."""
    return fit(x, pose, rows, ridge_path, lambda angles, wanted: -np.abs(angles - wanted).mean())


def edge_note(strength: float) -> tuple[str, ...]:
    """A word if the best strength is the first or last that was tried."""
    if strength in (STRENGTHS[0], STRENGTHS[-1]):
        return ("the best strength is at an end of the path that was tried",)
    return ()


def spread(rows: np.ndarray, count: int = MAPPED) -> np.ndarray:
    """At most `count` of `rows`, evenly."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]
