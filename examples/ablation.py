"""The ablation of the paper at equal views: SimCLR, PCL without a part, PCL and pcl-relative, then probes.

    python examples/ablation.py FACES.tar --probe-data head-pose=POSES.tar expression=FER/ --out runs/ablation

trains each method with each seed on FACES (folders or .tar shards, labels are not read) for the same number
of views, probes the frozen encoders and untrained ones on the labelled data, and writes RUNS/ablation.md and
RUNS/ablation.csv. It takes about one night on two cores. The same command continues where it was stopped;
finished runs are not repeated. A smoke test of ten minutes, which only checks that it runs:

    python examples/ablation.py FACES.tar --probe-data head-pose=POSES.tar --out runs/quick --quick

What each method is: docs/METHOD.md, sections 12 and 14. The controls are untrained encoders, and the even and
the odd part of their codes under mirroring, which separate yaw without any training. Read the differences
beside their spread over the seeds. The numbers are those of `--preset small`; --set changes any of them.
"""

import argparse
import csv
import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

from facepcl import FacepclError, pretrain
from facepcl.pretrain.checkpoints import check_same_run
from facepcl.probes.baselines import load_encoder

METHODS = ("simclr", "pcl-no-pose", "pcl-no-orthogonal", "pcl", "pcl-relative")
NIGHT: dict[str, Any] = {"views": 300_000, "seeds": [0, 1, 2]}
QUICK: dict[str, Any] = {"views": 6_400, "seeds": [0]}
# The number of each probe that stands in ablation.md; ablation.csv has them all.
MAIN = {
    "expression": "accuracy",
    "verification": "accuracy",
    "action-units": "f1",
    "head-pose": "mae",
    "disentangle": "pose_over_expression_{branch}",
}
Row = dict[str, Any]
CONTROLS = {"untrained, even part": 1.0, "untrained, odd part": -1.0}


class MirrorPart(nn.Module):
    """The even (`sign` 1) or odd (-1) part of an encoder's maps under mirroring of the image."""

    def __init__(self, encoder: nn.Module, sign: float):
        super().__init__()
        self.encoder: Any = encoder
        self.register_buffer("sign", torch.tensor(sign))  # in the state, so that cached features differ
        self.pretrained_cfg, self.num_features = self.encoder.pretrained_cfg, self.encoder.num_features

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        maps, mirrored = (self.encoder.forward_features(x) for x in (images, images.flip(3)))
        return (maps + self.sign * mirrored) / 2

    def shared_code(self, maps: torch.Tensor) -> torch.Tensor:
        return self.encoder.shared_code(maps) if hasattr(self.encoder, "shared_code") else maps.mean((2, 3))


def plan(config: pretrain.Config, views: int) -> dict[str, pretrain.Config]:
    """The run of each method, all of equal views: the most up to `views` that are whole steps of each."""
    configs = {method: replace(config, method=method) for method in METHODS}
    even = math.lcm(*(c.views_per_step for c in configs.values()))
    if views < even:
        sys.exit(f"--views {views}: at least {even}, the fewest that are whole steps of every method")
    total = views - views % even
    return {m: replace(c, steps=total // c.views_per_step, epochs=0.0) for m, c in configs.items()}


def train(config: pretrain.Config) -> Path:
    """The encoder of a run, which is begun, continued, or finished already."""
    run, encoder = Path(config.out), Path(config.out, "encoder")
    if check_same_run(run / "config.json", asdict(config)) and encoder.is_dir():
        return encoder
    print(f"{run}: {config.steps} steps of {config.views_per_step} views", file=sys.stderr)
    return pretrain.run(config, progress=True)


def figures(model: str | nn.Module, branch: str, seed: int, probe_data: dict[str, str], cache: Path) -> Row:
    """What the probes find in an encoder: `{"head-pose mae": 7.1, ...}`; its codes are kept in `cache`."""
    from facepcl import probes

    found: Row = {}
    for task, data in probe_data.items():
        result = probes.run(task, data, model=model, branch=branch, seed=seed, cache=cache)
        found |= {f"{task} {name}": value for name, value in result.numbers.items() if is_number(value)}
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def markdown(rows: Iterable[Row], tasks: Iterable[str]) -> str:
    """A line for each method and branch: the main number of each task, mean and deviation over the seeds."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["method"], row["branch"], f"{row['views']:,}"].append(row)
    head = ["method", "branch", "views", "seeds"]
    head += [f"{task} {MAIN[task].removesuffix('_{branch}')}" for task in tasks]
    lines = [head, ["---"] * len(head)]
    for key, group in groups.items():
        cells = [*key, str(len(group))]
        for task in tasks:
            values = [row[f"{task} {MAIN[task].format(branch=row['branch'])}"] for row in group]
            cells.append(f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else ""))
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write(rows: list[Row], tasks: Iterable[str], out: Path) -> None:
    (out / "ablation.md").write_text(markdown(rows, tasks), "utf-8")
    names = dict.fromkeys(name for row in rows for name in row)
    with (out / "ablation.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)


def named(option: str, words: list[str], names: Iterable[str]) -> dict[str, str]:
    """`["name=value", ...]` as a dictionary."""
    found = dict(word.partition("=")[::2] for word in words)
    for name, value in found.items():
        if name not in names or not value:
            sys.exit(f"{option} {name}={value}: NAME=VALUE, with a NAME of {', '.join(names)}")
    return found


def numbers(words: list[str], base: pretrain.Config) -> Row:
    """What `--set` changes, each value in the type of the option."""
    fixed = ("method", "seed", "steps", "epochs", "minutes")
    named_fields = (f for f in fields(base) if f.metadata and f.name not in fixed)
    names = [f.name for f in named_fields if not isinstance(f.default, bool)]
    found: Row = {}
    for name, value in named("--set", words, names).items():
        try:
            found[name] = type(getattr(base, name))(value)
        except ValueError:
            sys.exit(f"--set {name}={value}: {value!r} is no number")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="+", help="face crops to train on: folders or .tar shards")
    parser.add_argument(
        "--out", default="runs/ablation", metavar="RUNS", help="folder of the runs and tables"
    )
    parser.add_argument(
        "--probe-data", nargs="+", default=[], metavar="TASK=DATA", help=f"tasks: {', '.join(MAIN)}"
    )
    parser.add_argument(
        "--branch", nargs="+", default=["shared"], help="codes to probe: shared (the default), face, pose"
    )
    parser.add_argument("--views", type=int, help=f"of each run (default: {NIGHT['views']})")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK['views']} views and one seed")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="any option of pretrain, as batch=64 lr=1e-4",
    )
    args = parser.parse_args()
    size = QUICK if args.quick else NIGHT
    out = Path(args.out)
    base = pretrain.Config(data=tuple(args.data), out=args.out, **pretrain.PRESETS["small"])
    base = replace(base, **numbers(args.set, base))
    probe_data = named("--probe-data", args.probe_data, MAIN)

    rows: list[Row] = []
    for seed in args.seeds or size["seeds"]:
        runs = plan(replace(base, seed=seed), args.views or size["views"])
        # untrained first: it tells soon if a probe's data is wrong
        for method in ("untrained", *CONTROLS, *METHODS):
            model: str | nn.Module = f"random:{base.model}"
            views, has_branches = 0, method not in ("simclr", *CONTROLS)  # others train no branch
            if method in CONTROLS:
                model = MirrorPart(load_encoder(model, seed), CONTROLS[method])
            if method in runs:
                config = replace(runs[method], out=str(out / f"{method}-seed{seed}"))
                model, views = f"local-dir:{train(config)}", config.steps * config.views_per_step
            for branch in args.branch if has_branches else ["shared"]:
                found = figures(model, branch, seed, probe_data, out / "codes")
                rows.append({"method": method, "branch": branch, "seed": seed, "views": views, **found})
        write(rows, probe_data, out)  # after each seed: a night may end early
    print(markdown(rows, probe_data), end="")
    print(f"wrote {out / 'ablation.md'} and {out / 'ablation.csv'}")
    if args.quick:
        print("smoke test: too few views for the figures to mean anything")


if __name__ == "__main__":
    try:
        main()
    except FacepclError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
