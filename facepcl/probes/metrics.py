"""Scores of probes with confidence intervals by bootstrap over subjects."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from facepcl.errors import require

DRAWS = 1000
LOW, HIGH = 2.5, 97.5  # percentiles: 95 of 100 draws lie between
CELLS = 1 << 24  # weights in memory at a time


class Estimate(NamedTuple):
    """Scores `[...]` and the bounds of their 95 % confidence intervals."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def since(self, start: int) -> "Estimate":
        """The scores from `start` on."""
        return Estimate(*(values[start:] for values in self))

    def numbers(self, names: Sequence[str]) -> dict[str, float | None]:
        """The first scores as `name`, `name_low`, `name_high`."""
        rows = zip(names, *(bound.tolist() for bound in self), strict=False)
        return {
            f"{name}{end}": tidy(value)
            for name, *values in rows
            for end, value in zip(("", "_low", "_high"), values, strict=True)
        }


def _draws(count: int, seed: int, batch: int) -> Iterator[np.ndarray]:
    """How often each of `count` subjects is drawn, `[R, count]` for R draws of the bootstrap."""
    rng, probabilities = np.random.default_rng(seed), np.full(count, 1 / count)
    for start in range(0, DRAWS, batch):
        yield rng.multinomial(count, probabilities, size=min(batch, DRAWS - start)).astype(np.float32)


def estimate(
    subjects: np.ndarray,
    parts: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    seed: int,
    others: np.ndarray | None = None,
) -> Estimate:
    """Score all examples, with intervals from drawing subjects with replacement.

    Args:
        subjects: Index of the subject of each example, `[N]`.
        parts: What each example adds to the sums from which `score` is computed, `[N, M]`.
        score: Maps sums `[R, M]` to scores `[R, ...]`.
        seed: Of the draws.
        others: Index of the second subject of each pair, `[N]`; a pair counts as often as both are drawn.
    """
    count = int(max(subjects.max(), others.max() if others is not None else 0)) + 1
    if count < 2:  # every draw would be the same: nothing is known about other people
        value = np.asarray(score(parts.sum(0)))
        return Estimate(value, np.full(value.shape, np.nan), np.full(value.shape, np.nan))
    # sums of a subject once, instead of its examples in every draw; pairs of two subjects stay as they are
    if others is None:
        sums = np.zeros((count, parts.shape[1]))
        np.add.at(sums, subjects, parts)
        scores = [score(weights @ sums) for weights in _draws(count, seed, DRAWS)]
    else:
        differ, scores = (subjects != others)[None], []
        correction = count / max(1, count - 1)  # two different people are drawn together a little less often
        for weights in _draws(count, seed, max(1, CELLS // len(subjects))):
            pair_weights = weights[:, subjects] * np.where(differ, correction * weights[:, others], 1)
            scores.append(score(pair_weights @ parts.astype(np.float32)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a score that no draw has stays NaN
        low, high = np.nanpercentile(np.concatenate(scores), [LOW, HIGH], axis=0)
    return Estimate(score(parts.sum(0)), low, high)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a / b`, NaN or infinite without a warning where `b` is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return a / b


def confusion_parts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """What each example adds to the flat confusion matrix, `[N, K * K]`."""
    parts = np.zeros((len(truth), classes * classes), np.float32)
    parts[np.arange(len(truth)), truth * classes + predicted] = 1
    return parts


def class_scores(sums: np.ndarray, classes: int) -> np.ndarray:
    """Accuracy, mean F1 and mean recall over the classes that occur, `[..., 3]`, of confusion sums."""
    matrix = sums.reshape(*sums.shape[:-1], classes, classes)
    right, true, predicted = np.diagonal(matrix, 0, -2, -1), matrix.sum(-1), matrix.sum(-2)
    occurs = true > 0
    f1 = np.where(occurs, divide(2 * right, true + predicted), np.nan)
    recall = np.where(occurs, divide(right, true), np.nan)
    accuracy = divide(right.sum(-1), matrix.sum((-1, -2)))
    return np.stack([accuracy, np.nanmean(f1, -1), np.nanmean(recall, -1)], -1)


def f1_parts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What each example adds to hits, misses and false alarms of each unit, `[N, 3 * U]`, from booleans
    `[N, U]`."""
    return np.concatenate([truth & predicted, truth & ~predicted, ~truth & predicted], 1).astype(np.float32)


def f1_scores(sums: np.ndarray) -> np.ndarray:
    """F1 of each unit `[..., U]`; NaN for one that neither occurs nor is predicted."""
    hits, missed, false = np.split(sums, 3, axis=-1)
    return divide(2 * hits, 2 * hits + missed + false)


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve, NaN if only one class occurs."""
    if len(np.unique(truth)) < 2:
        return float("nan")
    return float(require("sklearn.metrics", "probe").roc_auc_score(truth, scores))


def roc(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates `[T]` as the threshold falls."""
    curve = require("sklearn.metrics", "probe").roc_curve
    false, true, _ = curve(truth, scores, drop_intermediate=False)  # rates in between are read, too
    return false, true


def true_at_false(false: np.ndarray, true: np.ndarray, rate: float) -> float:
    """The true positive rate at the last threshold whose false positive rate is at most `rate`."""
    return float(true[np.searchsorted(false, rate, "right") - 1])


def icc(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Agreement of two raters, ICC(3,1) of Shrout and Fleiss, of `[N]` intensities."""
    ratings = np.stack([truth, predicted], 1).astype(np.float64)
    rows, columns, mean = ratings.mean(1), ratings.mean(0), ratings.mean()
    between = 2 * np.square(rows - mean).sum() / (len(ratings) - 1)
    rest = np.square(ratings - rows[:, None] - columns + mean).sum() / (len(ratings) - 1)
    return float((between - rest) / (between + rest)) if between + rest else float("nan")


def pearson(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Correlation of `[N]` values, NaN if one side is constant."""
    if not (np.ptp(truth) and np.ptp(predicted)):
        return float("nan")
    return float(np.corrcoef(truth, predicted)[0, 1])


def tidy(value: Any) -> float | None:
    """Six digits for JSON; None for NaN and infinity, which JSON does not have."""
    return float(f"{float(value):.6g}") if np.isfinite(value) else None
