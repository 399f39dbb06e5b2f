"""The package as a whole: imports run one way, names are there, the wheel carries the weights."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import facepcl
from facepcl import errors

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "facepcl").rglob("*.py"))

# A file imports from lines above its own, never from its own or below. `facepcl` itself is the names, on top.
LAYERS = (
    {"errors"},
    {"_files", "_ahead", "share", "remote", "chance"},
    {
        "_lock",
        "_progress",
        "_interrupt",
        "index",
        "machine",
        "onnx_graph",
        "fit",
        "images",
        "squares",
        "ranks",
    },
    {"faces", "templates", "detector_file", "face_sheet"},
    {"detection", "sources", "backends"},
    {"face_cutter", "crop_names", "face_table", "shards", "training_labels"},
    {"reader_process", "listing"},
    {"readers"},
    {"models.branches", "models.original", "models.decoder"},
    {"models._weights", "models.heads"},
    {"models.pcl_facecycle", "models.pcl_resnet"},
    {"models"},
    {"pretrained"},
    {"folders"},
    {"create"},
    {"hub.card", "hub.foreign"},
    {"hub.conversion", "hub.upload"},
    {"hub.bundled"},
    {"hub"},
    {"rows", "int8"},
    {"parquet_table"},
    {"tables"},
    {"encoder"},
    {"unfinished", "data_set", "summary", "embedding", "alignment", "export"},
    {"swap"},
    {"demo.compare"},
    {"demo.parts"},
    {"demo.page"},
    {"demo"},
    {"sheet", "training_data"},
    {"losses", "crops"},
    {"views"},
    {"sharded_job"},
    {"embedding_job"},
    {"label_heads", "label_views", "checkpoints", "norms", "samples", "run_log", "diagnostics", "unfolded"},
    {"recipe"},
    {"batches", "objectives"},
    {"sub_steps", "stream", "averages"},
    {"pretrain"},
    {"probes.manifest", "probes.pose", "probes.solvers", "probes.metrics"},
    {"probes.result", "probes.baselines", "probes.features", "probes.splits", "probes.layouts.common"},
    {"probes.layouts.csv_files", "probes.layouts.shards", "probes.layouts.pairs"},
    {"probes.tasks", "probes.charts", "probes.table"},
    {f"probes.layouts.{task}" for task in ("expression", "verification", "action_units", "head_pose")},
    {f"probes.{task}" for task in ("expression", "verification", "action_units", "head_pose", "disentangle")},
    {"probes.layouts", "probes.report"},
    {"probes"},
    {
        f"cli.{name}"
        for name in ("align", "embed", "pretrain", "probe", "convert", "export", "push", "models", "demo")
    },
    {"cli"},
    {"__main__", "__init__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def own_name(path):
    parts = path.relative_to(ROOT / "facepcl").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported(path):
    """Names of our files that `path` imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("facepcl."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("facepcl"):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [name for name in whole if name.removeprefix("facepcl.") in LEVEL]
            yield from inside or [node.module]


@pytest.mark.parametrize("path", FILES, ids=own_name)
def test_imports_run_one_way(path):
    level = LEVEL[own_name(path)]
    for name in imported(path):
        short = name.removeprefix("facepcl.")
        if short in ("facepcl", ""):
            continue
        assert LEVEL[short] < level, f"{own_name(path)} imports {short}"


@pytest.mark.parametrize("path", FILES, ids=own_name)
def test_no_file_is_longer_than_500_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 500


def test_every_submodule_can_be_imported_and_shadows_no_public_name():
    for module in pkgutil.walk_packages(facepcl.__path__, "facepcl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    modules = {"alignment", "demo", "export", "hub", "losses", "pretrain", "probes", "views"}
    for name in facepcl.__all__:
        assert inspect.ismodule(getattr(facepcl, name)) == (name in modules), name
        assert name in modules or callable(getattr(facepcl, name)), name
    assert callable(facepcl.pretrain.run)
    for loss in ("face_contrast", "pose_contrast", "orthogonality", "reconstruction"):
        assert callable(getattr(facepcl.losses, loss))


def test_every_public_name_has_a_docstring():
    for name in facepcl.__all__:
        assert inspect.getdoc(getattr(facepcl, name)), name


def test_every_error_is_a_facepcl_error_and_a_builtin_one():
    found = [e for e in vars(errors).values() if inspect.isclass(e) and e.__module__ == errors.__name__]
    found.remove(errors.FacepclError)
    assert len(found) >= 7
    for error in found:
        assert issubclass(error, facepcl.FacepclError)
        assert issubclass(error, (ValueError, OSError, ImportError, RuntimeError))
        assert str(error("one sentence")) == "one sentence"


def test_a_missing_extra_names_the_pip_line():
    with pytest.raises(errors.MissingExtra, match=r"pip install 'facepcl\[parquet\]'"):
        errors.require("no_such_package", "parquet")


def test_an_extra_that_does_not_load_says_why(tmp_path, monkeypatch):
    (tmp_path / "too_old.py").write_text("raise ImportError('it requires NumPy 2.0 or newer')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.MissingExtra, match=r"too_old is installed but does not load \(it requires"):
        errors.require("too_old", "parquet")


def test_import_facepcl_loads_nothing_heavy_beyond_timm():
    script = (
        "import sys, timm; before = set(sys.modules); import facepcl; "
        "print({m.split('.')[0] for m in set(sys.modules) - before})"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ast.literal_eval(run.stdout) <= {"facepcl"}


def test_the_command_without_a_subcommand_says_what_there_is():
    run = subprocess.run([sys.executable, "-m", "facepcl"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "COMMAND" in run.stderr


@pytest.mark.slow
def test_the_wheel_brings_the_weights(tmp_path):
    """Built, installed into an environment of its own beside this one's dependencies, and loaded from
    there."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("facepcl-*.whl")
    assert wheel.stat().st_size < 90e6
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    script = f"""
import sys
sys.path.append({str(Path(importlib.import_module("torch").__file__).parents[1])!r})
import facepcl, timm, torch
assert str(facepcl.__file__).startswith({str(tmp_path)!r}), facepcl.__file__
model = timm.create_model("pcl_facecycle", pretrained=True)
assert model(torch.rand(1, 3, 64, 64)).shape == (1, 128)
"""
    subprocess.run([python, "-c", script], check=True, cwd=tmp_path)


def test_what_the_documents_link_to_is_there():
    """Files of this repository; a fresh clone has no others."""
    lost = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists()
    ]
    assert not lost
