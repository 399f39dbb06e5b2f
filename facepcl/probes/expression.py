"""Expression from frozen features: one linear layer, accuracy and F1."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from facepcl.errors import DataError, OptionError
from facepcl.probes import metrics
from facepcl.probes.common import (
    WORST,
    Options,
    Rows,
    describe_rows,
    edge_note,
    fit_classes,
    groups,
    rows_of,
    spread,
)
from facepcl.probes.features import Features
from facepcl.probes.manifest import Manifest
from facepcl.probes.result import Bars, Chart, Confusion, Faces, Map, Result
from facepcl.probes.solvers import STRENGTHS, Basis, class_path

SHOT_FOLDS = 4
EPOCHS, BATCH, RATE, DEVIATION = 300, 256, 1e-2, 0.01  # METHOD 6


def probe(manifest: Manifest, features: Features, branch: str, options: Options) -> Result:
    """Accuracy, macro F1 and mean class accuracy of the test split. Raises DataError for labels that cannot
    be scored."""
    x, rows = features.of[branch], rows_of(manifest, features, options.seed)
    labels, classes = _labels(manifest)
    missing = sorted({classes[labels[i]] for i in rows.test} - {classes[labels[i]] for i in rows.fitted})
    if missing:
        raise DataError(f"the test split has classes that the training split lacks: {', '.join(missing)}")
    if options.shots:
        return _few_shots(manifest, x, labels, classes, rows, options)
    if options.protocol == "paper":
        scores, found, notes = _paper(x, labels, len(classes), rows, options.seed)
    else:
        scores, found, notes = _clean(x, labels, len(classes), rows)
    truth, predicted = labels[rows.test], scores.argmax(1)
    parts = metrics.confusion_parts(truth, predicted, len(classes))

    def score(sums: np.ndarray) -> np.ndarray:
        return metrics.class_scores(sums, len(classes))

    values = score(parts.sum(0))
    low, high = metrics.interval(groups(manifest, rows.test), parts, score, options.seed)
    numbers: dict[str, Any] = {"classes": list(classes), **describe_rows(manifest, rows), **found}
    for i, name in enumerate(("accuracy", "macro_f1", "balanced_accuracy")):
        numbers |= metrics.with_bounds(name, values[i], low[i], high[i])
    matrix = parts.sum(0).reshape(len(classes), -1).astype(int)
    f1 = _class_f1(matrix)
    numbers |= {f"f1_{name}": metrics.tidy(value) for name, value in zip(classes, f1, strict=True)}
    numbers |= {"chance": metrics.tidy(np.bincount(truth).max() / len(truth)), "confusion": matrix.tolist()}
    charts = _charts(x, rows.test, labels, scores, classes, matrix, f1)
    return Result(numbers, charts, manifest, notes)


def _labels(manifest: Manifest) -> tuple[np.ndarray, tuple[str, ...]]:
    names = [image.expression or "" for image in manifest.images]
    classes = manifest.classes or tuple(sorted(set(names)))
    numbers = {name: i for i, name in enumerate(classes)}
    for image, name in zip(manifest.images, names, strict=True):
        if name not in numbers:
            raise DataError(f"{image.name}: expression {name!r} is none of {', '.join(classes)}")
    if len(classes) < 2:
        raise DataError(f"one class only, {classes[0]!r}: there is nothing to tell apart")
    return np.array([numbers[name] for name in names]), classes


def _class_f1(matrix: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * np.diagonal(matrix) / (matrix.sum(0) + matrix.sum(1))


def _clean(x: np.ndarray, labels: np.ndarray, classes: int, rows: Rows) -> tuple[np.ndarray, dict, tuple]:
    """Scores `[T, K]` of the test rows: strength chosen on val, then fitted on train and val together."""
    linear, strength = fit_classes(x, labels, rows, classes)
    return linear(x[rows.test]), {"strength": strength}, edge_note(strength)


def _paper(
    x: np.ndarray, labels: np.ndarray, classes: int, rows: Rows, seed: int
) -> tuple[np.ndarray, dict, tuple]:
    """The published probe (METHOD 6): raw features, Adam, 300 epochs unshuffled; best epoch of the test
    split, which flatters, so the last epoch stands beside it."""
    features, target = torch.from_numpy(x[rows.fitted]), torch.from_numpy(labels[rows.fitted])
    test, truth = torch.from_numpy(x[rows.test]), torch.from_numpy(labels[rows.test])
    generator = torch.Generator().manual_seed(seed)
    weight = (DEVIATION * torch.randn(x.shape[1], classes, generator=generator)).requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    best_scores, best_right, best_epoch, right = torch.empty(0), -1.0, 0, 0.0
    for epoch in range(1, EPOCHS + 1):
        for some, wanted in zip(features.split(BATCH), target.split(BATCH), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(some @ weight + bias, wanted).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            scores = test @ weight + bias
        right = float((scores.argmax(1) == truth).float().mean())
        if right > best_right:
            best_scores, best_right, best_epoch = scores, right, epoch
    found = {"epoch": best_epoch, "accuracy_last_epoch": metrics.tidy(right)}
    return best_scores.numpy(), found, ("the epoch was chosen on the test split, as published",)


def _few_shots(
    manifest: Manifest,
    x: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    rows: Rows,
    options: Options,
) -> Result:
    """Mean and deviation over draws of so many training images a class; strength by 4 folds of the draw."""
    random = np.random.default_rng(options.seed)
    fitted, truth = rows.fitted, labels[rows.test]
    counts = np.bincount(labels[fitted], minlength=len(classes))
    if short := [f"{name} {n}" for name, n in zip(classes, counts, strict=True) if n < options.shots]:
        raise OptionError(f"--shots {options.shots}: the training split has fewer of {', '.join(short)}")
    scores = []
    for _ in range(options.repeats):
        draws = [
            random.permutation(fitted[labels[fitted] == k])[: options.shots] for k in range(len(classes))
        ]
        drawn = np.concatenate(draws)
        fold = np.concatenate([np.arange(options.shots) % SHOT_FOLDS] * len(classes))
        right = np.zeros(len(STRENGTHS))
        for f in range(SHOT_FOLDS):
            train, val = drawn[fold != f], drawn[fold == f]
            for i, linear in enumerate(class_path(Basis(x, train), labels[train], len(classes))):
                right[i] += (linear(x[val]).argmax(1) == labels[val]).sum()
        strengths = STRENGTHS[: int(right.argmax()) + 1]
        *_, linear = class_path(Basis(x, drawn), labels[drawn], len(classes), strengths)
        parts = metrics.confusion_parts(truth, linear(x[rows.test]).argmax(1), len(classes))
        scores.append(metrics.class_scores(parts.sum(0), len(classes)))
    mean, deviation = np.mean(scores, 0), np.std(scores, 0, ddof=1) if len(scores) > 1 else np.full(3, np.nan)
    numbers: dict[str, Any] = {"classes": list(classes), "shots": options.shots, "repeats": options.repeats}
    numbers |= {"n_test": len(rows.test)}
    for i, name in enumerate(("accuracy", "macro_f1", "balanced_accuracy")):
        numbers |= {name: metrics.tidy(mean[i]), f"{name}_std": metrics.tidy(deviation[i])}
    draws_ = tuple(f"draw {i + 1}" for i in range(len(scores)))
    bars = Bars("Accuracy of each draw", draws_, np.array(scores)[:, 0], "accuracy")
    return Result(numbers, [bars, _map(x, rows.test, labels, classes)], manifest)


def _charts(
    x: np.ndarray,
    test: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    classes: tuple[str, ...],
    matrix: np.ndarray,
    f1: np.ndarray,
) -> list[Chart]:
    sure = torch.from_numpy(scores).softmax(1).numpy()
    predicted = scores.argmax(1)
    wrong = np.flatnonzero(predicted != labels[test])
    worst = wrong[np.argsort(-sure[wrong, predicted[wrong]], kind="stable")][:WORST]
    captions = [f"{classes[labels[test[i]]]}, taken for {classes[predicted[i]]}" for i in worst]
    return [
        Confusion("Confusion", matrix, classes),
        Bars("F1 of each class", classes, f1, "F1"),
        Faces("Surest mistakes", [int(test[i]) for i in worst], captions),
        _map(x, test, labels, classes),
    ]


def _map(x: np.ndarray, test: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Map:
    shown = spread(test)
    return Map("Embeddings of the test split", x[shown], [classes[labels[i]] for i in shown])
