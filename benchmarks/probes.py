"""The probes of this repository on the maintainers' data: rendered faces, and real ones for measuring only.

    python benchmarks/probes.py --shared ../shared --out runs/probes

writes a result a run to OUT and prints their table; what is there already is not run again. FER-2013: 14,000
of its training faces, public test; the set has duplicates, 270 groups across both. LFW: the 5,605 of the
6,000 pairs whose images are at hand, tight grey crops. YouTube Faces: 1,875 frames of 187 people, angles
fitted from landmarks. Rendered: 5,750 faces train, 1,500 of other people test, aligned by landmarks.
"""

import argparse
import csv
import os
import tarfile
import time
from pathlib import Path
from typing import Any

from machine import describe

from facepcl import probes
from facepcl.probes.result import read_numbers
from facepcl.probes.table import table

RANDOM_SEEDS = 3
MODELS = ("pcl_facecycle", "random:pcl_facecycle", "hog", "pixels")
BRANCHES = ("face", "pose", "concat", "shared")  # all but the last need the branches: one pass for all


def unpack(shared: Path, work: Path) -> None:
    """FER-2013 and LFW as folders, and LFW's pairs as a manifest."""
    for name in ("fer2013", "lfw-112"):
        if not (work / name).is_dir():
            partial = work / f"{name}.partial"
            with tarfile.open(shared / f"data/real/{name}.tar.gz") as tar:
                tar.extractall(partial, filter="data")
            os.replace(partial, work / name)
    with (work / "lfw-112/lfw/pairs.csv").open() as file:
        pairs = list(csv.DictReader(file))
    with (work / "lfw.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path1", "path2", "same", "fold", "subject1", "subject2"])
        for p in pairs:
            ends = [(p[f"name{k}"], int(p[f"index{k}"])) for k in "12"]
            paths = [f"lfw-112/lfw/{name}/{name}_{index:04d}.jpg" for name, index in ends]
            writer.writerow([*paths, p["same"], p["fold"], *(name for name, _ in ends)])


def jobs(shared: Path, work: Path) -> list[tuple[str, Path, dict[str, Any]]]:
    """Task, data and options of each row of the table."""
    train, test = shared / "data/synthface-96-train.tar", shared / "data/synthface-96-test.tar"
    rendered = {"test": test, "align": True}
    return [
        ("expression", work / "fer2013", {}),
        ("verification", work / "lfw.csv", {}),
        ("head-pose", shared / "data/real/ytf-pose.tar", {"align": True}),
        ("expression", train, rendered),
        ("verification", test, {"align": True}),
        ("action-units", train, rendered),
        ("head-pose", train, rendered),
        ("disentangle", shared / "data/counterfactual-96-test.tar", {"align": True}),
    ]


def runs(models: list[str]) -> list[tuple[str, str, int]]:
    """Model, branch and seed of each run on a data set."""
    found = []
    for model in models:
        has_branches = "pcl_" in model
        seeds = RANDOM_SEEDS if model.startswith("random:") else 1
        branches = BRANCHES if has_branches and seeds == 1 else BRANCHES[-1:]
        found += [(model, branch, seed) for seed in range(seeds) for branch in branches]
    return found


# The columns of the card: task, data, the score's key, what makes it per cent or degrees, its name.
COLUMNS = (
    ("expression", "fer2013", "accuracy", 100, "FER-2013, accuracy %"),
    ("verification", "lfw.csv", "accuracy", 100, "LFW, accuracy %"),
    ("verification", "lfw.csv", "centred_accuracy", 100, "LFW, centred %"),
    ("head-pose", "ytf-pose.tar", "mae", 1, "YouTube Faces, pose MAE °"),
    ("expression", "synthface-96-train.tar", "accuracy", 100, "rendered: expression %"),
    ("verification", "synthface-96-test.tar", "centred_accuracy", 100, "verification, centred %"),
    ("action-units", "synthface-96-train.tar", "f1", 100, "units, mean F1 %"),
    ("head-pose", "synthface-96-train.tar", "mae", 1, "pose MAE °"),
)
SERIES = {
    **{
        f"pose_over_expression_{branch}": f"pose / expression: {branch}"
        for branch in BRANCHES
        if branch != "concat"
    },
    "read_yaw_face": "yaw read from face °",
    "read_yaw_pose": "from pose °",
    "read_expression_face": "expression read from face %",
    "read_expression_pose": "from pose %",
}


def cell(found: list[dict[str, Any]], key: str, scale: float) -> str:
    """A score with its interval, or the mean of several seeds."""
    values = [scale * numbers[key] for numbers in found if numbers.get(key) is not None]
    if not values:
        return ""
    if len(values) > 1 or f"{key}_low" not in found[0]:
        return f"{sum(values) / len(values):.1f}"
    low, high = (scale * found[0][f"{key}_{end}"] for end in ("low", "high"))
    return f"{values[0]:.1f} ({low:.1f}-{high:.1f})"


def card(results: Path) -> str:
    """The tables of MODEL_CARD.md: a line for each kind of feature."""
    found = [read_numbers(path) for path in sorted(results.glob("*.json"))]
    found.sort(key=lambda n: (*MODELS, n["model"]).index(n["model"]))
    rows = list(dict.fromkeys((n["model"], n["branch"]) for n in found if n["branch"] != "all"))
    lines = [["features", "code", *(name for *_, name in COLUMNS)]]
    for model, branch in rows:
        seeds = "mean of 3 random" if model.startswith("random:") else model
        chosen = [n for n in found if (n["model"], n["branch"]) == (model, branch)]
        lines.append([seeds, branch])
        for task, data, key, scale, _ in COLUMNS:
            mine = [n for n in chosen if (n["task"], n["data"]) == (task, data)]
            lines[-1].append(cell(mine, key, scale))
    series = [["features", *SERIES.values()]]
    for model in dict.fromkeys(n["model"] for n in found if n["branch"] == "all"):
        chosen = [n for n in found if n["branch"] == "all" and n["model"] == model]
        seeds = "mean of 3 random" if model.startswith("random:") else model
        scales = {key: 100 if "expression" in key and key.startswith("read") else 1 for key in SERIES}
        series.append([seeds, *(cell(chosen, key, scales[key]) for key in SERIES)])
    return "\n".join(markdown(table) for table in (lines, series))


def markdown(lines: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and data/real/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results and of unpacked data")
    parser.add_argument("--model", nargs="+", default=list(MODELS), help="default: %(default)s")
    parser.add_argument("--task", nargs="+", default=list(probes.TASKS), help="default: all")
    args = parser.parse_args()
    work, results = args.out / "data", args.out / "results"
    work.mkdir(parents=True, exist_ok=True)
    unpack(args.shared, work)
    keys = ("task", "data", "model", "branch", "seed")
    done = {tuple(read_numbers(path)[key] for key in keys) for path in results.glob("*.json")}
    for task, data, options in jobs(args.shared, work):
        for model, branch, seed in runs(args.model):
            if task not in args.task or (task == "disentangle" and branch != "shared"):
                continue
            if (task, data.name, model, "all" if task == "disentangle" else branch, seed) in done:
                continue
            start = time.monotonic()
            chosen = {**options, "model": model, "branch": branch, "seed": seed}
            probes.run(task, data, **chosen, cache=args.out / "features", out=results)
            print(f"{task} {data.name} {model} {branch} {seed}: {time.monotonic() - start:.0f} s", flush=True)
    print(describe(), "\n")
    print(table(results, "markdown"), "\n")
    print(card(results))


if __name__ == "__main__":
    main()
