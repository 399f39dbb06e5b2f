"""A whole linear probe, from image files to a score, beside timm's script and scikit-learn.

    python benchmarks/probe.py

17,589 JPEG files of 48 px in seven class folders, as many as the maintainers' share of FER-2013 (14,000 to
train, 3,589 to test). Ours: `facepcl probe`, which extracts features, selects one of 13 strengths on a
validation split and scores with a bootstrap interval. Theirs: a script as timm's inference.py, in bfloat16
and channels_last, extracts features; scikit-learn's scaler and logistic regression select from the same
strengths, each warm from the one before, on the 2,048 features of `facepcl embed`, since timm's have 128.
The labels are half invented, so accuracies mean nothing.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from embed import write_files
from jobs import FACEPCL, Spent, run
from machine import describe
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import facepcl
from facepcl.probes.solvers import STRENGTHS

PEER = (sys.executable, Path(__file__).with_name("peer_jobs.py"))
TRAIN, TEST, CLASSES, SIDE = 14_000, 3_589, 7, 48
VALIDATION = 0.2


def write_classes(folder: Path, train: int, test: int) -> Path:
    """Class folders of both splits. A face belongs to its own class or, half of the time, to any."""
    random = np.random.default_rng(0)
    (folder / "files").mkdir()
    for number, path in enumerate(write_files(folder / "files", train + test, SIDE)):
        label = number % CLASSES if random.random() < 0.5 else random.integers(CLASSES)
        place = folder / "data" / ("train" if number < train else "test") / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    return folder / "data"


def solve(features: Path) -> Spent:
    """What scikit-learn's selection, fit and score take."""
    found = facepcl.read_embeddings(features)
    names = np.array([Path(path).parts[-3:-1] for path in found.paths])
    is_train, y = names[:, 0] == "train", np.unique(names[:, 1], return_inverse=True)[1]
    wall, cpu = time.perf_counter(), time.process_time()
    x = StandardScaler().fit(found.vectors[is_train]).transform(found.vectors)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(is_train))
    held_out, rest = np.split(rows, [round(VALIDATION * len(rows))])
    warnings.simplefilter("ignore")
    model, scores = LogisticRegression(max_iter=1000, warm_start=True), []
    for strength in STRENGTHS:
        model.set_params(C=1 / (strength * len(rest))).fit(x[rest], y[rest])
        scores.append(model.score(x[held_out], y[held_out]))
    best = STRENGTHS[int(np.argmax(scores))]
    model = LogisticRegression(max_iter=1000, C=1 / (best * len(rows))).fit(x[rows], y[rows])
    model.score(x[~is_train], y[~is_train])
    return Spent(time.perf_counter() - wall, time.process_time() - cpu, 0)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", type=int, default=TRAIN, help=f"images (default: {TRAIN})")
    parser.add_argument("--test", type=int, default=TEST, help=f"images (default: {TEST})")
    args = parser.parse_args(words)
    print(describe(), "\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_classes(folder, args.train, args.test)
        command = [*FACEPCL, "probe", "expression", data, "--cache", folder / "cache", "--out", folder]
        whole = run([*command, "--dtype", "bfloat16"])
        solver = run([*command, "--dtype", "bfloat16"])  # features from the cache
        peer = run([*PEER, "timm", data, folder / "peer.npz", "--amp", "--channels-last"])
        print("| part | ours: wall, CPU s | theirs: wall, CPU s | times faster |\n|---|---|---|---|")
        row("features", Spent(whole.wall - solver.wall, whole.cpu - solver.cpu, 0), peer)
        run([*FACEPCL, "embed", data, "-o", folder / "ours.npz"])
        theirs = solve(folder / "ours.npz")
        row("start-up, selection, score and interval", solver, theirs)
        row("whole", whole, Spent(peer.wall + theirs.wall, peer.cpu + theirs.cpu, 0))


def row(part: str, ours: Spent, theirs: Spent) -> None:
    cells = (f"{spent.wall:.1f}, {spent.cpu:.1f}" for spent in (ours, theirs))
    print(f"| {part} | {' | '.join(cells)} | {theirs.wall / ours.wall:.1f} |", flush=True)


if __name__ == "__main__":
    main()
