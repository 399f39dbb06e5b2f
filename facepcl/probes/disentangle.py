"""Does each branch hold what it is named after? Motion of its code when one thing alone changes."""

from collections import defaultdict
from typing import Any

import numpy as np

from facepcl.embedding.embeddings import unit
from facepcl.errors import DataError
from facepcl.probes import metrics
from facepcl.probes.common import Options, Rows, fit_angles, fit_classes, spread
from facepcl.probes.features import MIRRORED, Features
from facepcl.probes.manifest import Manifest
from facepcl.probes.result import Bars, Chart, Map, Result
from facepcl.probes.splits import fold_of

POSE, EXPRESSION = "pose", "expression"
FOLDS = 5  # of subjects: three train a cross-probe, one chooses its strength, one is scored


def probe(manifest: Manifest, features: Features, branches: tuple[str, ...], options: Options) -> Result:
    """For each branch, motion of the normalised code within series in which one thing changes, as parts of
    the distance of two people's; pose over expression and over light; what a linear probe reads from it; how
    far a mirror moves it.

    Raises DataError for data without series of pose and expression of several people.
    """
    rows = _series_rows(manifest, features)
    names = [POSE, EXPRESSION, *sorted({s for s, _ in rows} - {POSE, EXPRESSION})]
    people = sorted({subject for _, subject in rows})
    numbers: dict[str, Any] = {
        "n_test": int(sum(map(len, rows.values()))),
        "subjects": len(people),
        "series": names,
    }
    motions = {}
    for branch in branches:
        codes = unit(np.asarray(features.of[branch], np.float32))
        apart = _apart(codes, rows, people)
        moved = np.array(
            [[_motion(codes[rows[s, p]]) if (s, p) in rows else np.nan for s in names] for p in people]
        )
        numbers |= _motions(branch, moved, apart, names, options.seed)
        motions[branch] = np.nanmean(moved, 0) / apart
        good = np.concatenate(list(rows.values()))
        mirrored = unit(np.asarray(features.of[MIRRORED + branch][good], np.float32))
        turn = np.square(codes[good] - mirrored).sum(1).mean() / apart
        numbers[f"mirror_{branch}"] = metrics.tidy(turn)
    for branch in branches:
        numbers |= _read_pose(manifest, features, branch, rows, options.seed)
        numbers |= _read_expression(manifest, features, branch, rows, options.seed)
    return Result(numbers, _charts(manifest, features, branches, motions, names, numbers, rows), manifest)


def _series_rows(manifest: Manifest, features: Features) -> dict[tuple[str, str], np.ndarray]:
    """The rows of each series of each subject that has at least two readable images."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, image in enumerate(manifest.images):
        if image.series and image.subject and features.good[i]:
            found[image.series, image.subject].append(i)
    rows = {key: np.array(numbers) for key, numbers in sorted(found.items()) if len(numbers) > 1}
    for series in (POSE, EXPRESSION):
        if len([s for s, _ in rows if s == series]) < FOLDS:
            raise DataError(
                f"disentangle needs series named {series!r} of at least {FOLDS} subjects: images of one "
                "person in which that alone changes (labels `series` and `identity`)"
            )
    return rows


def _motion(unit: np.ndarray) -> float:
    """Mean squared distance of two different images of a series `[N, D]`."""
    count = len(unit)
    return float(2 * count / (count - 1) * np.square(unit - unit.mean(0)).sum(1).mean())


def _apart(unit: np.ndarray, rows: dict[tuple[str, str], np.ndarray], people: list[str]) -> float:
    """Mean squared distance of images of two different people, pose and all as they come: the scale."""
    mine = [np.concatenate([r for (_, p), r in rows.items() if p == person]) for person in people]
    sums = np.array([unit[numbers].sum(0, dtype=np.float64) for numbers in mine])
    counts = np.array([len(numbers) for numbers in mine])
    # |a - b|^2 = 2 - 2 a.b of unit codes; the products of all pairs without those of one person
    products = np.square(sums.sum(0)).sum() - np.square(sums).sum()
    return float(2 - 2 * products / (counts.sum() ** 2 - np.square(counts).sum()))


def _motions(branch: str, moved: np.ndarray, apart: float, names: list[str], seed: int) -> dict[str, Any]:
    """Motions as parts of `apart`, and pose over the others with bounds over subjects."""
    found = {
        f"motion_{name}_{branch}": metrics.tidy(np.nanmean(moved[:, i]) / apart)
        for i, name in enumerate(names)
    }
    there = ~np.isnan(moved)
    parts = np.concatenate([np.nan_to_num(moved), there], 1)

    def score(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums[..., : len(names)] / sums[..., len(names) :]
            return means[..., :1] / means[..., 1:]

    values = score(parts.sum(0))
    low, high = metrics.interval(np.arange(len(moved)), parts, score, seed)
    for i, name in enumerate(names[1:]):
        found |= metrics.with_bounds(f"pose_over_{name}_{branch}", values[i], low[i], high[i])
    return found


def _read_pose(
    manifest: Manifest, features: Features, branch: str, rows: dict[tuple[str, str], np.ndarray], seed: int
) -> dict[str, Any]:
    """Mean absolute error of the yaw, pitch and roll that a linear probe reads from the code, degrees."""
    numbers = np.concatenate([r for (s, _), r in rows.items() if s == POSE])
    numbers = numbers[[manifest.images[i].pose is not None for i in numbers]]
    if not len(numbers):
        return {}
    pose = np.array([manifest.images[i].pose for i in numbers], np.float32)
    x, error, constant = features.of[branch][numbers], np.zeros(3), np.zeros(3)
    for fold in _folds(manifest, numbers, seed):
        error += np.abs(fit_angles(x, pose, fold)[0](x[fold.test]) - pose[fold.test]).sum(0)
        constant += np.abs(np.median(pose[fold.fitted], 0) - pose[fold.test]).sum(0)
    found = {
        f"read_{a}_{branch}": metrics.tidy(e)
        for a, e in zip(("yaw", "pitch"), error / len(numbers), strict=False)
    }
    return {**found, "constant_yaw": metrics.tidy(constant[0] / len(numbers))}


def _read_expression(
    manifest: Manifest, features: Features, branch: str, rows: dict[tuple[str, str], np.ndarray], seed: int
) -> dict[str, Any]:
    """The part of expressions that a linear probe reads from the code rightly."""
    numbers = np.concatenate([r for (s, _), r in rows.items() if s == EXPRESSION])
    numbers = numbers[[manifest.images[i].expression is not None for i in numbers]]
    names = sorted({str(manifest.images[i].expression) for i in numbers})
    if len(names) < 2:
        return {}
    labels = np.array([names.index(str(manifest.images[i].expression)) for i in numbers])
    x, right = features.of[branch][numbers], 0
    for fold in _folds(manifest, numbers, seed):
        linear, _ = fit_classes(x, labels, fold, len(names))
        right += int((linear(x[fold.test]).argmax(1) == labels[fold.test]).sum())
    chance = np.bincount(labels).max() / len(labels)
    return {
        f"read_expression_{branch}": metrics.tidy(right / len(labels)),
        "chance_expression": metrics.tidy(chance),
    }


def _folds(manifest: Manifest, numbers: np.ndarray, seed: int) -> list[Rows]:
    """Subjects apart, each scored once."""
    subjects = metrics.subject_numbers([manifest.images[i].subject for i in numbers])
    fold = fold_of(subjects, FOLDS, seed)
    held = [(fold == (f + 1) % FOLDS, fold == f) for f in range(FOLDS)]
    return [Rows(*map(np.flatnonzero, (~val & ~test, val, test))) for val, test in held]


def _charts(
    manifest: Manifest,
    features: Features,
    branches: tuple[str, ...],
    motions: dict[str, np.ndarray],
    names: list[str],
    numbers: dict[str, Any],
    rows: dict[tuple[str, str], np.ndarray],
) -> list[Chart]:
    charts: list[Chart] = [
        Bars(
            f"How far the {branch} code moves when one thing changes (1 = as far as to another person)",
            (*names, "mirror"),
            np.array([*motions[branch], numbers[f"mirror_{branch}"]]),
            "squared distance",
        )
        for branch in branches
    ]
    low, high = (
        np.array([numbers[f"pose_over_expression_{b}_{side}"] for b in branches], float)
        for side in ("low", "high")
    )
    ratios = np.array([numbers[f"pose_over_expression_{b}"] for b in branches], float)
    charts.append(
        Bars("Motion under pose over motion under expression", branches, ratios, "ratio", low, high)
    )
    posed = np.concatenate([r for (s, _), r in rows.items() if s == POSE])
    shown = spread(posed[[manifest.images[i].pose is not None for i in posed]], 600)
    if len(shown):
        yaw = np.array([manifest.images[i].pose[0] for i in shown])
        charts += [
            Map(f"The {branch} code of the pose series, by yaw in degrees", features.of[branch][shown], yaw)
            for branch in branches
        ]
    return charts
