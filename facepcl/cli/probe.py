"""`facepcl probe`: options, then one call of `facepcl.probes.run`, or a table of results."""

import argparse
from pathlib import Path

from facepcl.utils.streams import say

DESCRIPTION = "Linear probes of frozen features. Each run writes one flat JSON file."
EXAMPLE = """example: facepcl probe expression fer2013/ --model pcl_facecycle --report report.html
         facepcl probe table probes/
DATA: a data set in its official layout (docs/DATASETS.md), class or identity folders, .tar shards, or a
.csv manifest. `facepcl probe TASK --help` shows the options."""

TASKS = {
    "expression": "expression classes: accuracy, F1, confusion",
    "verification": "the same person or not: accuracy over ten folds, ROC",
    "action-units": "action units: F1, AUC and intensities of each",
    "head-pose": "yaw, pitch, roll: errors in degrees",
    "disentangle": "how far each code moves when pose, expression or light alone changes",
}
FORMS = ("text", "markdown", "csv")


def add(parser: argparse.ArgumentParser) -> None:
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", dest="task", required=True)
    for task, words in TASKS.items():
        _add_options(tasks.add_parser(task, help=words, description=f"Linear probe of {words}."), task)
    table = tasks.add_parser(
        "table", help="a table of the results in a folder", description="Compare results."
    )
    table.add_argument("runs", metavar="RUNS", help="folder with results")
    table.add_argument("--format", choices=FORMS, default="text", help="default: text")
    for sub in tasks.choices.values():
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _add_options(parser: argparse.ArgumentParser, task: str) -> None:
    from facepcl.data.label_files import CLS_LABELS
    from facepcl.embedding.encoder import BRANCH_NAMES, POOLS

    add = parser.add_argument
    add("data", metavar="DATA", help="a data set: folder, .tar, .csv, .npz or .bin")
    if task not in ("verification", "disentangle"):
        add("--test", metavar="DATA", help="score on this data set (default: DATA's test split)")
    add("--layout", default="auto", help="name of DATA's layout (default: recognised)")
    add(
        "--cls", choices=CLS_LABELS, default=CLS_LABELS[0], help="the label in NAME.cls (default: expression)"
    )
    add("--model", default="pcl_facecycle", help="a model with weights, random:NAME, pixels or hog")
    if task != "disentangle":
        add("--branch", choices=BRANCH_NAMES, default="shared", help="default: shared")
    add("--pool", choices=POOLS, help="default: code, the model's own; with --protocol paper flatten")
    if task != "disentangle":
        add("--flip", action="store_true", help="average each code with that of the mirrored face")
    add("--size", type=int, default=0, metavar="PIXELS", help="side of the input (default: the model's own)")
    add("--align", action="store_true", help="crop squares around the landmarks, which DATA must have")
    if task != "disentangle":
        add(
            "--protocol",
            choices=("clean", "paper"),
            default="clean",
            help="clean: L2 strength from a validation split, test split used once; paper: as published",
        )
    if task == "expression":
        add(
            "--shots",
            type=int,
            default=0,
            metavar="N",
            help="train on N images per class, at least 4 (default: all)",
        )
        add("--repeats", type=int, default=5, metavar="N", help="draws of the shots (default: 5)")
    add(
        "--seed", type=int, default=0, help="seed of splits, draws, bootstrap and random weights (default: 0)"
    )
    add("--device", default="auto", help="cpu, cuda, mps, or auto")
    add(
        "--dtype", choices=("auto", "float32", "bfloat16", "int8"), default="float32", help="default: float32"
    )
    add("--workers", type=int, metavar="N", help="decoding processes (0: none)")
    add(
        "--cache",
        metavar="FOLDER",
        help="folder for cached features (default: $FACEPCL_CACHE, or the user's cache)",
    )
    add("--out", default="probes", metavar="FOLDER", help="folder for the results as JSON (default: probes)")
    add("--report", metavar="FILE.html", help="write a page with charts and the worst errors")


def run(args: argparse.Namespace) -> int:
    from facepcl.probes import run_probe
    from facepcl.probes.table import table

    if args.task == "table":
        print(table(Path(args.runs), args.format))
        return 0
    result = run_probe.run(**vars(args), progress=True)
    for name, value in result.numbers.items():
        # those of single action units are only in the JSON and the report
        if isinstance(value, float) and not name.endswith(("_low", "_high")) and "_AU" not in name:
            low, high = (result.numbers.get(f"{name}_{end}") for end in ("low", "high"))
            bounds = f"  ({low:.4g} to {high:.4g})" if low is not None and high is not None else ""
            print(f"{name:<32} {value:.4g}{bounds}")
    for note in result.notes:
        say(f"note: {note}")
    page = f" and {args.report}" if args.report else ""
    print(f"wrote {Path(args.out) / run_probe.result_name(result.numbers)}{page}")
    return 1 if result.numbers["n_failed"] else 0
