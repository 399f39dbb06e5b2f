"""Head pose from frozen features: batch norm and one linear layer, errors in degrees."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from facepcl.errors import DataError
from facepcl.images.face import ANGLES
from facepcl.probes import metrics
from facepcl.probes.common import (
    WORST,
    Options,
    Rows,
    describe_rows,
    edge_note,
    fit_angles,
    groups,
    rows_of,
    spread,
)
from facepcl.probes.features import Features
from facepcl.probes.manifest import Manifest
from facepcl.probes.result import Bars, Chart, Faces, Map, Result, Scatter
from facepcl.probes.rotations import from_pose_para, geodesic, rotation, to_pose_para

YAW_FIRST = [1, 0, 2]  # published angles come as pitch, yaw, roll
BANDS = (0, 15, 30, 45, 60, 99)  # degrees of yaw to either side
EPOCHS, BATCH, RATE = 300, 128, 1e-3  # METHOD 6


def probe(manifest: Manifest, features: Features, branch: str, options: Options) -> Result:
    """Mean absolute error of yaw, pitch and roll, angle between the rotations, and error by band of yaw, in
    degrees; under the paper protocol of the angles that published tables are about (docs/DATASETS.md).

    Raises DataError for images without angles.
    """
    if missing := next((image.name for image in manifest.images if image.pose is None), None):
        raise DataError(f"{missing} has no yaw, pitch and roll")
    x, rows = features.of[branch], rows_of(manifest, features, options.seed)
    pose = np.array([image.pose for image in manifest.images], np.float32)
    published = options.protocol == "paper"
    if published:
        pose = to_pose_para(pose)[:, YAW_FIRST].astype(np.float32)
    predicted, found, notes = _paper(x, pose, rows, options.seed) if published else _clean(x, pose, rows)
    truth = pose[rows.test]
    error = np.abs(predicted - truth)
    ours = [from_pose_para(p[:, YAW_FIRST]) if published else p for p in (truth, predicted)]
    turned = geodesic(*map(rotation, ours))
    band = np.searchsorted(BANDS[1:-1], np.abs(truth[:, 0]), "right")
    constant = np.abs(np.median(pose[rows.fitted], 0) - truth).mean(0)

    one = np.ones(len(truth))
    parts = np.column_stack([error, error.mean(1), turned, one])
    in_band = np.eye(len(BANDS) - 1)[band]
    parts = np.concatenate([parts, in_band * error.mean(1)[:, None], in_band], 1)

    def score(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            bands = sums[..., 6 : 6 + len(BANDS) - 1] / sums[..., 6 + len(BANDS) - 1 :]
            return np.concatenate([sums[..., :5] / sums[..., 5:6], bands], -1)

    values = score(parts.sum(0))
    low, high = metrics.interval(groups(manifest, rows.test), parts, score, options.seed)
    numbers: dict[str, Any] = {"angles": "Pose_Para" if published else "facepcl"}
    numbers |= {**describe_rows(manifest, rows), **found}
    for i, name in enumerate((*(f"mae_{a}" for a in ANGLES), "mae", "geodesic")):
        numbers |= metrics.with_bounds(name, values[i], low[i], high[i])
    names = [f"{a}_{b}" for a, b in pairwise(BANDS)]
    for i, name in enumerate(names):
        numbers[f"mae_at_yaw_{name}"] = metrics.tidy(values[5 + i])
        numbers[f"n_at_yaw_{name}"] = int((band == i).sum())
    numbers |= {f"constant_mae_{a}": metrics.tidy(c) for a, c in zip(ANGLES, constant, strict=True)}
    bars = Bars(
        "Mean error by the yaw of the head",
        tuple(f"{n.replace('_', ' to ')}" for n in names),
        values[5:],
        "degrees",
        low[5:],
        high[5:],
    )
    return Result(numbers, _charts(x, rows.test, truth, predicted, turned, bars), manifest, notes)


def _clean(x: np.ndarray, pose: np.ndarray, rows: Rows) -> tuple[np.ndarray, dict, tuple]:
    """Angles `[T, 3]` of the test rows: strength chosen on val, then fitted on train and val together."""
    linear, strength = fit_angles(x, pose, rows)
    return linear(x[rows.test]), {"strength": strength}, edge_note(strength)


def _paper(x: np.ndarray, pose: np.ndarray, rows: Rows, seed: int) -> tuple[np.ndarray, dict, tuple]:
    """The published probe (METHOD 6): batch norm and a linear layer, AdamW at a constant rate, 300 epochs of
    shuffled batches, L1; best epoch of the test split, which flatters, so the last one stands beside it."""
    fitted = rows.fitted
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.BatchNorm1d(x.shape[1]), nn.Linear(x.shape[1], 3))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    random, target = np.random.default_rng(seed), torch.from_numpy(pose)
    test, truth = torch.from_numpy(x[rows.test]), target[rows.test]
    best_angles, best_error, best_epoch, error = torch.empty(0), float("inf"), 0, 0.0
    for epoch in range(1, EPOCHS + 1):
        network.train()
        order = random.permutation(fitted)
        for start in range(0, len(order), BATCH):
            batch = np.sort(order[start : start + BATCH])  # in order: the features may lie on the disk
            if len(batch) < 2:
                continue  # batch norm has no statistics of one image
            optimizer.zero_grad()
            (network(torch.from_numpy(x[batch])) - target[batch]).abs().mean().backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            angles = network(test)
        error = float((angles - truth).abs().mean())
        if error < best_error:
            best_angles, best_error, best_epoch = angles, error, epoch
    found = {"epoch": best_epoch, "mae_last_epoch": metrics.tidy(error)}
    return best_angles.numpy(), found, ("the epoch was chosen on the test split, as published",)


def _charts(
    x: np.ndarray, test: np.ndarray, truth: np.ndarray, predicted: np.ndarray, turned: np.ndarray, bars: Bars
) -> list[Chart]:
    worst = np.argsort(-turned, kind="stable")[:WORST]
    captions = [
        ", ".join(
            f"{a} {t:.0f} judged {p:.0f}" for a, t, p in zip(ANGLES, truth[i], predicted[i], strict=True)
        )
        for i in worst
    ]
    shown = spread(np.arange(len(test)))
    scatters = [
        Scatter(a.capitalize(), truth[:, i], predicted[:, i], "degrees") for i, a in enumerate(ANGLES)
    ]
    return [
        *scatters,
        bars,
        Faces("Largest errors", [int(test[i]) for i in worst], captions, columns=6),
        Map("Embeddings of the test split, by yaw in degrees", x[test[shown]], truth[shown, 0]),
    ]
