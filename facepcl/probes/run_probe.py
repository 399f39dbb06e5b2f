"""Evaluate frozen features: `facepcl.probes.run("expression", "fer2013/", model="pcl_facecycle")`."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from facepcl._version import __version__
from facepcl.data.label_files import CLS_LABELS
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.encoder import BRANCH, BRANCH_NAMES, IDENTITY, MODEL, POOL
from facepcl.errors import OptionError, check_known, require
from facepcl.models.branches import Branches
from facepcl.probes import action_units, disentangle, expression, head_pose, verification
from facepcl.probes.baselines import BASELINES, load_encoder
from facepcl.probes.common import Options, people_note
from facepcl.probes.datasets import read_manifest
from facepcl.probes.datasets.common import common_units
from facepcl.probes.features import Features, aligned, extract
from facepcl.probes.manifest import Manifest
from facepcl.probes.report import check_report, write_report
from facepcl.probes.result import Result
from facepcl.probes.splits import join
from facepcl.utils.files import check_folder
from facepcl.utils.torch_state import default_torch_state

BRANCH_PROBES: dict[str, Callable[[Manifest, Features, str, Options], Result]] = {
    "expression": expression.probe,
    "verification": verification.probe,
    "action-units": action_units.probe,
    "head-pose": head_pose.probe,
}
DISENTANGLE = "disentangle"
TASKS = (*BRANCH_PROBES, DISENTANGLE)
PROTOCOLS = ("clean", "paper")
MAX_PART = 32  # letters of a part of a file name: file systems take 255 in all
PAPER_SIZE = {"expression": 100, "head-pose": 256}  # pixels (METHOD 6)
PAPER_POOL = "flatten"


@default_torch_state()
def run(
    task: str,
    data: str | Path,
    *,
    test: str | Path | None = None,
    layout: str = "auto",
    cls: str = CLS_LABELS[0],
    model: str | nn.Module = MODEL,
    branch: str = BRANCH,
    pool: str | None = None,
    flip: bool = False,
    size: int = 0,
    align: bool = False,
    protocol: str = "clean",
    shots: int = 0,
    repeats: int = 5,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    workers: int | None = None,
    cache: str | Path | None = None,
    out: str | Path | None = None,
    report: str | Path | None = None,
    progress: bool = False,
) -> Result:
    """Evaluate frozen features by a linear probe.

    Autocast, inference mode, the default dtype and other state of torch that the caller has set do not change
    the result.

    Args:
        task: One of `TASKS`: expression, verification, action-units, head-pose, disentangle.
        data: A data set in an official layout (docs/DATASETS.md), `.tar` shards or a CSV manifest.
        test: Another data set to score on.
        layout: Name of the layout; `auto` recognises it.
        cls: The label that NAME.cls of `.tar` shards holds: `expression` or `identity`.
        model: As for `FaceEmbedder`, or `random:NAME`, `pixels`, `hog`.
        branch: As for `FaceEmbedder`, like `flip`, `size`, `device` and `dtype`.
        pool: As for `FaceEmbedder`; protocol `paper` takes the flattened map, and refuses another.
        align: Crop upright squares around the landmarks of data that has them.
        protocol: `clean` chooses the strength on a validation split and uses the test split once; `paper` has
            the published settings (expression and head pose).
        shots: Training images per class, in `repeats` draws (expression).
        seed: Seed of splits, draws and intervals. The same seed gives the same result.
        workers: Processes that decode.
        cache: Folder for features; None is the user's cache.
        out: Folder for the result as JSON.
        report: Path of an HTML page.
        progress: Show a progress bar.

    Returns:
        A `Result`; `.numbers` is a flat dictionary of scores with 95 % intervals.

    Raises:
        OptionError: An argument is wrong.
        MissingPath: The data does not exist.
        MissingExtra: A probe needs `facepcl[probe]`.
        DataError: The data set is not in the layout; names file and line.
        WeightsError: There are no weights.
    """
    seed, repeats = int(seed), int(repeats)  # numpy's integers do not go into JSON
    options = Options(protocol, seed, int(shots or 0), repeats)
    _check(task, branch, pool, flip, options)
    if report is not None:
        check_report(Path(report))
    if out is not None:
        check_folder(Path(out))  # before the work, which would be lost
    if task in ("verification", "action-units"):
        require("sklearn.metrics", "probe")  # now, not after the features are extracted
    manifest = read_manifest(task, data, layout, seed, cls)
    if test is not None:
        if task in ("verification", DISENTANGLE):
            raise OptionError(f"{task} trains no probe that could be scored on a second data set")
        manifest = join(manifest, read_manifest(task, test, "auto", seed, cls))
        if task == "action-units":
            manifest.images, notes = common_units(manifest.images)
            manifest.notes += notes
    if align:
        manifest.images = aligned(manifest, turn=task != "head-pose")
    if protocol == "paper":
        pool, size = PAPER_POOL, size or PAPER_SIZE[task]

    embedder = FaceEmbedder(
        load_encoder(model, seed) if isinstance(model, str) else model,
        pool=pool or POOL,
        flip=flip,
        size=size,
        device=device,
        dtype=dtype,
        backend="eager" if model in BASELINES else "auto",
    )
    embedder.check_branch(branch)
    # all branches together, so that the next probe finds them
    branches = Branches._fields if embedder.has_branches else ("shared",)
    has_identity = embedder.has_identity and embedder.pool == POOL and task != DISENTANGLE
    identity = (IDENTITY,) if has_identity else ()
    features = extract(
        manifest,
        embedder,
        (*branches, *identity),
        mirrored=task == DISENTANGLE,
        cache=cache,
        workers=workers,
        progress=progress,
    )
    if branch == "concat":
        features.of[branch] = np.concatenate([features.of[name] for name in branches], 1)

    if task == DISENTANGLE:
        result = disentangle.probe(manifest, features, branches, options)
        branch = "all"
    else:
        result = BRANCH_PROBES[task](manifest, features, branch, options)
    meta = features.meta
    name = model if isinstance(model, str) else meta["model"]
    setting = {
        "task": manifest.task or task,
        "data": _name_of(data),
        "test": None if test is None else _name_of(test),
        "layout": manifest.layout,
        "model": name,
        "tag": "random" if name.startswith("random:") else meta["tag"],
        "branch": branch,
        "pool": meta["pool"],
        "flip": flip,
        "dimension": features.of["shared" if branch == "all" else branch].shape[1],
        "input": meta["preprocessing"]["input_size"][-1],
        "aligned": align,
        "protocol": protocol,
        "seed": seed,
        "weights_sha256": meta["weights_sha256"],
        "labels_sha256": _labels_sha256(manifest),
        "files_sha256": _files_sha256(manifest),
        "dtype": meta["dtype"],
        "facepcl": __version__,
        "n_images": len(manifest.images),
        "n_dropped": manifest.dropped,
        "n_failed": len(features.failed),
    }
    notes = (*manifest.notes, *result.notes, *people_note(result.numbers))
    result = dataclasses.replace(result, numbers={**setting, **result.numbers}, notes=notes)
    if out is not None:
        result.write(Path(out) / result_name(result.numbers))
    if report is not None:
        write_report(result, Path(report))
    return result


def _check(task: str, branch: str, pool: str | None, flip: bool, options: Options) -> None:
    _, seed, shots, repeats = dataclasses.astuple(options)
    check_known("task", task, TASKS)
    check_known("protocol", options.protocol, PROTOCOLS)
    if options.protocol == "paper" and task not in PAPER_SIZE:
        raise OptionError(f"no protocol is published for PCL's probe of {task}; use --protocol clean")
    if options.protocol == "paper" and pool not in (None, PAPER_POOL):
        raise OptionError(f"protocol 'paper' has pool {PAPER_POOL!r}; leave out pool {pool!r}")
    check_known("branch", branch, BRANCH_NAMES)
    if task == DISENTANGLE and flip:
        raise OptionError(f"{task} compares images with their mirror images: flip would make them equal")
    if seed < 0:
        raise OptionError(f"--seed must be at least 0, not {seed}")
    if shots and (task != "expression" or options.protocol == "paper"):
        raise OptionError("--shots is for expression under the clean protocol")
    if (shots and shots < expression.SHOT_FOLDS) or shots < 0 or repeats < 1:
        raise OptionError(f"--shots must be at least {expression.SHOT_FOLDS} and --repeats at least 1")


def _name_of(data: str | Path) -> str:
    """The name of a data set: also of the working folder, and of the one above it."""
    return os.path.basename(os.path.abspath(data))


def _labels_sha256(manifest: Manifest) -> str:
    """A hash of the names and labels of a data set, wherever it lies."""
    digest = hashlib.sha256()
    for image in manifest.images:
        digest.update(f"{image._replace(name=Path(image.name).name)}\n".encode(errors="replace"))
    digest.update(f"{manifest.pairs}".encode())
    return digest.hexdigest()[:12]


def _files_sha256(manifest: Manifest) -> str:
    """A hash of the sizes of a data set's files: the same names and labels may belong to other images."""
    sizes = [path.stat().st_size if path.exists() else 0 for path in manifest.files]
    return hashlib.sha256(f"{sizes}".encode()).hexdigest()[:6]


def result_name(numbers: dict[str, Any]) -> str:
    """The name of the JSON file of a result, which only the same run has."""
    parts = [numbers[key] for key in ("task", "data", "test", "labels_sha256", "files_sha256")]
    prefix, colon, path = numbers["model"].rpartition(":")
    parts.append(f"{prefix}{colon}{'/'.join(Path(path).parts[-2:])}"[-MAX_PART:])
    parts += [numbers["weights_sha256"][:12], numbers["branch"], numbers["pool"], f"{numbers['input']}-px"]
    parts += [word for word in ("flip", "aligned") if numbers.get(word)]
    parts += [numbers["protocol"]] * (numbers["protocol"] != "clean")
    parts += [numbers["dtype"]] * (numbers["dtype"] != "float32")
    if "shots" in numbers:
        parts.append(f"{numbers['shots']}-shots-{numbers['repeats']}-times")
    parts.append(f"seed-{numbers['seed']}")
    words = (re.sub(r"[^A-Za-z0-9.-]+", "-", str(part))[:MAX_PART].rstrip("-") for part in parts if part)
    return "_".join(words) + ".json"
