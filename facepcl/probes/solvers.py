"""Linear probes on fixed features: whole regularisation paths, solved in the features' eigenbasis."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

# Weights of the L2 term beside the mean loss, strongest first; 1 / (N strength) is scikit-learn's C.
STRENGTHS = tuple(float(s) for s in np.logspace(1, -5, 13))
ROWS = 4096  # standardised at a time: a second copy of the features would not fit into memory
FLAT = 1e-6  # directions with less than this share of the largest variance are rounding
SMALL = 1 << 22  # numbers in the training features
ITERATIONS = 40  # of L-BFGS for each strength; each starts from the previous solution


@dataclass
class Linear:
    """Scores `[M, K]` = standardised features `[M, D]` times `weight` `[D, K]` plus `bias` `[K]`."""

    mean: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: np.ndarray) -> np.ndarray:
        blocks = [
            (torch.from_numpy(np.asarray(features[i : i + ROWS])) - self.mean) / self.scale @ self.weight
            for i in range(0, len(features), ROWS)
        ]
        return (torch.cat(blocks) + self.bias).numpy() if blocks else np.empty((0, len(self.bias)))


class Basis:
    """Training features `[N, D]`, standardised, in the basis of their principal directions.

    There ridge regression is one division for each strength, and logistic regression, whose curvature is
    nearly diagonal, takes some ten steps instead of hundreds. The basis is a rotation, so the L2 term and
    the solutions are those of the standardised features.
    """

    def __init__(self, features: np.ndarray, rows: np.ndarray):
        self._features, self._rows = features, rows
        total, square = np.zeros(features.shape[1]), np.zeros(features.shape[1])
        for block in self._raw():
            total += block.sum(0, dtype=np.float64)
        mean = total / len(rows)
        for block in self._raw():
            square += np.square(block - mean.astype(np.float32)).sum(0, dtype=np.float64)
        scale = np.sqrt(square / len(rows))
        scale[scale < 1e-6 * max(scale.max(), 1e-30)] = 1.0  # constant: 0 once the mean is subtracted
        self.mean, self.scale = (torch.from_numpy(v.astype(np.float32)) for v in (mean, scale))
        self.directions, self.variances = self._principal()
        self.codes = torch.cat([block @ self.directions for block in self._blocks()])

    def _raw(self) -> Iterator[np.ndarray]:
        for i in range(0, len(self._rows), ROWS):
            yield np.asarray(self._features[self._rows[i : i + ROWS]], np.float32)

    def _blocks(self) -> Iterator[torch.Tensor]:
        return ((torch.from_numpy(block) - self.mean) / self.scale for block in self._raw())

    def _principal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Directions `[D, R]` and the variances `[R]` along them, from whichever Gram matrix is smaller."""
        count, width = len(self._rows), self._features.shape[1]
        if few := count < width:
            rows = torch.cat(list(self._blocks()))
            gram = (rows @ rows.T).double()
        else:
            gram = torch.zeros(width, width, dtype=torch.float64)
            for block in self._blocks():
                gram += (block.T @ block).double()
        values, vectors = torch.linalg.eigh(gram / count)
        kept = values > FLAT * values[-1].clamp_min(1e-30)
        values, vectors = values[kept], vectors[:, kept].float()
        if few:
            vectors = (rows.T @ vectors) / (values * count).sqrt().float()
        return vectors, values.float()

    def linear(self, weight: torch.Tensor, bias: torch.Tensor) -> Linear:
        """A solution `[R, K]` in this basis as one for features."""
        return Linear(self.mean, self.scale, self.directions @ weight, bias)


def ridge_path(basis: Basis, targets: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> Iterator[Linear]:
    """Least squares with an L2 term for `targets` `[N, K]`, a solution for each strength:
    mean |X W + b - Y|^2 + strength |W|^2."""
    y = torch.from_numpy(np.asarray(targets, np.float32))
    bias = y.mean(0)
    product = basis.codes.T @ (y - bias) / len(y)
    for strength in strengths:
        yield basis.linear(product / (basis.variances + strength)[:, None], bias)


def class_path(
    basis: Basis, labels: np.ndarray, classes: int, strengths: Sequence[float] = STRENGTHS
) -> Iterator[Linear]:
    """Multinomial logistic regression for `labels` `[N]` in 0 .. `classes` - 1, a solution for each
    strength: mean cross-entropy + strength / 2 |W|^2, as scikit-learn's with C = 1 / (N strength)."""
    target = torch.from_numpy(np.asarray(labels, np.int64))
    share = F.one_hot(target, classes).float().mean(0)
    # the curvature of the loss at the class shares; a mean over classes suffices, as it only scales steps
    curvature = float((share * (1 - share)).mean())
    loss = partial(F.cross_entropy, target=target)
    return _logistic_path(basis, loss, share.clamp_min(1e-6).log(), curvature, strengths)


def units_path(basis: Basis, occurs: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> Iterator[Linear]:
    """Logistic regressions for `occurs` `[N, K]` of 0 and 1 in one linear layer, a solution for each
    strength: mean binary cross-entropy + strength / 2 |w|^2 of each label."""
    target = torch.from_numpy(np.asarray(occurs, np.float32))
    share = target.mean(0).clamp(1e-6, 1 - 1e-6)

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(scores, target, reduction="none").mean(0).sum()

    return _logistic_path(basis, loss, share.logit(), float((share * (1 - share)).mean()), strengths)


def _logistic_path(
    basis: Basis,
    loss: Callable[[torch.Tensor], torch.Tensor],
    bias: torch.Tensor,
    curvature: float,
    strengths: Sequence[float],
) -> Iterator[Linear]:
    """Minimise `loss(codes W + b) + strength / 2 |W|^2` for one strength after another."""
    weight = torch.zeros(basis.codes.shape[1], len(bias))
    for strength in strengths:
        # in units of the inverse root of its curvature each direction converges as fast as the others
        units = (curvature * basis.variances + strength).rsqrt()[:, None]
        weight, bias = _minimise(basis.codes, loss, weight, bias, units, strength)
        yield basis.linear(weight, bias)


def _minimise(
    codes: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor,
    units: torch.Tensor,
    strength: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    scaled = (weight / units).requires_grad_()
    bias = bias.clone().requires_grad_()  # the previous solution keeps its own
    optimizer = torch.optim.LBFGS(
        [scaled, bias],
        max_iter=ITERATIONS,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        w = units * scaled
        value = loss(codes @ w + bias) + strength / 2 * w.square().sum()
        value.backward()
        return value

    # one thread for small problems: on a machine with other load, several that wait for each other at every
    # step took 45 times as long
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if codes.numel() < SMALL else threads)
    try:
        optimizer.step(closure)
    finally:
        torch.set_num_threads(threads)
    return (units * scaled).detach(), bias.detach()
