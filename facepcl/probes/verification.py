"""The same person or not: the cosine of two features, with the threshold chosen on other folds."""

import numpy as np

from facepcl.embedding.embeddings import unit
from facepcl.errors import DataError
from facepcl.probes import metrics
from facepcl.probes.charts import Bars, Chart, Curve, Faces
from facepcl.probes.common import MISTAKES, Options
from facepcl.probes.features import Features
from facepcl.probes.manifest import Manifest
from facepcl.probes.result import Result

FOLDS = 10
FALSE_ACCEPTANCE_RATES = {"1e-2": 1e-2, "1e-3": 1e-3}


def probe(manifest: Manifest, features: Features, branch: str, options: Options) -> Result:
    """Accuracy over ten folds with its standard deviation, AUC, true acceptance at false acceptance rates.

    `centred_accuracy` subtracts the mean feature of the other folds: plain self-supervised codes all point
    much the same way. Raises DataError without pairs of both kinds in each fold.
    """
    pairs = [p for p in manifest.pairs if features.good[p.a] and features.good[p.b]]
    if not pairs:
        raise DataError(f"the {manifest.layout} data has no pair whose images can both be read")
    images, same = np.array([(p.a, p.b) for p in pairs]), np.array([p.same for p in pairs])
    used, ends = np.unique(images, return_inverse=True)
    ends = ends.reshape(images.shape)
    x = np.asarray(features.of[branch][used], np.float32)
    given = np.array([p.fold for p in pairs])
    fold = _folds(given, same, options.seed)
    folds = range(fold.max() + 1)
    cosine = _cosine(x, ends)
    right = _right(fold, same, [cosine for _ in folds])
    centred = [_cosine(x - x[np.unique(ends[fold != f])].mean(0), ends) for f in folds]
    centred_right = _right(fold, same, centred)
    accuracies = np.array([right[fold == f].mean() for f in folds])
    false, true = metrics.roc(cosine, same)
    one = np.ones(len(pairs))
    subjects = manifest.subjects(used)
    known = all(manifest.images[i].subject for i in used)
    first, second = (subjects[ends[:, 0]], subjects[ends[:, 1]]) if known else (np.arange(len(pairs)), None)
    estimate = metrics.estimate(
        first,
        np.stack([right, one, centred_right, one], 1),
        lambda sums: metrics.divide(sums[..., [0, 2]], sums[..., [1, 3]]),
        options.seed,
        second,
    )
    # None where less than one of so few different pairs would be the rate
    true_acceptance = {
        f"tar_at_far_{name}": metrics.tidy(metrics.true_at_false(false, true, rate))
        if (~same).sum() * rate >= 1
        else None
        for name, rate in FALSE_ACCEPTANCE_RATES.items()
    }
    numbers = {
        "n_pairs": len(pairs),
        "n_pairs_left_out": len(manifest.pairs) - len(pairs),
        "n_same": int(same.sum()),
        "n_test": len(used),
        "subjects": len(np.unique(subjects)) if known else 0,
        "folds": len(folds),
        **estimate.numbers(["accuracy"]),
        "accuracy_std": metrics.tidy(accuracies.std()),
        "auc": metrics.tidy(metrics.auc(cosine, same)),
        **true_acceptance,
        **estimate.since(1).numbers(["centred_accuracy"]),
        "chance": metrics.tidy(max(same.mean(), 1 - same.mean())),
    }
    charts: list[Chart] = [
        Curve("ROC", false, true, "false accept rate", "true accept rate", log_x=True),
        Bars("Accuracy of each fold", tuple(map(str, folds)), accuracies, "accuracy"),
    ]
    for kind, title in ((True, "Same person, rejected"), (False, "Different people, accepted")):
        wrong = np.flatnonzero(~right & (same == kind))
        worst = wrong[np.argsort(cosine[wrong] if kind else -cosine[wrong], kind="stable")][: MISTAKES // 2]
        captions = []
        for number, pair in enumerate(worst, 1):
            captions += [f"pair {number}, cosine {cosine[pair]:.3f}", f"pair {number}"]
        charts.append(Faces(f"{title}: pairs side by side", images[worst].ravel().tolist(), captions))
    notes = ("folds were drawn: a person may be in several",) if (given < 0).any() else ()
    return Result(numbers, charts, manifest, notes)


def _folds(given: np.ndarray, same: np.ndarray, seed: int) -> np.ndarray:
    """The folds of the data set, or ten drawn with the seed."""
    if (given >= 0).all():
        fold = np.unique(given, return_inverse=True)[1]
    else:
        fold = np.random.default_rng(seed).permutation(len(given)) % FOLDS
    if fold.max() < 1:
        raise DataError(
            "all pairs are in one fold, so there is no other to choose a threshold on: name several, or "
            "bring more people with two images each"
        )
    for f in range(fold.max() + 1):
        if len(np.unique(same[fold != f])) < 2:
            raise DataError("pairs of the same and of different people are needed in more than one fold")
    return fold


def _cosine(x: np.ndarray, ends: np.ndarray) -> np.ndarray:
    codes = unit(x)
    return np.einsum("nd,nd->n", codes[ends[:, 0]], codes[ends[:, 1]])


def _right(fold: np.ndarray, same: np.ndarray, cosines: list[np.ndarray]) -> np.ndarray:
    """Which pairs `[P]` are classified correctly by the threshold that is best on the other folds, given the
    cosines to use for each fold."""
    right = np.empty(len(same), bool)
    for f, cosine in enumerate(cosines):
        threshold = best_threshold(cosine[fold != f], same[fold != f])
        right[fold == f] = (cosine[fold == f] >= threshold) == same[fold == f]
    return right


def best_threshold(cosine: np.ndarray, same: np.ndarray) -> float:
    """The most accurate threshold: the middle of the gap that it lies in."""
    order = np.argsort(cosine)
    values, truth = cosine[order], same[order]
    # correct pairs with the first k below the threshold: the different ones there and the same ones above
    right = np.concatenate([[0], np.cumsum(~truth)]) + truth.sum() - np.concatenate([[0], np.cumsum(truth)])
    between = np.concatenate([[True], values[1:] > values[:-1], [True]])  # equal values go together
    k = int(np.where(between, right, -1).argmax())
    edges = np.concatenate([[values[0] - 1e-6], values, [values[-1] + 1e-6]])
    return float((edges[k] + edges[k + 1]) / 2)
