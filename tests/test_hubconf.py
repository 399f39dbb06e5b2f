"""torch.hub: the entry points, their help, and loading without a network."""

import importlib.util
import re
import shutil
import sys

import pytest
import timm
import torch
from helpers.files import ROOT
from helpers.scripts import run_python

import facepcl


@pytest.fixture(scope="module")
def hubconf():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_entry_points_are_the_models(hubconf):
    public = [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")]
    assert public == sorted(timm.list_models("pcl_*"))


def test_each_entry_helps_with_input_and_an_example(hubconf):
    for name in timm.list_models("pcl_*"):
        text = getattr(hubconf, name).__doc__
        assert "[0, 1]" in text
        assert f'torch.hub.load("OWNER/facepcl", "{name}"' in text


def test_dependencies_are_import_names(hubconf):
    assert all(importlib.util.find_spec(name) for name in hubconf.dependencies)


def test_nothing_heavy_is_imported_before_an_entry_is_called():
    """torch.hub names a missing dependency only if importing hubconf.py does not fail first."""
    lines = (ROOT / "hubconf.py").read_text("utf-8").splitlines()
    assert not [line for line in lines if line.startswith(("import ", "from "))]


@pytest.mark.parametrize("name", ["pcl_facecycle", "pcl_resnet18"])
def test_load_from_the_checkout(name):
    model = torch.hub.load(str(ROOT), name, source="local", num_classes=3)
    assert model.fc.out_features == 3
    assert model.face is not None


def test_the_bundled_weights_load_through_torch_hub():
    model = torch.hub.load(str(ROOT), "pcl_facecycle", source="local", pretrained=True)
    ours = facepcl.create_model("pcl_facecycle", pretrained=True)
    assert torch.equal(model.conv1[0].weight, ours.conv1[0].weight)


GITHUB = {"skip_validation": True, "trust_repo": True}  # no question, no call to GitHub


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A home of torch.hub that holds this checkout as if it had been downloaded."""
    shutil.copytree(ROOT / "facepcl", tmp_path / "OWNER_facepcl_main/facepcl")
    shutil.copy(ROOT / "hubconf.py", tmp_path / "OWNER_facepcl_main")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return "OWNER/facepcl:main"


def test_list_and_help_tell_of_every_model(cached):
    names = torch.hub.list(cached, **GITHUB)
    assert names == sorted(timm.list_models("pcl_*"))
    for name in names:
        text = torch.hub.help(cached, name, **GITHUB)
        assert all(word in text for word in ("[0, 1]", "pretrained:", "branches:", "Other options"))


def test_the_examples_of_the_help_run(cached, monkeypatch):
    load = torch.hub.load
    monkeypatch.setattr(torch.hub, "load", lambda name, *a, **k: load(cached, *a, **(GITHUB | k)))
    for name in timm.list_models("pcl_*"):
        example = re.findall(
            r"^ *((?:model|shared|logits|stages)\b.*)$", torch.hub.help(cached, name, **GITHUB), re.M
        )
        found = {"torch": torch}
        exec("\n".join(example), found)
        shapes = {"shared": (1, 2048), "logits": (2, 7), "stages": (2, 2048, 3, 3)}
        (result,) = shapes.keys() & found.keys()
        value = found[result][-1] if result == "stages" else found[result]
        assert tuple(value.shape) == shapes[result]


def test_torch_hub_names_a_dependency_that_is_missing(cached, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "facepcl")
    with pytest.raises(RuntimeError, match=r"^Missing dependencies: timm$"):
        torch.hub.load(cached, "pcl_facecycle", **GITHUB)


@pytest.mark.slow
def test_the_downloaded_copy_brings_its_own_package_and_weights(cached, tmp_path):
    """In a process where nothing else of facepcl is at hand, and without a network."""
    script = f"""
import socket, sys, torch
def refuse(*about): raise OSError("no network")
socket.socket.connect = refuse
sys.path = [path for path in sys.path if path]  # not the current folder
torch.hub.set_dir({str(tmp_path)!r})
model = torch.hub.load("{cached}", "pcl_resnet18", pretrained=True, skip_validation=True, trust_repo=True)
import facepcl
assert facepcl.__file__.startswith({str(tmp_path)!r}), facepcl.__file__
bundled = facepcl.create_model("pcl_resnet18", pretrained=True)
assert torch.equal(model.face[0].weight, bundled.face[0].weight)
"""
    run_python(script, env={"HOME": str(tmp_path)}, cwd=tmp_path)
