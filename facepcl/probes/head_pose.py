"""Head pose from frozen features: batch norm and one linear layer, errors in degrees."""

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from facepcl.errors import DataError
from facepcl.images.face import ANGLES
from facepcl.images.rotations import from_pose_para, geodesic, rotation, to_pose_para
from facepcl.probes import common, metrics
from facepcl.probes.charts import Bars, Faces, Map, Scatter
from facepcl.probes.features import Features
from facepcl.probes.manifest import Manifest
from facepcl.probes.result import Result

YAW_FIRST = [1, 0, 2]  # published angles come as pitch, yaw, roll
BANDS = (0, 15, 30, 45, 60, 99)  # degrees of yaw to either side
BATCH, LEARNING_RATE = 128, 1e-3  # METHOD 6


def probe(manifest: Manifest, features: Features, branch: str, options: common.Options) -> Result:
    """Mean absolute error of yaw, pitch and roll, angle between the rotations, and error by band of yaw, in
    degrees; the paper protocol uses the angles of published tables (docs/DATASETS.md).

    Raises DataError for images without angles.
    """
    if missing := next((image.name for image in manifest.images if image.pose is None), None):
        raise DataError(f"{missing} has no yaw, pitch and roll")
    x, rows = features.of[branch], common.split_rows(manifest, features, options.seed)
    test = rows.test
    pose = np.array([image.pose for image in manifest.images], np.float32)
    published = options.protocol == "paper"
    if published:
        pose = to_pose_para(pose)[:, YAW_FIRST].astype(np.float32)
        predicted, numbers, notes = _published(x, pose, rows, options.seed)
    else:
        predicted, numbers, notes = common.predict(x[test], *common.fit_angles(x, pose, rows))
    truth = pose[test]
    error = np.abs(predicted - truth)
    ours = [from_pose_para(p[:, YAW_FIRST]) if published else p for p in (truth, predicted)]
    rotation_error = geodesic(*map(rotation, ours))
    band = np.searchsorted(BANDS[1:-1], np.abs(truth[:, 0]), "right")
    in_band = np.eye(len(BANDS) - 1)[band]
    mean = error.mean(1)
    parts = [error, mean, rotation_error, np.ones(len(test)), in_band * mean[:, None], in_band]

    def score(sums: np.ndarray) -> np.ndarray:
        errors, count, band_errors, band_counts = np.split(sums, (5, 6, 5 + len(BANDS)), -1)
        return np.concatenate([errors / count, metrics.divide(band_errors, band_counts)], -1)

    estimate = metrics.estimate(manifest.subjects(test), np.column_stack(parts), score, options.seed)
    of_bands = estimate.since(5)
    names = [f"{a}_{b}" for a, b in pairwise(BANDS)]
    constant = np.abs(np.median(pose[rows.fitted], 0) - truth).mean(0)
    numbers = {
        "angles": "Pose_Para" if published else "facepcl",
        **common.describe_rows(manifest, rows),
        **numbers,
        **estimate.numbers((*(f"mae_{angle}" for angle in ANGLES), "mae", "geodesic")),
    }
    for i, name in enumerate(names):
        numbers[f"mae_at_yaw_{name}"] = metrics.tidy(of_bands.value[i])
        numbers[f"n_at_yaw_{name}"] = int((band == i).sum())
    numbers |= {f"constant_mae_{a}": metrics.tidy(c) for a, c in zip(ANGLES, constant, strict=True)}
    worst = np.argsort(-rotation_error, kind="stable")[: common.MISTAKES]
    captions = [
        ", ".join(f"{a} {truth[i, n]:.0f} predicted {predicted[i, n]:.0f}" for n, a in enumerate(ANGLES))
        for i in worst
    ]
    shown = common.evenly(np.arange(len(test)))
    titles = tuple(name.replace("_", " to ") for name in names)
    charts = [
        *(Scatter(a.capitalize(), truth[:, n], predicted[:, n], "degrees") for n, a in enumerate(ANGLES)),
        Bars("Mean error by the yaw of the head", titles, of_bands.value, "degrees", *of_bands[1:]),
        Faces("Largest errors", test[worst].tolist(), captions, columns=6),
        Map("Embeddings of the test split, by yaw in degrees", x[test[shown]], truth[shown, 0]),
    ]
    return Result(numbers, charts, manifest, notes)


def _published(x: np.ndarray, pose: np.ndarray, rows: common.Rows, seed: int) -> common.Predicted:
    """The published probe (METHOD 6): batch norm and a linear layer, AdamW at a constant learning rate,
    shuffled batches, L1."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        network = nn.Sequential(nn.BatchNorm1d(x.shape[1]), nn.Linear(x.shape[1], 3))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    rng, target, fitted = np.random.default_rng(seed), torch.from_numpy(pose), rows.fitted
    test, truth = torch.from_numpy(x[rows.test]), target[rows.test]

    def train_epoch() -> None:
        network.train()
        order = rng.permutation(fitted)
        for start in range(0, len(order), BATCH):
            batch = np.sort(order[start : start + BATCH])  # in order: the features may be on disk
            if len(batch) < 2:
                continue  # batch norm has no statistics of one image
            optimizer.zero_grad()
            (network(torch.from_numpy(x[batch])) - target[batch]).abs().mean().backward()
            optimizer.step()
        network.eval()

    return common.train_published(
        train_epoch,
        lambda: network(test),
        lambda angles: -float((angles - truth).abs().mean()),
        "mae_last_epoch",
    )
