"""Does each branch encode what it is named after? Motion of its code when one thing alone changes."""

from collections import defaultdict
from typing import Any

import numpy as np

from facepcl.embedding.embeddings import unit
from facepcl.errors import DataError
from facepcl.probes import metrics
from facepcl.probes.charts import Bars, Chart, Map
from facepcl.probes.common import Options, Rows, evenly, fit_angles, fit_classes
from facepcl.probes.features import MIRRORED, Features
from facepcl.probes.manifest import Manifest
from facepcl.probes.result import Result
from facepcl.probes.splits import fold_of

POSE, EXPRESSION = "pose", "expression"
FOLDS = 5  # of subjects: three train a cross-probe, one chooses its strength, one is scored
Series = dict[tuple[str, str], np.ndarray]  # rows of each series of each subject


def probe(manifest: Manifest, features: Features, branches: tuple[str, ...], options: Options) -> Result:
    """For each branch: the motion of the normalised code within series in which one thing changes, relative
    to the distance between two people; the ratio of pose to expression and to light; what a linear probe
    reads from it; how far mirroring moves it.

    Raises DataError for data without series of pose and expression of several people.
    """
    series = _series(manifest, features)
    names = [POSE, EXPRESSION, *sorted({s for s, _ in series} - {POSE, EXPRESSION})]
    people = sorted({subject for _, subject in series})
    good = np.concatenate(list(series.values()))
    numbers: dict[str, Any] = {"n_test": len(good), "subjects": len(people), "series": names}
    charts: list[Chart] = []
    for branch in branches:
        codes = unit(np.asarray(features.of[branch], np.float32))
        between = _distance_between(codes, series, people)
        motion = np.array(
            [[_motion(codes[series[s, p]]) if (s, p) in series else np.nan for s in names] for p in people]
        )
        means = np.nanmean(motion, 0) / between
        ratios = _ratios(motion, options.seed)
        mirrored = unit(np.asarray(features.of[MIRRORED + branch][good], np.float32))
        mirror = np.square(codes[good] - mirrored).sum(1).mean() / between
        numbers |= {f"motion_{s}_{branch}": metrics.tidy(m) for s, m in zip(names, means, strict=True)}
        numbers |= ratios.numbers([f"pose_over_{name}_{branch}" for name in names[1:]])
        numbers[f"mirror_{branch}"] = metrics.tidy(mirror)
        title = f"How far the {branch} code moves when one thing changes (1 = as far as to another person)"
        charts.append(Bars(title, (*names, "mirror"), np.append(means, mirror), "squared distance"))
    for branch in branches:
        numbers |= _read_pose(manifest, features, branch, series, options.seed)
        numbers |= _read_expression(manifest, features, branch, series, options.seed)
    value, low, high = (
        np.array([numbers[f"pose_over_expression_{b}{end}"] for b in branches], float)
        for end in ("", "_low", "_high")
    )
    title = "Motion under pose over motion under expression"
    charts.append(Bars(title, branches, value, "ratio", low, high))
    shown = evenly(_labelled(manifest, series, POSE), 600)
    if len(shown):
        yaw = np.array([manifest.images[i].pose[0] for i in shown])
        title = "The {} code of the pose series, by yaw in degrees"
        charts += [Map(title.format(branch), features.of[branch][shown], yaw) for branch in branches]
    return Result(numbers, charts, manifest)


def _series(manifest: Manifest, features: Features) -> Series:
    """Series with at least two readable images."""
    indices: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, image in enumerate(manifest.images):
        if image.series and image.subject and features.good[i]:
            indices[image.series, image.subject].append(i)
    series = {key: np.array(rows) for key, rows in sorted(indices.items()) if len(rows) > 1}
    for name in (POSE, EXPRESSION):
        if len([s for s, _ in series if s == name]) < FOLDS:
            raise DataError(
                f"disentangle needs series named {name!r} of at least {FOLDS} subjects: images of one "
                "person in which that alone changes (labels `series` and `identity`)"
            )
    return series


def _motion(codes: np.ndarray) -> float:
    """Mean squared distance of two different images of a series, from unit codes `[N, D]`."""
    count = len(codes)
    return float(2 * count / (count - 1) * np.square(codes - codes.mean(0)).sum(1).mean())


def _distance_between(codes: np.ndarray, series: Series, people: list[str]) -> float:
    """Mean squared distance of images of two different people, whatever their pose."""
    by_person = [np.concatenate([r for (_, p), r in series.items() if p == person]) for person in people]
    sums = np.array([codes[rows].sum(0, dtype=np.float64) for rows in by_person])
    counts = np.array([len(rows) for rows in by_person])
    # |a - b|^2 = 2 - 2 a.b of unit codes; the products of all pairs without those of one person
    products = np.square(sums.sum(0)).sum() - np.square(sums).sum()
    return float(2 - 2 * products / (counts.sum() ** 2 - np.square(counts).sum()))


def _ratios(motion: np.ndarray, seed: int) -> metrics.Estimate:
    """Motion under pose over motion under each other series, from motions of subjects `[P, S]`."""
    parts = np.concatenate([np.nan_to_num(motion), ~np.isnan(motion)], 1)

    def score(sums: np.ndarray) -> np.ndarray:
        means = metrics.divide(*np.split(sums, 2, -1))
        return metrics.divide(means[..., :1], means[..., 1:])

    return metrics.estimate(np.arange(len(motion)), parts, score, seed)


def _labelled(manifest: Manifest, series: Series, name: str) -> np.ndarray:
    """The rows of all series of this name that have the label of this name."""
    rows = np.concatenate([r for (s, _), r in series.items() if s == name])
    return rows[[getattr(manifest.images[i], name) is not None for i in rows]]


def _read_pose(
    manifest: Manifest, features: Features, branch: str, series: Series, seed: int
) -> dict[str, float | None]:
    """Mean absolute error of the yaw and pitch that a linear probe reads from the code, in degrees; nothing
    if too few subjects have labels for folds."""
    rows = _labelled(manifest, series, POSE)
    if manifest.subjects(rows).max(initial=0) + 1 < FOLDS:
        return {}
    pose = np.array([manifest.images[i].pose for i in rows], np.float32)
    x, error, constant = features.of[branch][rows], np.zeros(3), np.zeros(3)
    for fold in _folds(manifest, rows, seed):
        error += np.abs(fit_angles(x, pose, fold)[0](x[fold.test]) - pose[fold.test]).sum(0)
        constant += np.abs(np.median(pose[fold.fitted], 0) - pose[fold.test]).sum(0)
    yaw, pitch, _ = error / len(rows)
    return {
        f"read_yaw_{branch}": metrics.tidy(yaw),
        f"read_pitch_{branch}": metrics.tidy(pitch),
        "constant_yaw": metrics.tidy(constant[0] / len(rows)),
    }


def _read_expression(
    manifest: Manifest, features: Features, branch: str, series: Series, seed: int
) -> dict[str, float | None]:
    """Accuracy of the expression that a linear probe reads from the code; as `_read_pose`."""
    rows = _labelled(manifest, series, EXPRESSION)
    names, labels = np.unique([str(manifest.images[i].expression) for i in rows], return_inverse=True)
    if len(names) < 2 or manifest.subjects(rows).max() + 1 < FOLDS:
        return {}
    x, right = features.of[branch][rows], 0
    for fold in _folds(manifest, rows, seed):
        linear, _ = fit_classes(x, labels, fold, len(names))
        right += int((linear(x[fold.test]).argmax(1) == labels[fold.test]).sum())
    return {
        f"read_expression_{branch}": metrics.tidy(right / len(labels)),
        "chance_expression": metrics.tidy(np.bincount(labels).max() / len(labels)),
    }


def _folds(manifest: Manifest, rows: np.ndarray, seed: int) -> list[Rows]:
    """Folds of different subjects, each scored once."""
    fold = fold_of(manifest.subjects(rows), FOLDS, seed)
    held_out = [(fold == (f + 1) % FOLDS, fold == f) for f in range(FOLDS)]
    return [Rows(*map(np.flatnonzero, (~val & ~test, val, test))) for val, test in held_out]
