"""The weights of the package on the Hub: `tools/push_bundled.py`, and an index that knows where they are."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import timm
from helpers.files import ROOT
from helpers.hub_clients import assert_sentence, environment, files_of
from helpers.scripts import run_python
from huggingface_hub import ModelCard

import facepcl
from facepcl.errors import WeightsError
from facepcl.hub.card import SCORES
from facepcl.models.registry import read_index


@pytest.mark.slow
def test_bundled_weights_are_pushed_and_the_index_knows_where(hub, tmp_path):
    """In a copy of the package, so that the index of this checkout stays as it is."""
    shutil.copytree(ROOT / "facepcl", tmp_path / "facepcl", ignore=shutil.ignore_patterns("__pycache__"))
    env = environment(hub, tmp_path / "home", PYTHONPATH=str(tmp_path), HF_TOKEN="hf_writer")
    command = [sys.executable, ROOT / "tools/push_bundled.py", "org"]
    runs = [
        subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True, cwd=tmp_path).stdout
        for _ in range(2)
    ]
    rows = {f"{row.model}.{row.tag}": row for row in read_index()}
    assert set(hub.repositories) == {f"org/{name}" for name in rows}
    index = tmp_path / "facepcl/weights/index.json"
    for row in json.loads(index.read_text())["weights"]:
        name = f"{row['model']}.{row['tag']}"
        assert row["hf_hub_id"] == f"org/{name}@{hub.repositories[f'org/{name}'].head}"
        assert row["sha256"] == rows[name].sha256
        files = hub.repositories[f"org/{name}"].commits[row["hf_hub_id"].partition("@")[2]]
        data = ModelCard(files["README.md"].decode()).data
        assert data.license == "cc0-1.0"
        said = {r.metric_name: r.metric_value for r in data.eval_results}
        assert said == {f"accuracy %, {SCORES[score][-1]}": value for score, value in row["metrics"].items()}
        assert len(files["model.safetensors"]) < 1.02 * row["bytes"]  # float16, as in the package
        assert re.search(rf"pushed [345] files to org/{name}@\w{{40}}; load", runs[0])
    assert runs[1].count("nothing changed: org/") == len(rows)
    for path in index.parent.glob("*.safetensors"):
        path.rename(tmp_path / path.name)
    script = f"""
import facepcl, timm, torch
from safetensors.torch import load_file
assert facepcl.__file__.startswith({str(tmp_path)!r})
assert "Hub org/pcl_resnet18.synth_labels" in {{i.weights.partition("@")[0] for i in facepcl.list_models()}}
for name in ("pcl_facecycle", "pcl_resnet18"):
    bundled = load_file(f"{tmp_path}/{{name}}.synth_labels.safetensors")
    state = facepcl.create_model(name, pretrained=True).state_dict()
    assert all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in bundled.items())
    trunk = timm.create_model(name, pretrained=True).state_dict()  # plain timm, by hf_hub_id
    assert all(torch.equal(trunk[key], state[key]) for key in trunk)
"""
    run_python(script, env, cwd=tmp_path)


def test_weights_of_the_index_must_be_those_that_were_pushed(hub, encoders, monkeypatch):
    """A revision that the Hub serves with other content than the index describes is refused."""
    from facepcl.models import factory
    from facepcl.models.registry import Row

    revision = hub.put("org/faces", files_of(encoders("pcl_facecycle")[1]))
    row = Row("pcl_facecycle", "x", "", 0, "", "", "", hf_hub_id=f"org/faces@{revision}")
    row = Row(**{**vars(row), "hub_sha256": {"model.safetensors": "0" * 64}})
    monkeypatch.setattr(factory, "rows_of", lambda model: (row,))
    with pytest.raises(WeightsError) as caught:
        facepcl.create_model("pcl_facecycle", pretrained=True)
    assert_sentence(caught, r"model\.safetensors is not the file that this version expects")


def test_default_cfgs_name_the_repository_beside_the_file(monkeypatch):
    from dataclasses import replace

    from facepcl.models import weights

    row = replace(read_index()[0], hf_hub_id="org/faces@" + "a" * 40)
    monkeypatch.setattr(weights, "rows_of", lambda model: (row,))
    cfgs = weights.cfg_rows("pcl_facecycle", input_size=(3, 64, 64), pool_size=(4, 4))
    (cfg,) = timm.models.generate_default_cfgs(cfgs)["pcl_facecycle"].cfgs.values()
    assert (cfg.file, cfg.hf_hub_id) == (str(row.path), row.hf_hub_id)
    model = timm.create_model("pcl_facecycle", pretrained=True, pretrained_cfg=cfg)  # offline: the file wins
    assert model.pretrained_cfg["hf_hub_id"] == row.hf_hub_id
