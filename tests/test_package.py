"""The package as a whole: imports run one way, names are there, the wheel carries the weights."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from helpers.files import ROOT
from helpers.scripts import run_python

import facepcl
from facepcl import errors
from facepcl.cli import main

FILES = sorted((ROOT / "facepcl").rglob("*.py"))

# A folder imports from folders before it, never from its own level or behind; `facepcl` itself is on top.
ORDER = "errors < utils < images, models < data < jobs < alignment < embedding < hub, pretrain, probes"
ORDER += " < analysis < demo < cli"
LEVEL = {name: level for level, names in enumerate(ORDER.split(" < ")) for name in names.split(", ")}
FOLDERS = sorted(path.parent.name for path in (ROOT / "facepcl").glob("*/__init__.py"))
NAMES = ("__init__", "__main__", "_version", "losses", "views", "export")  # of the package's own folder


def imported(path):
    """Folders that `path` imports from anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (module.split(".")[1] for module in modules if module.startswith("facepcl."))


def test_imports_run_one_way_from_folder_to_folder():
    for path in FILES:
        folder = path.relative_to(ROOT / "facepcl").parts[0].removesuffix(".py")
        if folder not in NAMES:
            others = [name for name in imported(path) if name in LEVEL and name != folder]
            wrong = [name for name in others if LEVEL[name] >= LEVEL[folder]]
            assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(wrong)}"


def test_no_file_is_longer_than_500_lines_and_few_lie_beside_the_folders():
    files = [path for folder in ("facepcl", "examples", "tools") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in files if len(path.read_text("utf-8").splitlines()) > 500]
    assert len(list((ROOT / "facepcl").glob("*.py"))) <= 7


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    "files",
    ["models/weights.py", *(pytest.param(f"{folder}/**/*.py", marks=pytest.mark.slow) for folder in FOLDERS)],
)
def test_every_submodule_can_be_the_first_to_be_imported(files):
    """timm imports the files that register models in the middle of whichever imports it first."""
    found = sorted((ROOT / "facepcl").glob(files))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]
    script = f"""
import importlib, os, sys, torch, torchvision
for name in {[name.removesuffix(".__init__") for name in names]!r}:
    if not (child := os.fork()):
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{{name}} cannot be the first to be imported")
"""
    assert names
    run_python(script)


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


def test_the_command_without_a_subcommand_says_what_there_is():
    run = subprocess.run([sys.executable, "-m", "facepcl"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "COMMAND" in run.stderr


def test_a_fault_of_facepcl_has_an_exit_code_of_its_own_and_a_traceback(monkeypatch, capsys):
    """1 would say that some images have an error and the others were done."""

    def fault(args):
        raise AttributeError("of nothing")

    monkeypatch.setattr("facepcl.cli.models.run", fault)
    assert main(["models"]) == 70
    traceback, _, last = capsys.readouterr().err.rstrip().rpartition("\n")
    assert traceback.endswith("AttributeError: of nothing")
    assert last == "facepcl: unexpected AttributeError, a fault of facepcl; please report the lines above"


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
from facepcl.demo.page import SAMPLES
assert len(SAMPLES) == 10
"""
    subprocess.run([python, "-c", script], check=True, cwd=tmp_path)


def test_tests_that_the_documents_name_exist():
    """SECURITY.md names those of its promises, tests/README.md those of each kind of fault."""
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = [
        name
        for page in ("SECURITY.md", "tests/README.md")
        for name in re.findall(r"`(test_\w+)`", (ROOT / page).read_text("utf-8"))
    ]
    assert len(named) > 40
    assert [name for name in named if f"def {name}(" not in tests] == []
