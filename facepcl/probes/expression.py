"""Expression from frozen features: one linear layer, accuracy and F1."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from facepcl.errors import DataError, OptionError
from facepcl.probes import common, metrics
from facepcl.probes.charts import Bars, Confusion, Faces, Map
from facepcl.probes.features import Features
from facepcl.probes.manifest import Manifest
from facepcl.probes.result import Result
from facepcl.probes.solvers import STRENGTHS, Basis, class_path

SHOT_FOLDS = 4
BATCH, LEARNING_RATE, INITIAL_STD = 256, 1e-2, 0.01  # METHOD 6
SCORES = ("accuracy", "macro_f1", "balanced_accuracy")


def probe(manifest: Manifest, features: Features, branch: str, options: common.Options) -> Result:
    """Accuracy, macro F1 and mean class accuracy of the test split. Raises DataError for labels that cannot
    be scored."""
    x, rows = features.of[branch], common.split_rows(manifest, features, options.seed)
    labels, classes = _labels(manifest)
    count, test = len(classes), rows.test
    if missing := sorted({classes[labels[i]] for i in test} - {classes[labels[i]] for i in rows.fitted}):
        raise DataError(f"the test split has classes that the training split lacks: {', '.join(missing)}")
    shown = common.evenly(test)
    embeddings = Map("Embeddings of the test split", x[shown], [classes[labels[i]] for i in shown])
    if options.shots:
        numbers, bars = _few_shots(x, labels, classes, rows, options)
        return Result(common.describe_rows(manifest, rows) | numbers, [bars, embeddings], manifest)
    if options.protocol == "paper":
        scores, numbers, notes = _published(x, labels, count, rows, options.seed)
    else:
        scores, numbers, notes = common.predict(x[test], *common.fit_classes(x, labels, rows, count))
    truth, predicted = labels[test], scores.argmax(1)
    parts = metrics.confusion_parts(truth, predicted, count)
    people = manifest.subjects(test)
    estimate = metrics.estimate(people, parts, lambda sums: metrics.class_scores(sums, count), options.seed)
    matrix = parts.sum(0).reshape(count, count).astype(int)
    f1 = metrics.divide(2 * np.diagonal(matrix), matrix.sum(0) + matrix.sum(1))
    numbers = {
        "classes": list(classes),
        **common.describe_rows(manifest, rows),
        **numbers,
        **estimate.numbers(SCORES),
        **{f"f1_{name}": metrics.tidy(value) for name, value in zip(classes, f1, strict=True)},
        "chance": metrics.tidy(np.bincount(truth).max() / len(truth)),
        "confusion": matrix.tolist(),
    }
    confidence = torch.from_numpy(scores).softmax(1).numpy()
    wrong = np.flatnonzero(predicted != truth)
    worst = wrong[np.argsort(-confidence[wrong, predicted[wrong]], kind="stable")][: common.MISTAKES]
    captions = [f"{classes[truth[i]]}, predicted {classes[predicted[i]]}" for i in worst]
    charts = [
        Confusion("Confusion matrix", matrix, classes),
        Bars("F1 of each class", classes, f1, "F1"),
        Faces("Most confident errors", test[worst].tolist(), captions),
        embeddings,
    ]
    return Result(numbers, charts, manifest, notes)


def _labels(manifest: Manifest) -> tuple[np.ndarray, tuple[str, ...]]:
    names = [image.expression or "" for image in manifest.images]
    classes = manifest.classes or tuple(sorted(set(names)))
    indices = {name: i for i, name in enumerate(classes)}
    for image, name in zip(manifest.images, names, strict=True):
        if name not in indices:
            raise DataError(f"{image.name}: expression {name!r} is none of {', '.join(classes)}")
    if len(classes) < 2:
        raise DataError(f"one class only, {classes[0]!r}: there is nothing to tell apart")
    return np.array([indices[name] for name in names]), classes


def _published(
    x: np.ndarray, labels: np.ndarray, classes: int, rows: common.Rows, seed: int
) -> common.Predicted:
    """The published probe (METHOD 6): raw features, Adam, batches in a fixed order."""
    features, targets = torch.from_numpy(x[rows.fitted]), torch.from_numpy(labels[rows.fitted])
    test, truth = torch.from_numpy(x[rows.test]), torch.from_numpy(labels[rows.test])
    generator = torch.Generator().manual_seed(seed)
    weight = (INITIAL_STD * torch.randn(x.shape[1], classes, generator=generator)).requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, common.EPOCHS)

    def train_epoch() -> None:
        for batch, target in zip(features.split(BATCH), targets.split(BATCH), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(batch @ weight + bias, target).backward()
            optimizer.step()
        schedule.step()

    return common.train_published(
        train_epoch,
        lambda: test @ weight + bias,
        lambda scores: float((scores.argmax(1) == truth).float().mean()),
        "accuracy_last_epoch",
    )


def _few_shots(
    x: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], rows: common.Rows, options: common.Options
) -> tuple[dict[str, Any], Bars]:
    """Mean and standard deviation over draws of a few training images per class; the strength is chosen by
    four folds of the draw."""
    rng = np.random.default_rng(options.seed)
    fitted, truth, count, shots = rows.fitted, labels[rows.test], len(classes), options.shots
    sizes = np.bincount(labels[fitted], minlength=count)
    if short := [f"{name} {n}" for name, n in zip(classes, sizes, strict=True) if n < shots]:
        raise OptionError(f"--shots {shots}: the training split has fewer of {', '.join(short)}")
    fold = np.tile(np.arange(shots) % SHOT_FOLDS, count)
    scores = []
    for _ in range(options.repeats):
        drawn = np.concatenate([rng.permutation(fitted[labels[fitted] == k])[:shots] for k in range(count)])
        right = np.zeros(len(STRENGTHS))
        for f in range(SHOT_FOLDS):
            train, val = drawn[fold != f], drawn[fold == f]
            for i, linear in enumerate(class_path(Basis(x, train), labels[train], count)):
                right[i] += (linear(x[val]).argmax(1) == labels[val]).sum()
        strengths = STRENGTHS[: int(right.argmax()) + 1]
        *_, linear = class_path(Basis(x, drawn), labels[drawn], count, strengths)
        parts = metrics.confusion_parts(truth, linear(x[rows.test]).argmax(1), count)
        scores.append(metrics.class_scores(parts.sum(0), count))
    std = np.std(scores, 0, ddof=1) if len(scores) > 1 else np.full(len(SCORES), np.nan)
    numbers: dict[str, Any] = {"classes": list(classes), "shots": shots, "repeats": options.repeats}
    for i, (name, mean) in enumerate(zip(SCORES, np.mean(scores, 0), strict=True)):
        numbers |= {name: metrics.tidy(mean), f"{name}_std": metrics.tidy(std[i])}
    draws = tuple(f"draw {i + 1}" for i in range(len(scores)))
    return numbers, Bars("Accuracy of each draw", draws, np.array(scores)[:, 0], "accuracy")
