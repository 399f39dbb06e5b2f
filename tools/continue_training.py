"""Train the bundled encoders further on faces rendered for the purpose, and score what comes out.

    git worktree add runs/tree HEAD
    cd runs/tree
    python tools/continue_training.py pcl_facecycle.synth_labels --data SHARED/data --out ../next

renders people that no run has seen, trains each encoder from its newest committed weights on one core until
the time is up, all at once, and prints a row of examples/synthetic_faces/RUNS.md for each. The tag says how:
synth_labels by the labels of the faces, synth without labels, on aligned crops. A worktree keeps the training
apart from edits. The faces are kept in OUT/faces and the runs in OUT/NAME: after an interruption the same
command continues. examples/synthetic_faces/runs/ gets run-N.json, the configuration, to be committed, and
NAME.safetensors and NAME.heads.safetensors, encoder and heads in float16, to be committed if the row is
better: the next run starts from there, or from the bundled weights, to which tools/bundle_weights.py moves
them.

DATA is the folder that examples/model_card.py takes. Recipes are chosen by the development scores: expression
by a fixed fifth of FER-2013's training faces, identity by folds 0 to 4 of LFW. The public tests are looked at
once for each row, and folds 5 to 9 of LFW show other people than the folds that decided.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from model_card import unpack  # noqa: E402
from synthetic_faces.generator import VERSION  # noqa: E402

import facepcl  # noqa: E402
from facepcl import probes  # noqa: E402
from facepcl.models.factory import find_heads  # noqa: E402
from facepcl.models.heads import describe_heads  # noqa: E402
from facepcl.models.io import HEADS_FILE, save_tensors  # noqa: E402
from facepcl.models.registry import read_index  # noqa: E402
from facepcl.utils.files import atomic  # noqa: E402

LICENSE = "CC0-1.0"  # of the weights
RUNS = ROOT / "examples/synthetic_faces/runs"
FIRST_PERSON = 100_000  # of those rendered here; people below are those of the first runs
RENDER_SHARE, SCORE_MINUTES = 0.2, 12  # of the minutes, the most for rendering; for the scores of a model
IMAGES, SIZE, SEED = 5, 96, 2026  # of a person; in pixels
IMAGES_PER_MINUTE = 1800  # of a core
DEVELOPMENT_SHARE = 5  # one face in so many decides
LABELS = "--method labels --preset small --source-size 96 --lr 5e-4 --batch 128 --max-yaw 60 --max-pitch 35"
NO_LABELS = "--method pcl-relative --preset small --source-size 96 --lr 5e-4 --batch 64 --weight-decay 0"
RECIPES = {
    "pcl_facecycle.synth_labels": f"{LABELS} --resolution-schedule 48+48+64:0.7,64",
    "pcl_resnet18.synth_labels": f"{LABELS} --resolution-schedule 64+64+96:0.7,96",
    "pcl_resnet50.synth_labels": f"{LABELS} --resolution-schedule 64+64+96:0.7,96",
    "pcl_facecycle.synth": f"{NO_LABELS} --resolution-schedule 48+48+64:0.7,64",
}


class Score(NamedTuple):
    """A column of the table of runs: its heading, and task, data set, score and unit of the probe."""

    title: str
    task: str
    data: str
    key: str = "accuracy"
    scale: int = 100
    branch: str = "shared"
    align: bool = False


def verification(title: str, data: str, align: bool = False) -> tuple[Score, Score]:
    """Of the shared code and of the identity embedding."""
    shared = Score(f"{title} %", "verification", data, "centred_accuracy", align=align)
    return shared, shared._replace(title=f"{title} identity %", branch=IDENTITY)


IDENTITY = "identity"
DEVELOPMENT = (
    Score("FER-2013 dev %", "expression", "fer2013-dev"),
    *verification("LFW 0-4", "lfw-0-4.csv"),
    *verification("rendered", "synthface-96-test.tar", align=True),
)
REPORT = (
    Score("FER-2013 %", "expression", "fer2013"),
    *verification("LFW 5-9", "lfw-5-9.csv"),
    *verification("LFW", "lfw.csv"),
    Score("YTF °", "head-pose", "ytf-pose.tar", "mae", 1, "pose", align=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="test faces, and real/ for measuring")
    parser.add_argument("--out", type=Path, required=True, help="folder for faces, runs and features")
    parser.add_argument("--minutes", type=float, default=120, help="for all of it (default: 120)")
    parser.add_argument("--people", type=int, help="to render (default: for a fifth of the time)")
    parser.add_argument("--score", nargs="+", default=[], metavar="ENCODER", help="only score these")
    parser.add_argument("--development", action="store_true", help="with --score: no public tests")
    args = parser.parse_args()
    work = args.out / "data"
    work.mkdir(parents=True, exist_ok=True)
    prepare(args.data, work)
    for encoder in args.score:
        print_row(encoder, scores(encoder, args.data, work, () if args.development else REPORT))
    if not args.names:
        return
    if unknown := set(args.names) - set(RECIPES):
        parser.error(f"no recipe for {', '.join(sorted(unknown))}; choose {', '.join(RECIPES)}")
    end = time.monotonic() + 60 * args.minutes
    most = int(RENDER_SHARE * args.minutes * IMAGES_PER_MINUTE * len(args.names) / IMAGES)
    faces = render(args.out / "faces", args.people or most, workers=len(args.names))
    if any(NO_LABELS in RECIPES[name] for name in args.names):
        align(args.out / "faces", args.out / "crops")
    left = (end - time.monotonic()) / 60 - SCORE_MINUTES * len(args.names)
    runs = {name: start(name, args.out, left) for name in args.names}
    for name, process in runs.items():
        if process.wait():
            sys.exit(f"the run of {name} failed; its messages are in {args.out / name}.log")
    for name in args.names:
        facts = record(name, args.out / name, faces)
        encoder = f"local-dir:{args.out / name / 'encoder'}"
        print_row(encoder, scores(encoder, args.data, work, REPORT), facts)


def prepare(data: Path, work: Path) -> None:
    """The data sets of the scores: those of the model card, and the parts of them that decide."""
    unpack(data, work)
    if not (work / "fer2013-dev").is_dir():
        partial = work / "fer2013-dev.partial"
        for file in sorted((work / "fer2013/train").glob("*/*")):
            digest = int(hashlib.sha256(file.name.encode()).hexdigest(), 16)
            split = "train" if digest % DEVELOPMENT_SHARE else "test"
            link = partial / split / file.parent.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, link)
        partial.rename(work / "fer2013-dev")
    with (work / "lfw.csv").open(newline="") as table:
        pairs = list(csv.DictReader(table))
    for first, last in ((0, 4), (5, 9)):
        with atomic(work / f"lfw-{first}-{last}.csv") as temporary, temporary.open("w", newline="") as part:
            writer = csv.DictWriter(part, list(pairs[0]))
            writer.writeheader()
            writer.writerows(pair for pair in pairs if first <= int(pair["fold"]) <= last)


def render(out: Path, people: int, workers: int) -> dict[str, Any]:
    """Render people that no recorded run has seen, or the rest of those that are begun; what they are."""
    begun = out / "faces.json"
    options = {"people": people, "images": IMAGES, "size": SIZE, "seed": SEED, "start": next_person()}
    if begun.is_file():
        options = {key: value for key, value in json.loads(begun.read_text("utf-8")).items() if value}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    subprocess.run(
        [sys.executable, ROOT / "examples/synthetic_faces", out, *given, f"--workers={workers}"],
        check=True,
        env=environment(),
        preexec_fn=lower_priority,
    )
    return {"version": VERSION, **options}


def next_person() -> int:
    """The first person behind those of all recorded runs."""
    recorded = [json.loads(path.read_text("utf-8")).get("faces") for path in RUNS.glob("*.json")]
    return max([FIRST_PERSON, *(faces["start"] + faces["people"] for faces in recorded if faces)])


def align(faces: Path, crops: Path) -> None:
    """Cut the crops that the runs without labels read."""
    landmarks = crops.with_suffix(".csv")
    script = [ROOT / "examples/synthetic_faces/landmarks.py", faces, landmarks]
    cut = ["-m", "facepcl", "align", faces, crops, "--landmarks", landmarks]
    for command in script, cut:
        subprocess.run([sys.executable, *command], check=True, env=environment(), preexec_fn=lower_priority)


def start(name: str, out: Path, minutes: float) -> subprocess.Popen[bytes]:
    """Begin or continue the run of an encoder, with one thread, in a process session of its own."""
    run = out / name
    if (run / "config.json").is_file():  # it was interrupted: its options are those it began with
        minutes = json.loads((run / "config.json").read_text("utf-8"))["minutes"]
    data, newest = "crops" if NO_LABELS in RECIPES[name] else "faces", RUNS / f"{name}.safetensors"
    command = [sys.executable, "-m", "facepcl", "pretrain", str(out / data), "--out", str(run)]
    command += ["--model", name.partition(".")[0]]
    if newest.is_file() or name in (f"{row.model}.{row.tag}" for row in read_index()):
        command += ["--init", str(newest) if newest.is_file() else name]
    command += [*RECIPES[name].split(), "--minutes", f"{minutes:.4g}"]
    with Path(f"{run}.log").open("ab") as log:
        return subprocess.Popen(
            command, stderr=log, env=environment(), start_new_session=True, preexec_fn=lower_priority
        )


def environment() -> dict[str, str]:
    """This checkout's code, one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def lower_priority() -> None:
    os.nice(19)
    with suppress(OSError):  # Linux: nice counts within a process session only
        Path("/proc/self/autogroup").write_text("19")


def record(name: str, run: Path, faces: dict[str, int]) -> dict[str, str]:
    """Put the configuration of a finished run beside those of the others; the first cells of its row."""
    config = json.loads((run / "config.json").read_text("utf-8"))
    last = json.loads((run / "log.jsonl").read_text("utf-8").splitlines()[-1])
    config |= {"faces": faces, "data": ["FACES"], "out": "RUN", "total_steps": last["step"]}
    config |= {key: Path(config.get(key, "")).name for key in ("init", "probe_data")}
    number = 1 + max(int(path.stem.removeprefix("run-")) for path in RUNS.glob("run-*.json"))
    folder = f"local-dir:{run / 'encoder'}"
    save_halves(facepcl.create_model(folder), RUNS / f"{name}.safetensors", number)
    if config["method"] == "labels":
        heads = facepcl.create_heads(folder)
        config["heads"] = describe_heads(heads.specs)
        save_halves(heads, RUNS / f"{name}.{HEADS_FILE}", number)
    (RUNS / f"run-{number}.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return {
        "run": str(number),
        "started from": config["init"] or "random",
        "views": f"{last['step'] * config['views_per_step']:,}",
        "hours": f"{config['minutes'] / 60:.1f}",
    }


def save_halves(network: nn.Module, path: Path, number: int) -> None:
    """Write the weights of a run in float16, with what tools/bundle_weights.py and other programs need."""
    tensors = network.state_dict().items()
    halves = {name: value.half() if value.is_floating_point() else value for name, value in tensors}
    save_tensors(halves, path, {"run": str(number), "license": LICENSE})


def scores(encoder: str, data: Path, work: Path, report: tuple[Score, ...] = REPORT) -> dict[str, Any]:
    """The development scores of an encoder, and those of the `report`."""
    heads = find_heads(encoder)  # None for weights without
    found: dict[str, Any] = {}
    for score in (*DEVELOPMENT, *report):
        if score.branch == IDENTITY and not (heads and IDENTITY in heads.specs):
            found[score.title] = ""
            continue
        places = (work, data, data / "real")
        source = next(place / score.data for place in places if (place / score.data).exists())
        numbers = probes.run(
            score.task,
            source,
            model=encoder,
            branch=score.branch,
            align=score.align,
            dtype="auto",  # bfloat16 where the processor has units for it: a quarter of the time
            cache=work / "features",
        ).numbers
        found[score.title] = round(score.scale * numbers[score.key], 1)
    return found


def print_row(encoder: str, found: dict[str, Any], facts: dict[str, str] | None = None) -> None:
    """Heading and row for the table of runs."""
    row = {"encoder": encoder, **(facts or {}), **found}
    for cells in row.keys(), row.values():
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
