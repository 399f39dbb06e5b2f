"""The tables of MODEL_CARD.md and docs/comparisons.md: what weights hold, beside random ones, HOG and pixels.

    python examples/model_card.py --data ../shared/data --out runs/card

probes what examples/model_card.jsonl has no scores of, adds them to it and writes the tables into
the two pages. It may be stopped at any time; hours on one core in all, an hour with `--seeds 1`. `--also
"SimCLR=local-dir:runs/simclr/encoder"` adds an encoder to compare with. DATA is the maintainers' folder of
rendered faces, and of real ones for measuring only:

FER-2013: 14,000 of its training faces, public test; the set has duplicates, 270 groups across both. LFW: the
5,605 of the 6,000 pairs whose images are at hand, tight grey crops. YouTube Faces: 1,875 frames of 187
people, angles fitted from landmarks. Rendered: 5,750 faces train, 1,500 of other people test, aligned by
landmarks.
"""

import argparse
import csv
import json
import os
import re
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from model_card_groups import groups_table
from model_card_heads import confusion_table, heads_scores, heads_table
from model_card_pairs import cosines_of, cosines_table, pairs_scores, pairs_table

from facepcl import probes
from facepcl.embedding.encoder import IDENTITY
from facepcl.models.registry import Row, read_index, write_index
from facepcl.utils.files import write_text

ROOT = Path(__file__).resolve().parents[1]
CARD, COMPARISONS = ROOT / "MODEL_CARD.md", ROOT / "docs/comparisons.md"
SCORES = ROOT / "examples/model_card.jsonl"
BRANCHES = ("shared", "face", "pose", "concat")  # the last takes longest
RANDOM_SEEDS = 3


class Encoder(NamedTuple):
    """A group of lines of the table: its name there, its name for `facepcl probe`, and its codes."""

    title: str
    model: str
    branches: tuple[str, ...]


class Column(NamedTuple):
    """Task and data, the score's name in the results, what makes it per cent or degrees, and its heading."""

    task: str
    data: str
    key: str
    scale: int
    title: str


Scores = dict[str, Any]

COLUMNS = (
    Column("expression", "fer2013", "accuracy", 100, "FER-2013, accuracy %"),
    Column("verification", "lfw.csv", "accuracy", 100, "LFW, accuracy %"),
    Column("verification", "lfw.csv", "centred_accuracy", 100, "LFW, centred %"),
    Column("head-pose", "ytf-pose.tar", "mae", 1, "YouTube Faces, pose MAE °"),
    Column("expression", "synthface-96-train.tar", "accuracy", 100, "rendered: expression %"),
    Column(
        "verification",
        "synthface-96-test.tar",
        "centred_accuracy",
        100,
        "verification (drawn pairs), centred %",
    ),
    Column("action-units", "synthface-96-train.tar", "f1", 100, "units, mean F1 %"),
    Column("head-pose", "synthface-96-train.tar", "mae", 1, "pose MAE °"),
)
_SERIES = "counterfactual-96-test.tar"
SERIES = (
    *(
        Column("disentangle", _SERIES, f"pose_over_expression_{b}", 1, f"pose / expression: {b}")
        for b in ("face", "pose", "shared")
    ),
    Column("disentangle", _SERIES, "read_yaw_face", 1, "yaw read from face °"),
    Column("disentangle", _SERIES, "read_yaw_pose", 1, "from pose °"),
    Column("disentangle", _SERIES, "read_expression_face", 100, "expression read from face %"),
    Column("disentangle", _SERIES, "read_expression_pose", 100, "from pose %"),
)
METRICS = (  # of the index
    ("fer2013", "shared", COLUMNS[0]),
    ("lfw", "shared", COLUMNS[2]),
    ("lfw_identity", IDENTITY, COLUMNS[1]),
)
KEYS = {column.key for column in (*COLUMNS, *SERIES)}


def encoders(also: list[str]) -> list[Encoder]:
    """The lines of the table: bundled weights, what `--also` names, and the baselines."""
    bundled = [row for row in read_index() if row.path]
    models = dict.fromkeys(row.model for row in bundled)
    names = {f"{row.model}.{row.tag}": (*BRANCHES, *([IDENTITY] if row.heads else [])) for row in bundled}
    return [
        *(Encoder(name, name, branches) for name, branches in names.items()),
        *(Encoder(*word.partition("=")[::2], ("shared",)) for word in also),
        *(Encoder(f"{model}, random", f"random:{model}", ("shared",)) for model in models),
        *(Encoder(name, name, ("shared",)) for name in ("hog", "pixels")),
    ]


def unpack(data: Path, work: Path) -> None:
    """FER-2013 and LFW as folders, and LFW's pairs as a manifest."""
    for name in ("fer2013", "lfw-112"):
        if not (work / name).is_dir():
            partial = work / f"{name}.partial"
            with tarfile.open(data / f"real/{name}.tar.gz") as tar:
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


def jobs(data: Path, work: Path) -> list[tuple[str, Path, dict[str, Any]]]:
    """Task, data and options of the probes."""
    train, test = data / "synthface-96-train.tar", data / "synthface-96-test.tar"
    rendered = {"test": test, "align": True}
    return [
        ("expression", work / "fer2013", {}),
        ("verification", work / "lfw.csv", {}),
        ("head-pose", data / "real/ytf-pose.tar", {"align": True}),
        ("expression", train, rendered),
        ("verification", test, {"align": True}),
        ("action-units", train, rendered),
        ("head-pose", train, rendered),
        ("disentangle", data / _SERIES, {"align": True}),
    ]


def read_scores() -> list[Scores]:
    """The scores that are known, but those of bundled weights that have been replaced."""
    lines = SCORES.read_text("utf-8").splitlines() if SCORES.is_file() else []
    current = {f"{row.model}.{row.tag}": row.sha256 for row in read_index()}
    scores = [json.loads(line) for line in lines]
    return [s for s in scores if current.get(s["title"], s["weights_sha256"]) == s["weights_sha256"]]


def write_scores(scores: list[Scores]) -> None:
    write_text(SCORES, "".join(json.dumps(s) + "\n" for s in scores))


def probe(encoder: Encoder, seeds: int, data: Path, out: Path, scores: list[Scores]) -> None:
    """Add what `scores` lacks of an encoder, and keep it after each probe; random weights have the seed of
    their probe."""
    seeds = max(seeds, RANDOM_SEEDS * encoder.model.startswith("random:"))
    done = {(s["task"], s["data"], s["branch"], s["seed"]) for s in scores if s["title"] == encoder.title}
    for branch, seed in ((b, s) for b in ("all", *encoder.branches) for s in range(seeds)):
        for task, source, options in jobs(data, out / "data"):
            if (task == "disentangle") != (branch == "all") or (task, source.name, branch, seed) in done:
                continue
            start = time.monotonic()
            chosen = {"branch": "shared" if branch == "all" else branch, "seed": seed, **options}
            numbers = probes.run(
                task, source, model=encoder.model, cache=out / "features", out=out / "results", **chosen
            ).numbers
            kept = {key: value for key, value in numbers.items() if re.sub("_(low|high)$", "", key) in KEYS}
            named = ("data", "branch", "seed", "weights_sha256", "input", "n_images", "facepcl")
            scores.append(
                {"title": encoder.title, "task": task, **{key: numbers[key] for key in named}, **kept}
            )
            with SCORES.open("a", encoding="utf-8") as file:  # a line: several commands may add to it
                file.write(json.dumps(scores[-1]) + "\n")
            seconds = time.monotonic() - start
            print(f"{encoder.title} {branch}: {task} {source.name}, {seconds:.0f} s", flush=True)


def cell(found: list[Scores], column: Column) -> str:
    """The mean of a score over the seeds, and of the bounds of its interval if there are any."""
    values = [s for s in found if (s["task"], s["data"]) == (column.task, column.data)]
    values = [s for s in values if s.get(column.key) is not None]
    if not values:
        return ""

    def mean(key: str) -> str:
        return f"{column.scale * sum(s[key] for s in values) / len(values):.1f}"

    bounds = [f"{column.key}_{end}" for end in ("low", "high")]
    interval = f" ({mean(bounds[0])}-{mean(bounds[1])})" if bounds[0] in values[0] else ""
    return mean(column.key) + interval


def scores_table(scores: list[Scores]) -> str:
    """What is read from each code, on real and on rendered faces."""
    lines = dict.fromkeys((s["title"], s["branch"]) for s in scores if own(s) and s["branch"] != "all")
    return table(scores, list(lines), COLUMNS)


def series_table(scores: list[Scores]) -> str:
    """How the codes move in the series in which one thing changes."""
    lines = dict.fromkeys((s["title"], s["branch"]) for s in scores if own(s) and s["branch"] == "all")
    return table(scores, list(lines), SERIES)


def compared_table(scores: list[Scores]) -> str:
    """Both for the encoders of `--also`."""
    lines = dict.fromkeys((s["title"], s["branch"]) for s in scores if not own(s) and s["branch"] != "all")
    return table(scores, list(lines), (*COLUMNS, *SERIES[:3]))


def own(score: Scores) -> bool:
    """Whether a score is of bundled weights or of a baseline, not of an encoder of `--also`."""
    return score["title"] in {encoder.title for encoder in encoders([])}


def table(scores: list[Scores], lines: list[tuple[str, str]], columns: tuple[Column, ...]) -> str:
    """A line for each title and branch."""
    head = ["features", "code", *(column.title for column in columns)]
    rows = [head, ["---"] * len(head)]
    for title, branch in lines:
        found = [s for s in scores if s["title"] == title and s["branch"] in (branch, "all")]
        rows.append([title, branch, *(cell(found, column) for column in columns)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_metrics(row: Row, scores: list[Scores], pairs: list[Scores]) -> Row:
    """A row of the index with what the weights reach."""
    found = [s for s in scores if s["title"] == f"{row.model}.{row.tag}"]
    metrics = {}
    for name, branch, column in METRICS:
        if value := cell([s for s in found if s["branch"] == branch], column):
            metrics[name] = float(value.split()[0])
    return replace(row, metrics=metrics, cosines=cosines_of(pairs, f"{row.model}.{row.tag}"))


def put(name: str, text: str, path: Path = CARD) -> None:
    """Write `text` between the marks `<!-- NAME -->` and `<!-- end of NAME -->` of a page."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = path.read_text("utf-8").partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{path.name} has no marks {begin.strip()} and {end.strip()}")
    path.write_text(before + begin + "\n" + text + "\n" + end + rest.partition(end)[2], "utf-8")


def weights_table() -> str:
    """The rows as the Markdown table that MODEL_CARD.md holds."""
    head = "| weights | bytes | sha256 | licence | FER-2013 % | LFW % | LFW, identity % |\n"
    head += f"|{'---|' * 7}\n"
    lines = (
        f"| `{row.model}.{row.tag}` | {row.bytes:,} | `{row.sha256[:12]}` | {row.license} "
        f"| {' | '.join(str(row.metrics.get(name, '')) for name in ('fer2013', 'lfw', 'lfw_identity'))} |\n"
        for row in read_index()
    )
    return head + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the rendered faces, and real/")
    parser.add_argument("--out", type=Path, required=True, help="folder for features and unpacked data")
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="TITLE=MODEL", help="encoders to compare with"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the probes (default: 3)")
    parser.add_argument("--only", nargs="+", metavar="TITLE", help="probe these alone")
    args = parser.parse_args()
    (args.out / "data").mkdir(parents=True, exist_ok=True)
    unpack(args.data, args.out / "data")
    scores = read_scores()
    chosen = encoders(args.also)
    for encoder in chosen:
        if args.only is None or encoder.title in args.only:
            probe(encoder, args.seeds, args.data, args.out, scores)
    scores = read_scores()  # with what other commands have added meanwhile
    titles = [encoder.title for encoder in chosen] + [s["title"] for s in scores]
    scores.sort(key=lambda s: titles.index(s["title"]))
    write_scores(scores)
    heads = heads_scores(args.data, args.out / "data")
    pairs = pairs_scores(args.out / "data")
    write_index(with_metrics(row, scores, pairs) for row in read_index())
    put("weights", weights_table())
    put("heads", heads_table(heads))
    put("pairs", pairs_table(pairs))
    put("cosines", cosines_table())
    put("confusion", confusion_table(heads))
    put("scores", scores_table(scores))
    put("series", series_table(scores))
    put("compared", compared_table(scores), COMPARISONS)
    bundled = [row for row in read_index() if row.path]
    put("groups", groups_table(args.data, [f"{row.model}.{row.tag}" for row in bundled]))


if __name__ == "__main__":
    main()
