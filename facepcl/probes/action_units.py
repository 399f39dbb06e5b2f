"""Action units from frozen features: one linear layer for all of them, subjects kept apart."""

from typing import Any, NamedTuple

import numpy as np

from facepcl.errors import DataError
from facepcl.probes import metrics
from facepcl.probes.common import WORST, Options, Rows, describe_rows, groups, rows_of, spread
from facepcl.probes.features import Features
from facepcl.probes.manifest import OCCURS_AT, TEST, Manifest
from facepcl.probes.result import Bars, Chart, Faces, Map, Result
from facepcl.probes.solvers import Basis, Linear, ridge_path, units_path
from facepcl.probes.splits import FOLDS, HELD_OUT, fold_of


class Predictions(NamedTuple):
    """Of the scored rows: probabilities and intensities `[T, U]`, and the threshold of each unit for each
    row `[T, U]`."""

    rows: np.ndarray
    probability: np.ndarray
    threshold: np.ndarray
    intensity: np.ndarray


def probe(manifest: Manifest, features: Features, branch: str, options: Options) -> Result:
    """F1 of each unit at the threshold that is best on val, and at 0.5; AUC; for intensities ICC(3,1) and
    Pearson's r. With a test split it is scored once, else three folds of different subjects are.

    Raises DataError for data without units, or with fewer than three subjects.
    """
    x, names = features.of[branch], tuple(manifest.images[0].units or ())
    if not names:
        raise DataError(f"the {manifest.layout} data names no action units")
    intensity = np.array([[(image.units or {})[n] for n in names] for image in manifest.images], np.float32)
    occurs = intensity >= OCCURS_AT
    runs = _runs(manifest, features, options.seed)
    found = [_fit(x, intensity, occurs, rows) for rows in runs]
    scored = Predictions(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    truth = occurs[scored.rows]
    numbers, f1, bounds = _numbers(manifest, names, truth, intensity[scored.rows], scored, options.seed)
    head: dict[str, Any] = {"units": list(names), "occurs_at": OCCURS_AT, "folds": len(runs)}
    head |= describe_rows(manifest, runs[0]) if len(runs) == 1 else _describe_folds(manifest, scored.rows)
    charts = _charts(x, names, intensity, truth, scored, numbers, f1, bounds)
    return Result({**head, **numbers}, charts, manifest)


def _runs(manifest: Manifest, features: Features, seed: int) -> list[Rows]:
    if any(image.split == TEST for image in manifest.images):
        return [rows_of(manifest, features, seed)]
    good = np.flatnonzero(features.good)
    fold = fold_of(groups(manifest, good), FOLDS, seed)
    runs = []
    for f in range(FOLDS):
        rest = good[fold != f]
        held = fold_of(groups(manifest, rest), round(1 / HELD_OUT), (seed, f)) == 0
        runs.append(Rows(rest[~held], rest[held], good[fold == f]))
    return runs


def _describe_folds(manifest: Manifest, rows: np.ndarray) -> dict[str, int | None]:
    subjects = {manifest.images[i].subject for i in rows}
    known = "" not in subjects
    both = 0 if known else None
    return {
        "n_test": len(rows),
        "subjects": len(subjects) * known or None,
        "subjects_in_train_and_test": both,
    }


def _fit(x: np.ndarray, intensity: np.ndarray, occurs: np.ndarray, rows: Rows) -> Predictions:
    """Strengths and thresholds of each unit from val; then both regressions on train and val together."""
    basis, val = Basis(x, rows.train), x[rows.val]
    truth, wanted = occurs[rows.val], intensity[rows.val]
    candidates = [_probability(linear(val)) for linear in units_path(basis, occurs[rows.train])]
    auc = [[metrics.auc(*both) for both in zip(p.T, truth.T, strict=True)] for p in candidates]
    classing = np.nan_to_num(auc, nan=-1.0).argmax(0)
    threshold = np.array([_best_threshold(candidates[s][:, u], truth[:, u]) for u, s in enumerate(classing)])
    errors = [np.square(linear(val) - wanted).mean(0) for linear in ridge_path(basis, intensity[rows.train])]
    regressing = np.argmin(errors, 0)
    basis, test = Basis(x, rows.fitted), x[rows.test]
    probability = _probability(_mixed(units_path(basis, occurs[rows.fitted]), classing, test))
    predicted = _mixed(ridge_path(basis, intensity[rows.fitted]), regressing, test)
    return Predictions(rows.test, probability, np.broadcast_to(threshold, probability.shape), predicted)


def _mixed(path: Any, chosen: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Scores `[N, U]`, those of each unit from the solution of its own strength."""
    linear: Linear
    scores = np.empty((len(x), len(chosen)), np.float32)
    for number, linear in enumerate(path):
        if (mine := chosen == number).any():
            scores[:, mine] = linear(x)[:, mine]
    return scores


def _probability(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores.clip(-50, 50)))


def _best_threshold(probability: np.ndarray, truth: np.ndarray) -> float:
    """Of the highest F1; 0.5 where the unit does not occur."""
    if not truth.any():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + truth.sum())
    last = np.append(np.diff(probability[order]) != 0, True)  # equal ones go together
    return float(probability[order[np.where(last, f1, -1).argmax()]])


def _numbers(
    manifest: Manifest,
    names: tuple[str, ...],
    truth: np.ndarray,
    intensity: np.ndarray,
    scored: Predictions,
    seed: int,
) -> tuple[dict[str, Any], np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The flat numbers; F1 of each unit `[U]` and its bounds for the chart."""
    units = len(names)
    parts = [metrics.f1_parts(truth, scored.probability >= t) for t in (scored.threshold, 0.5)]
    both = np.concatenate(parts, 1)

    def score(sums: np.ndarray) -> np.ndarray:
        """F1 of each unit at its threshold, then the means at it and at 0.5."""
        f1 = [metrics.f1_scores(sums[..., i * 3 * units : (i + 1) * 3 * units]) for i in (0, 1)]
        f1 = [np.where(truth.any(0), f, np.nan) for f in f1]  # a unit that never occurs has no F1
        return np.concatenate([f1[0], *(np.nanmean(f, -1, keepdims=True) for f in f1)], -1)

    values = score(both.sum(0))
    low, high = metrics.interval(groups(manifest, scored.rows), both, score, seed)
    auc = np.array([metrics.auc(scored.probability[:, u], truth[:, u]) for u in range(units)])
    graded = not np.isin(intensity, (0, 1)).all()
    numbers = metrics.with_bounds("f1", values[units], low[units], high[units])
    numbers |= metrics.with_bounds("f1_at_half", values[units + 1], low[units + 1], high[units + 1])
    numbers["auc"] = metrics.tidy(np.nanmean(auc))
    if graded:
        icc = np.array([metrics.icc(intensity[:, u], scored.intensity[:, u]) for u in range(units)])
        r = np.array([metrics.pearson(intensity[:, u], scored.intensity[:, u]) for u in range(units)])
        numbers |= {"icc": metrics.tidy(np.nanmean(icc)), "pearson": metrics.tidy(np.nanmean(r))}
    for u, name in enumerate(names):
        numbers |= metrics.with_bounds(f"f1_{name}", values[u], low[u], high[u])
        numbers |= {f"auc_{name}": metrics.tidy(auc[u]), f"share_{name}": metrics.tidy(truth[:, u].mean())}
        if graded:
            numbers |= {f"icc_{name}": metrics.tidy(icc[u]), f"pearson_{name}": metrics.tidy(r[u])}
    return numbers, values[:units], (low[:units], high[:units])


def _charts(
    x: np.ndarray,
    names: tuple[str, ...],
    intensity: np.ndarray,
    truth: np.ndarray,
    scored: Predictions,
    numbers: dict[str, Any],
    f1: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
) -> list[Chart]:
    auc = np.array([numbers[f"auc_{n}"] if numbers[f"auc_{n}"] is not None else np.nan for n in names])
    error = np.where(truth, 1 - scored.probability, scored.probability)
    image, unit = np.unravel_index(np.argsort(-error, axis=None, kind="stable")[: 4 * WORST], error.shape)
    first = np.sort(np.unique(image, return_index=True)[1])[:WORST]  # an image once, with its worst unit
    captions = [
        f"{names[unit[i]]} {'is there' if truth[image[i], unit[i]] else 'is not there'}, "
        f"judged {scored.probability[image[i], unit[i]]:.2f}"
        for i in first
    ]
    common = int(truth.sum(0).argmax())
    shown = spread(scored.rows)
    title = f"Embeddings of the scored images, by the intensity of {names[common]}"
    return [
        Bars("F1 of each unit", names, f1, "F1", *bounds),
        Bars("Area under the ROC of each unit", names, auc, "AUC"),
        Faces("Surest mistakes", [int(scored.rows[image[i]]) for i in first], captions),
        Map(title, x[shown], intensity[shown, common]),
    ]
