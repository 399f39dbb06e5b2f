"""The same person or not: the cosine of two features, its threshold from other folds."""

from typing import Any

import numpy as np

from facepcl.embedding.embeddings import unit
from facepcl.errors import DataError
from facepcl.probes import metrics
from facepcl.probes.common import WORST, Options, groups
from facepcl.probes.features import Features
from facepcl.probes.manifest import Manifest
from facepcl.probes.result import Bars, Chart, Curve, Faces, Result

FOLDS = 10
RATES = (1e-2, 1e-3)  # false acceptance


def probe(manifest: Manifest, features: Features, branch: str, options: Options) -> Result:
    """Accuracy of all pairs in ten folds, its deviation, area under the ROC, true at false acceptance rates.

    `centred_accuracy` takes the mean feature of the other folds off first: plain self-supervised codes all
    point much the same way. Raises DataError without pairs of both kinds in each fold.
    """
    pairs = [p for p in manifest.pairs if features.good[p.a] and features.good[p.b]]
    if not pairs:
        raise DataError(f"the {manifest.layout} data has no pair whose images can both be read")
    ends, same = np.array([(p.a, p.b) for p in pairs]), np.array([p.same for p in pairs])
    used, place = np.unique(ends, return_inverse=True)
    place = place.reshape(ends.shape)
    x = np.asarray(features.of[branch][used], np.float32)
    given = np.array([p.fold for p in pairs])
    fold = _folds(given, same, options.seed)
    drawn_folds = "folds were drawn: a person may be in several" if (given < 0).any() else None
    cosine = _cosine(x, place)
    right = _right(fold, same, dict.fromkeys(range(fold.max() + 1), cosine))
    centred = {f: _cosine(x - x[np.unique(place[fold != f])].mean(0), place) for f in range(fold.max() + 1)}
    centred_right = _right(fold, same, centred)
    folds = np.array([right[fold == f].mean() for f in range(fold.max() + 1)])
    false, true = metrics.roc(cosine, same)
    parts = np.stack([right, np.ones(len(right)), centred_right, np.ones(len(right))], 1).astype(np.float32)
    subjects = groups(manifest, used)
    by_subject = all(manifest.images[i].subject for i in used)
    one, two = (subjects[place[:, 0]], subjects[place[:, 1]]) if by_subject else (np.arange(len(pairs)), None)

    def score(sums: np.ndarray) -> np.ndarray:
        return np.stack([metrics.ratio(sums[..., :2]), metrics.ratio(sums[..., 2:])], -1)

    low, high = metrics.interval(one, parts, score, options.seed, two)
    numbers: dict[str, Any] = {
        "n_pairs": len(pairs),
        "n_pairs_left_out": len(manifest.pairs) - len(pairs),
        "n_same": int(same.sum()),
        "n_test": len(used),
        "subjects": len(np.unique(subjects)) if by_subject else 0,
        "folds": len(folds),
        **metrics.with_bounds("accuracy", right.mean(), low[0], high[0]),
        "accuracy_std": metrics.tidy(folds.std()),
        "auc": metrics.tidy(metrics.auc(cosine, same)),
        **{f"tar_at_far_{_rate(r)}": _true_at(false, true, r, int((~same).sum())) for r in RATES},
        **metrics.with_bounds("centred_accuracy", centred_right.mean(), low[1], high[1]),
        "chance": metrics.tidy(max(same.mean(), 1 - same.mean())),
    }
    notes = () if drawn_folds is None else (drawn_folds,)
    return Result(numbers, _charts(ends, same, cosine, right, folds, false, true), manifest, notes)


def _true_at(false: np.ndarray, true: np.ndarray, rate: float, negatives: int) -> float | None:
    """None where so few different pairs are there that the rate would be less than one of them."""
    return metrics.tidy(metrics.true_at_false(false, true, rate)) if negatives * rate >= 1 else None


def _rate(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")


def _folds(given: np.ndarray, same: np.ndarray, seed: int) -> np.ndarray:
    """The data set's folds, or ten drawn with the seed."""
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


def _cosine(x: np.ndarray, place: np.ndarray) -> np.ndarray:
    codes = unit(x)
    return np.einsum("nd,nd->n", codes[place[:, 0]], codes[place[:, 1]])


def _right(fold: np.ndarray, same: np.ndarray, cosine: dict[int, np.ndarray]) -> np.ndarray:
    """Which pairs `[P]` are judged right by the threshold that is best on the other folds."""
    right = np.empty(len(same), bool)
    for f, values in cosine.items():
        threshold = _threshold(values[fold != f], same[fold != f])
        right[fold == f] = (values[fold == f] >= threshold) == same[fold == f]
    return right


def _threshold(cosine: np.ndarray, same: np.ndarray) -> float:
    """The most accurate threshold: in the middle of the gap where it lies."""
    order = np.argsort(cosine)
    values, truth = cosine[order], same[order]
    # with the first k pairs below the threshold: right are the different ones there and the same above
    right = np.concatenate([[0], np.cumsum(~truth)]) + truth.sum() - np.concatenate([[0], np.cumsum(truth)])
    between = np.concatenate([[True], values[1:] > values[:-1], [True]])  # equal values go together
    k = int(np.where(between, right, -1).argmax())
    edges = np.concatenate([[values[0] - 1e-6], values, [values[-1] + 1e-6]])
    return float((edges[k] + edges[k + 1]) / 2)


def _charts(
    ends: np.ndarray,
    same: np.ndarray,
    cosine: np.ndarray,
    right: np.ndarray,
    folds: np.ndarray,
    false: np.ndarray,
    true: np.ndarray,
) -> list[Chart]:
    wrong = np.flatnonzero(~right)
    far = np.where(same[wrong], -cosine[wrong], cosine[wrong])
    worst = [_half(wrong[same[wrong] == kind], far[same[wrong] == kind]) for kind in (True, False)]
    charts: list[Chart] = [
        Curve("ROC", false, true, "false acceptance", "true acceptance", log_x=True),
        Bars("Accuracy of each fold", tuple(str(f) for f in range(len(folds))), folds, "accuracy"),
    ]
    titles = ("The same person, taken for two", "Two people, taken for one")
    for title, chosen in zip(titles, worst, strict=True):
        images = [int(i) for pair in chosen for i in ends[pair]]
        captions = [text for pair in chosen for text in (f"cosine {cosine[pair]:.3f}", "with the one before")]
        charts.append(Faces(f"{title}: pairs side by side", images, captions))
    return charts


def _half(wrong: np.ndarray, far: np.ndarray) -> np.ndarray:
    return wrong[np.argsort(-far, kind="stable")][: WORST // 2]
