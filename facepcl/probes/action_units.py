"""Action units from frozen features: one linear layer for all units, with separate subjects."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from facepcl.errors import DataError
from facepcl.probes import metrics
from facepcl.probes.charts import Bars, Faces, Map
from facepcl.probes.common import MISTAKES, Options, Rows, describe_rows, evenly, split_rows
from facepcl.probes.features import Features
from facepcl.probes.manifest import OCCURS_AT, TEST, Manifest
from facepcl.probes.result import Result
from facepcl.probes.solvers import Basis, Linear, ridge_path, units_path
from facepcl.probes.splits import FOLDS, HELD_OUT, fold_of


class Predictions(NamedTuple):
    """For the scored rows `[T]`: probabilities, thresholds and intensities of each unit, `[T, U]`."""

    rows: np.ndarray
    probability: np.ndarray
    threshold: np.ndarray
    intensity: np.ndarray


def probe(manifest: Manifest, features: Features, branch: str, options: Options) -> Result:
    """F1 of each unit at the threshold that is best on val, and at 0.5; AUC; for intensities ICC(3,1) and
    Pearson's r. A test split is scored once, otherwise each of three folds of different subjects.

    Raises DataError for data without units, or with fewer than three subjects.
    """
    x, names = features.of[branch], tuple(manifest.images[0].units or ())
    if not names:
        raise DataError(f"the {manifest.layout} data names no action units")
    intensity = np.array([[(image.units or {})[n] for n in names] for image in manifest.images], np.float32)
    occurs = intensity >= OCCURS_AT
    runs = _runs(manifest, features, options.seed)
    fits = [_fit(x, intensity, occurs, rows) for rows in runs]
    predicted = Predictions(*(np.concatenate(parts) for parts in zip(*fits, strict=True)))
    rows, probability = predicted.rows, predicted.probability
    truth, graded = occurs[rows], intensity[rows]

    parts = [metrics.f1_parts(truth, probability >= t) for t in (predicted.threshold, 0.5)]

    def score(sums: np.ndarray) -> np.ndarray:
        """The means at the threshold and at 0.5, then F1 of each unit at its threshold."""
        f1 = [metrics.f1_scores(half) for half in np.split(sums, 2, axis=-1)]
        f1 = [np.where(truth.any(0), f, np.nan) for f in f1]  # a unit that never occurs has no F1
        return np.concatenate([*(np.nanmean(f, -1, keepdims=True) for f in f1), f1[0]], -1)

    people = manifest.subjects(rows)
    estimate = metrics.estimate(people, np.concatenate(parts, 1), score, options.seed)
    f1 = estimate.since(2)
    units = range(len(names))
    averaged = {"auc": np.array([metrics.auc(probability[:, u], truth[:, u]) for u in units])}
    if not np.isin(graded, (0, 1)).all():
        for name, agreement in (("icc", metrics.icc), ("pearson", metrics.pearson)):
            averaged[name] = np.array([agreement(graded[:, u], predicted.intensity[:, u]) for u in units])
    by_unit = {"auc": averaged["auc"], "share": truth.mean(0), **averaged}
    numbers: dict[str, Any] = {"units": list(names), "occurs_at": OCCURS_AT, "folds": len(runs)}
    numbers |= describe_rows(manifest, runs[0] if len(runs) == 1 else Rows(rows[:0], rows[:0], rows))
    numbers |= estimate.numbers(("f1", "f1_at_half"))
    numbers |= {name: metrics.tidy(np.nanmean(values)) for name, values in averaged.items()}
    for u, name in enumerate(names):
        numbers |= f1.since(u).numbers([f"f1_{name}"])
        numbers |= {f"{key}_{name}": metrics.tidy(values[u]) for key, values in by_unit.items()}

    error = np.where(truth, 1 - probability, probability)
    image, unit = np.unravel_index(np.argsort(-error, axis=None, kind="stable")[: 4 * MISTAKES], error.shape)
    worst = np.sort(np.unique(image, return_index=True)[1])[:MISTAKES]  # an image once, with its worst unit
    captions = [
        f"{names[u]} {'present' if truth[i, u] else 'absent'}, predicted {probability[i, u]:.2f}"
        for i, u in zip(image[worst], unit[worst], strict=True)
    ]
    common, shown = int(truth.sum(0).argmax()), evenly(rows)
    title = f"Embeddings of the scored images, by the intensity of {names[common]}"
    charts = [
        Bars("F1 of each unit", names, f1.value, "F1", f1.low, f1.high),
        Bars("Area under the ROC of each unit", names, averaged["auc"], "AUC"),
        Faces("Most confident errors", rows[image[worst]].tolist(), captions),
        Map(title, x[shown], intensity[shown, common]),
    ]
    return Result(numbers, charts, manifest)


def _runs(manifest: Manifest, features: Features, seed: int) -> list[Rows]:
    if any(image.split == TEST for image in manifest.images):
        return [split_rows(manifest, features, seed)]
    good = np.flatnonzero(features.good)
    fold = fold_of(manifest.subjects(good), FOLDS, seed)
    runs = []
    for f in range(FOLDS):
        rest = good[fold != f]
        people = manifest.subjects(rest)
        val = fold_of(people, min(HELD_OUT, int(people.max()) + 1), (seed, f)) == 0
        runs.append(Rows(rest[~val], rest[val], good[fold == f]))
    return runs


def _fit(x: np.ndarray, intensity: np.ndarray, occurs: np.ndarray, rows: Rows) -> Predictions:
    """Strengths and thresholds of each unit from val; then both regressions on train and val together."""
    basis, val = Basis(x, rows.train), x[rows.val]
    truth = occurs[rows.val]
    candidates = [_probability(linear(val)) for linear in units_path(basis, occurs[rows.train])]
    auc = [[metrics.auc(*unit) for unit in zip(p.T, truth.T, strict=True)] for p in candidates]
    best = np.nan_to_num(auc, nan=-1.0).argmax(0)
    threshold = np.array([_best_threshold(candidates[s][:, u], truth[:, u]) for u, s in enumerate(best)])
    linears = ridge_path(basis, intensity[rows.train])
    best_ridge = np.argmin([np.square(linear(val) - intensity[rows.val]).mean(0) for linear in linears], 0)
    basis, test = Basis(x, rows.fitted), x[rows.test]
    probability = _probability(_by_unit(units_path(basis, occurs[rows.fitted]), best, test))
    predicted = _by_unit(ridge_path(basis, intensity[rows.fitted]), best_ridge, test)
    return Predictions(rows.test, probability, np.broadcast_to(threshold, probability.shape), predicted)


def _by_unit(path: Iterator[Linear], best: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Scores `[N, U]`, each unit by the solution of its own strength."""
    scores = np.empty((len(x), len(best)), np.float32)
    for strength, linear in enumerate(path):
        if (units := best == strength).any():
            scores[:, units] = linear(x)[:, units]
    return scores


def _probability(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores.clip(-50, 50)))


def _best_threshold(probability: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of the highest F1; 0.5 if the unit does not occur."""
    if not truth.any():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + truth.sum())
    last = np.append(np.diff(probability[order]) != 0, True)  # equal ones go together
    return float(probability[order[np.where(last, f1, -1).argmax()]])
