"""torch.hub: the entry points, their help, and loading without a network."""

import importlib.util
from pathlib import Path

import pytest
import timm
import torch

import facepcl

ROOT = Path(__file__).resolve().parents[1]


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
    if not any(info.weights == "bundled" for info in facepcl.list_models()):
        pytest.fail("pcl_facecycle has no bundled weights")
    model = torch.hub.load(str(ROOT), "pcl_facecycle", source="local", pretrained=True)
    ours = facepcl.create_model("pcl_facecycle", pretrained=True)
    assert torch.equal(model.conv1[0].weight, ours.conv1[0].weight)
