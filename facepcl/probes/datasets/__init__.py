"""Data sets in the layouts of their authors: `read_manifest(task, path)`."""

from pathlib import Path

from facepcl.data.file_types import Selection, unsupported
from facepcl.data.label_files import CLS_LABELS
from facepcl.data.sources import files_below
from facepcl.errors import DataError, MissingPath, OptionError, check_known, shortened
from facepcl.probes.datasets import action_units, expression, head_pose, verification
from facepcl.probes.datasets.common import Layout, table
from facepcl.probes.datasets.csv_files import csv_layout
from facepcl.probes.datasets.shards import shards_layout
from facepcl.probes.manifest import Manifest
from facepcl.utils.files import as_path

__all__ = ["LAYOUTS", "Layout", "read_manifest"]

# layouts that are expected to take every image below a folder
TAKE_ALL = ("shards", "class-folders", "split-folders", "identity-folders")
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "expression": expression.LAYOUTS,
    "verification": verification.LAYOUTS,
    "action-units": action_units.LAYOUTS,
    "head-pose": head_pose.LAYOUTS,
    "disentangle": (csv_layout("subject", "series"), shards_layout("subject", "series")),
}


def read_manifest(
    task: str, path: str | Path, layout: str = "auto", seed: int = 0, cls: str = CLS_LABELS[0]
) -> Manifest:
    """Read the labelled images at `path` for a task.

    Args:
        task: A key of `LAYOUTS`.
        path: A folder or file.
        layout: Name of the layout; "auto" takes the first that recognises `path`.
        seed: For verification data without pairs, which are drawn.
        cls: The label that NAME.cls of `.tar` shards holds: expression or identity.

    Raises:
        OptionError: Unknown task or layout.
        MissingPath: `path` does not exist.
        DataError: No layout recognises the data, or its labels are invalid.
    """
    path = as_path(path, "data")
    check_known("task", task, LAYOUTS)
    layouts = {known.name: known for known in LAYOUTS[task]}
    check_known(f"layout of {task}", layout, ("auto", *layouts))
    if not path.exists():
        raise MissingPath(f"{path}: there is no such file or folder")
    if cls not in CLS_LABELS:
        raise OptionError(f"cls must be {' or '.join(CLS_LABELS)}, not {cls!r}")
    candidates = list(layouts.values()) if layout == "auto" else [layouts[layout]]
    recognised = next((known for known in candidates if known.recognise(path)), None)
    skipped = Selection()
    below = list(files_below(path, skipped)) if path.is_dir() else []
    if recognised is None:
        if reason := path.is_file() and unsupported(path):
            raise DataError(reason)
        if path.is_file() and path.suffix.lower() == ".csv":
            readable = "; ".join(known.looks_for for known in candidates if ".csv" in known.looks_for)
            columns = shortened(", ".join(table(path)[0]))
            raise DataError(f"{path} has the columns {columns}; for {task}, facepcl reads {readable}")
        kind = "known data set" if layout == "auto" else f"{layout} data"
        looked_for = "; ".join(known.looks_for for known in candidates)
        others = f"; {skipped.explain()}" if skipped.explain() else ""
        raise DataError(f"{path} is not a {kind} for {task}; looked for {looked_for}{others}{_wrapped(path)}")
    if layout == "auto" and recognised.name == "identity-folders":
        verification.check_for_pair_list(path)
    manifest = recognised.read(path, **({"cls": cls} if recognised.name == "shards" else {}))
    if recognised.name in TAKE_ALL:
        manifest.notes += _others(below, manifest)
    skipped.forget(manifest.files)  # of labels
    skipped.tell()
    unpaired = task == "verification" and not manifest.pairs
    return verification.with_drawn_pairs(manifest, seed) if unpaired else manifest


def _wrapped(path: Path) -> str:
    """What to do about a folder that holds nothing but another, as archives often unpack."""
    folders = [f for f in path.iterdir() if f.is_dir() and f.name[0] != "."] if path.is_dir() else []
    return f"; its only folder is {folders[0].name}: try {folders[0]}" if len(folders) == 1 else ""


def _others(below: list[Path], manifest: Manifest) -> tuple[str, ...]:
    """A note on images and shards that the layout has not taken, of other folders than it reads."""
    read = set(manifest.files)
    others = [path for path in below if path not in read]
    if not others:
        return ()
    count = f"{len(others):,} of {len(below):,} images and shards"
    return (f"{count} lie elsewhere and are not read, the first: {others[0]}",)
