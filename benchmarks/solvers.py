"""The probes' logistic regression beside scikit-learn's: 28,709 x 2,048 float32 features, 7 classes.

    python benchmarks/solvers.py

The size of FER-2013's training split with our codes; the features are random with a decaying spectrum, as
codes have one. Ours: the whole path of 13 strengths. scikit-learn: some of these strengths, each warm from
the one before, at its default tolerance and 1,000 iterations at most.
"""

import time
import warnings

import numpy as np
from machine import describe
from sklearn.linear_model import LogisticRegression

from facepcl.probes.solvers import STRENGTHS, Basis, class_path

IMAGES, WIDE, CLASSES = 28_709, 2_048, 7
COMPARED = STRENGTHS[2:9:2]


def features() -> tuple[np.ndarray, np.ndarray]:
    """Standardised features whose variances fall as 1 / rank, and labels that they hold in part."""
    random = np.random.default_rng(0)
    spectrum = np.arange(1, WIDE + 1, dtype=np.float32)[:, None] ** -0.5
    x = random.normal(size=(IMAGES, WIDE)).astype(np.float32)
    x @= spectrum * random.normal(size=(WIDE, WIDE)).astype(np.float32)
    x = (x - x.mean(0)) / x.std(0)
    scores = x @ random.normal(size=(WIDE, CLASSES)).astype(np.float32)
    scores = 1.5 * scores / scores.std() + random.gumbel(size=scores.shape)
    return x, scores.argmax(1)


def loss(scores: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float) -> float:
    """What both minimise."""
    scores = scores - scores.max(1, keepdims=True)
    cross_entropy = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]
    return float(cross_entropy.mean() + strength / 2 * np.square(weights).sum())


def main() -> None:
    print(describe(), "\n")
    x, y = features()
    start = time.monotonic()
    basis = Basis(x, np.arange(IMAGES))
    print(f"ours: basis {time.monotonic() - start:.1f} s")
    found = {}
    for strength, linear in zip(STRENGTHS, class_path(basis, y, CLASSES), strict=True):
        found[strength] = time.monotonic() - start, linear
    print(f"ours: whole path of {len(STRENGTHS)} strengths {found[STRENGTHS[-1]][0]:.1f} s\n")
    print("| strength | scikit-learn, s | its loss | our loss |\n|---|---|---|---|")
    warnings.simplefilter("ignore")
    model = LogisticRegression(max_iter=1000, warm_start=True)
    for strength in COMPARED:
        start = time.monotonic()
        model.set_params(C=1 / (strength * IMAGES)).fit(x, y)
        seconds = time.monotonic() - start
        theirs = loss(model.decision_function(x), y, model.coef_, strength)
        linear = found[strength][1]
        ours = loss(linear(x), y, linear.weight.numpy(), strength)
        print(f"| {strength:.3g} | {seconds:.1f} | {theirs:.5f} | {ours:.5f} |", flush=True)


if __name__ == "__main__":
    main()
