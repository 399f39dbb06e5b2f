"""Weights travel through a Hub: push, load with and without facepcl, and what may go wrong on the way."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from hub_server import Hub
from huggingface_hub import ModelCard, constants

import facepcl
from facepcl.cli import main
from facepcl.errors import HubError, MissingPath, OptionError, WeightsError
from facepcl.index import read_index
from facepcl.pretrained import load_tensors, save_encoder, save_tensors

ROOT = Path(__file__).resolve().parents[1]
FACES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on the loopback; this process is logged in there and has an empty cache."""
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home/hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home/token"))
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield hub


def environment(hub, home, **changes):
    """What a process of its own sees: the Hub, a home, no token, no facepcl but this checkout's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **changes,
    }


def run_python(script, env, cwd=None):
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """encoders(name) -> a model with random weights and the folder that a run writes of it."""
    made = {}
    for name in ("pcl_facecycle", "pcl_resnet18"):
        torch.manual_seed(2)
        model = facepcl.create_model(name).eval()
        made[name] = model, save_encoder(model, tmp_path_factory.mktemp(name) / "encoder")
    return made.__getitem__


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_codes(loaded, model):
    for a, b in zip(loaded.eval().forward_codes(FACES), model.forward_codes(FACES), strict=True):
        torch.testing.assert_close(a, b)


def assert_sentence(caught, *said):
    text = str(caught.value)
    assert all(re.search(pattern, text) for pattern in said), text
    assert "\n" not in text
    assert len(text) < 260, text


# Pushing.


def test_a_pushed_folder_loads_to_the_same_codes(hub, encoders):
    model, folder = encoders("pcl_resnet18")
    pushed = facepcl.hub.push(folder, "org/faces", license="cc0-1.0", datasets=["org/photos"])
    assert pushed.changed
    assert hub.repositories["org/faces"].head == pushed.revision
    files = hub.repositories["org/faces"].commits[pushed.revision]
    written = {"README.md", "config.json", "model.safetensors", "branches.safetensors"}
    assert set(files) == {".gitattributes", *written}
    assert json.loads(files["config.json"])["pretrained_cfg"]["license"] == "cc0-1.0"
    for name in ("hf-hub:org/faces", f"hf-hub:org/faces@{pushed.revision}"):
        assert_same_codes(facepcl.create_model(name), model)
    assert facepcl.create_model("hf-hub:org/faces", branches=False, num_classes=3).fc.out_features == 3


def test_the_second_push_sends_only_what_changed(hub, encoders, tmp_path):
    folder = shutil.copytree(encoders("pcl_resnet18")[1], tmp_path / "encoder")
    first = facepcl.hub.push(folder, "org/faces")
    assert len(hub.uploaded) == 2
    again = facepcl.hub.push(folder, "org/faces")
    assert (again.changed, again.revision) == (False, first.revision)
    assert len(hub.repositories["org/faces"].commits) == 2  # creation and the first push
    tensors = load_tensors(folder / "branches.safetensors")
    save_tensors({key: value + 1 for key, value in tensors.items()}, folder / "branches.safetensors")
    third = facepcl.hub.push(folder, "org/faces")
    assert third.changed
    assert len(hub.uploaded) == 3  # the trunk stayed
    (folder / "branches.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["facepcl"]["branches"] = None
    (folder / "config.json").write_text(json.dumps(config))
    last = facepcl.hub.push(folder, "org/faces")
    assert "branches.safetensors" not in hub.repositories["org/faces"].commits[last.revision]
    old = facepcl.create_model(f"hf-hub:org/faces@{first.revision}")  # a revision stays what it was
    assert torch.equal(old.face[0].bias, encoders("pcl_resnet18")[0].face[0].bias)


def test_nothing_but_weights_config_and_card_is_pushed(hub, encoders, tmp_path):
    folder = shutil.copytree(encoders("pcl_facecycle")[1], tmp_path / "encoder")
    for name in ("pytorch_model.bin", "optimizer.pth", "notes.txt", ".env"):
        (folder / name).write_text("secret")
    pushed = facepcl.hub.push(folder, "ann/faces", private=True)
    assert set(pushed.files) == {"README.md", "config.json", "model.safetensors"}
    assert hub.repositories["ann/faces"].private
    files = hub.repositories["ann/faces"].commits[pushed.revision]
    assert not any(b"secret" in content for content in files.values())


def test_a_dry_run_checks_and_sends_nothing(hub, encoders, tmp_path):
    folder = encoders("pcl_facecycle")[1]
    planned = facepcl.hub.push(folder, "org/faces", dry_run=True)
    assert planned.revision is None
    assert planned.files["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        facepcl.hub.push(broken, "org/faces", dry_run=True)
    assert not hub.asked


def test_the_card_can_be_read_back_and_names_the_call_that_loads_it(hub, encoders, tmp_path):
    facepcl.hub.push(encoders("pcl_resnet18")[1], "org/faces", license="Someone's", datasets=["org/photos"])
    (files,) = list(hub.repositories["org/faces"].commits.values())[1:]
    text = files["README.md"].decode()
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-feature-extraction")
    assert (data.license, data.license_name) == ("other", "Someone's")
    assert data.datasets == ["org/photos"]
    assert {"timm", "pcl_resnet18"} <= set(data.tags)
    assert 'timm.create_model("hf-hub:org/faces", pretrained=True, num_classes=0)' in text
    for snippet in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(snippet, "card", "exec"), {})


def test_a_card_of_ones_own_is_pushed_but_must_have_metadata(hub, encoders, tmp_path):
    folder = shutil.copytree(encoders("pcl_facecycle")[1], tmp_path / "encoder")
    card = "---\nlibrary_name: timm\nlicense: mit\npipeline_tag: image-feature-extraction\n---\nlocal-dir:x\n"
    (folder / "README.md").write_text(card)
    pushed = facepcl.hub.push(folder, "org/faces")
    files = hub.repositories["org/faces"].commits[pushed.revision]
    assert files["README.md"].decode() == card.replace("local-dir:x", "hf-hub:org/faces")
    with pytest.raises(OptionError, match="pushed as it stands"):
        facepcl.hub.push(folder, "org/faces", license="mit")
    for bad in ("no metadata", "---\nlicense: [\n---\n", "---\nlicense: mit\n---\n"):
        (folder / "README.md").write_text(bad)
        with pytest.raises(OptionError, match=r"README\.md") as caught:
            facepcl.hub.push(folder, "org/faces")
        assert_sentence(caught)


def test_a_name_that_holds_something_else_is_not_overwritten(hub, encoders):
    hub.put("org/bert", {"config.json": b'{"architectures": ["Bert"]}', "model.safetensors": b"x"})
    hub.put("org/data", {"train.csv": b"x"})
    facepcl.hub.push(encoders("pcl_resnet18")[1], "org/faces")
    before = {name: repository.head for name, repository in hub.repositories.items()}
    for name, found in (
        ("bert", "another model"),
        ("data", "no config.json"),
        ("faces", "pcl_resnet18, not pcl_facecycle"),
    ):
        with pytest.raises(HubError) as caught:
            facepcl.hub.push(encoders("pcl_facecycle")[1], f"org/{name}")
        assert_sentence(caught, f"org/{name} is taken: it holds {found}", "another name")
    with pytest.raises(HubError, match="is there already and public"):
        facepcl.hub.push(encoders("pcl_resnet18")[1], "org/faces", private=True)
    assert before == {name: repository.head for name, repository in hub.repositories.items()}


@pytest.mark.parametrize(
    ("token", "name", "error", "said"),
    [
        ("", "org/faces", HubError, "no token: type hf auth login"),
        ("hf_wrong", "org/faces", HubError, "token is not valid; type hf auth login"),
        ("hf_reader", "org/faces", HubError, "token may not do this to org/faces"),
        ("hf_reader", "org/there", HubError, "token may not do this to org/there"),
        ("hf_writer", "faces", OptionError, "expected ORG/NAME"),
        ("hf_writer", "org/two words", OptionError, "no name for a repository"),
        ("hf_writer", "org/a/b", OptionError, "no name for a repository"),
    ],
)
def test_who_may_not_push_is_told_in_a_sentence(hub, encoders, monkeypatch, token, name, error, said):
    hub.put("org/there", {})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error) as caught:
        facepcl.hub.push(encoders("pcl_facecycle")[1], name)
    assert_sentence(caught, said)
    assert not hub.uploaded


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("POST /api/repos/create", 410),
        ("GET /api/models/org/faces", 418),
        (".*preupload", 404),
        (".*batch", 410),
        ("PUT /lfs", 403),
        (".*commit", 409),
    ],
)
def test_whatever_the_hub_answers_a_push_ends_in_a_sentence(hub, encoders, request_, status):
    hub.answers[request_] = status
    with pytest.raises(HubError) as caught:
        facepcl.hub.push(encoders("pcl_facecycle")[1], "org/faces")
    assert_sentence(caught, "^org/faces was not pushed: ")
    hub.answers.clear()
    assert facepcl.hub.push(encoders("pcl_facecycle")[1], "org/faces").changed


def test_no_network_is_a_sentence(hub, encoders, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(HubError) as caught:
        facepcl.hub.push(encoders("pcl_facecycle")[1], "org/faces")
    assert_sentence(caught, r"http://127\.0\.0\.1:9 cannot be reached")
    with pytest.raises(WeightsError) as caught:
        facepcl.create_model("hf-hub:org/faces")
    assert_sentence(caught, "hf-hub:org/faces could not be fetched", r"127\.0\.0\.1:9 cannot be reached")
    with pytest.raises(MissingPath, match="there is no such folder"):
        facepcl.hub.push("nowhere", "org/faces")


# Loading.


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("org/nothing", WeightsError, "has no org/nothing, or your token may not see it"),
        ("org/faces@v2", WeightsError, "org/faces has no revision v2"),
        ("faces", OptionError, "expected hf-hub:ORG/NAME"),
        ("org/pickle", WeightsError, "holds no model.safetensors; a pickle .* facepcl convert"),
        ("org/vgg", WeightsError, "holds 'vgg11', which is not one of facepcl's; use timm"),
        ("org/empty", MissingPath, "no config.json there"),
        ("org/text", WeightsError, "not a whole safetensors file"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence(hub, encoders, name, error, said):
    folder = encoders("pcl_facecycle")[1]
    hub.put("org/faces", files_of(folder))
    config = (folder / "config.json").read_bytes()
    hub.put("org/pickle", {"config.json": config, "pytorch_model.bin": b"x"})
    hub.put("org/vgg", {"config.json": b'{"architecture": "vgg11"}', "model.safetensors": b"big"})
    hub.put("org/empty", {"README.md": b"", "model.safetensors": b"x"})
    hub.put("org/text", {"config.json": config, "model.safetensors": b"hello"})
    with pytest.raises(error) as caught:
        facepcl.create_model(f"hf-hub:{name}")
    assert_sentence(caught, said)
    assert not [request for request in hub.asked if re.search("cdn.*(bin|vgg)", request)]
    assert facepcl.create_model("hf-hub:org/faces")  # the cache still works


def test_other_bytes_than_the_hub_announced_are_refused_and_leave_the_cache(hub, encoders):
    model, folder = encoders("pcl_facecycle")
    hub.put("org/faces", files_of(folder))
    right = (folder / "model.safetensors").read_bytes()
    hub.swaps["model.safetensors"] = right[:-1] + bytes([right[-1] ^ 1])  # one bit, same length
    for _ in range(2):
        with pytest.raises(WeightsError) as caught:
            facepcl.create_model("hf-hub:org/faces")
        assert_sentence(caught, r"model\.safetensors is damaged, sha256 \w{12} instead of \w{12}")
    hub.swaps.clear()
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), model)


def test_a_download_that_is_cut_goes_on_where_it_was(hub, encoders):
    model, folder = encoders("pcl_facecycle")
    hub.put("org/faces", files_of(folder))
    hub.cuts["model.safetensors"] = [100_000]
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), model)
    assert not hub.cuts["model.safetensors"]


def test_a_download_that_never_ends_well_is_a_sentence_and_a_second_try_works(hub, encoders, monkeypatch):
    model, folder = encoders("pcl_facecycle")
    hub.put("org/faces", files_of(folder))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.cuts["model.safetensors"] = [0] * 10
    with pytest.raises(WeightsError) as caught:
        facepcl.create_model("hf-hub:org/faces")
    assert_sentence(caught, "the connection broke off; try again")
    hub.cuts.clear()
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), model)


def test_a_disk_that_is_full_is_a_sentence(hub, encoders):
    model, folder = encoders("pcl_facecycle")
    hub.put("org/faces", files_of(folder))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(WeightsError) as caught:
            facepcl.create_model("hf-hub:org/faces")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert_sentence(caught, "there is no room left on the disk")
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), model)


def test_what_is_in_the_cache_loads_offline_and_a_cache_dir_is_its_own(hub, encoders, monkeypatch, tmp_path):
    model, folder = encoders("pcl_facecycle")
    revision = hub.put("org/faces", files_of(folder))
    facepcl.create_model("hf-hub:org/faces", cache_dir=tmp_path / "own")
    assert not (tmp_path / "home/hub").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = hub.asked.total()
    for name in ("hf-hub:org/faces", f"hf-hub:org/faces@{revision}"):
        assert_same_codes(facepcl.create_model(name, cache_dir=tmp_path / "own"), model)
    with pytest.raises(WeightsError) as caught:
        facepcl.create_model("hf-hub:org/faces")
    assert_sentence(caught, "not in the cache, and HF_HUB_OFFLINE is set")
    assert hub.asked.total() == asked


def test_a_python_call_prints_nothing(hub, encoders, capfd):
    facepcl.hub.push(encoders("pcl_facecycle")[1], "org/faces")
    facepcl.create_model("hf-hub:org/faces")
    assert capfd.readouterr() == ("", "")


def test_plain_timm_gives_the_trunk_of_a_pushed_resnet_without_facepcl(hub, encoders, tmp_path):
    model, folder = encoders("pcl_resnet18")
    pushed = facepcl.hub.push(folder, "org/faces")
    save_tensors({"x": FACES, "y": model(FACES)}, tmp_path / "sample.safetensors")
    script = f"""
import sys
class Block:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "facepcl":
            raise ImportError("facepcl is blocked")
sys.meta_path.insert(0, Block())
import timm, torch
from safetensors.torch import load_file
sample = load_file({str(tmp_path / "sample.safetensors")!r})
for name in ("hf-hub:org/faces", "hf-hub:org/faces@{pushed.revision}"):
    model = timm.create_model(name, pretrained=True).eval()
    assert type(model).__module__ == "timm.models.resnet"
    torch.testing.assert_close(model(sample["x"]), sample["y"])
assert timm.create_model("hf-hub:org/faces", pretrained=True, num_classes=7).num_classes == 7
assert not [name for name in sys.modules if name.startswith("facepcl")]
"""
    run_python(script, environment(hub, tmp_path / "fresh"))


def test_a_killed_download_does_not_spoil_the_next(hub, encoders, tmp_path):
    """SIGKILL in the middle of a file; then the same command."""
    model, folder = encoders("pcl_facecycle")
    hub.put("org/faces", files_of(folder))
    env = environment(hub, tmp_path / "fresh")
    hub.stalls["model.safetensors"] = 100_000
    save_tensors({"x": FACES, "y": model.forward_codes(FACES).face}, tmp_path / "sample.safetensors")
    script = f"""
import facepcl, torch
from safetensors.torch import load_file
sample = load_file({str(tmp_path / "sample.safetensors")!r})
model = facepcl.create_model("hf-hub:org/faces").eval()
torch.testing.assert_close(model.forward_codes(sample["x"]).face, sample["y"])
"""
    first = subprocess.Popen([sys.executable, "-c", script], env=env)
    assert hub.stalled.wait(60)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    hub.stalls.clear()
    hub.stalled.clear()
    run_python(script, env)


# The bundled weights on the Hub.


@pytest.mark.slow
def test_bundled_weights_are_pushed_and_the_index_knows_where(hub, tmp_path):
    """In a copy of the package, so that the index of this checkout stays as it is."""
    shutil.copytree(ROOT / "facepcl", tmp_path / "facepcl", ignore=shutil.ignore_patterns("__pycache__"))
    env = environment(hub, tmp_path / "home", PYTHONPATH=str(tmp_path), HF_TOKEN="hf_writer")
    script = """
from facepcl.cli import main
for _ in range(2):
    assert main(["push", "--bundled", "org"]) == 0
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True, cwd=tmp_path)
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
        assert {r.dataset_name: r.metric_value for r in data.eval_results}["LFW"] == row["metrics"]["lfw"]
        assert len(files["model.safetensors"]) < 1.02 * row["bytes"]  # float16, as in the package
        assert re.search(rf"pushed [34] files to org/{name}@\w{{40}}; load", run.stdout)
    assert run.stdout.count("nothing changed: org/") == len(rows)  # the second time
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
    from facepcl import create
    from facepcl.index import Row

    revision = hub.put("org/faces", files_of(encoders("pcl_facecycle")[1]))
    row = Row("pcl_facecycle", "x", "", 0, "", "", "", hf_hub_id=f"org/faces@{revision}")
    row = Row(**{**vars(row), "hub_sha256": {"model.safetensors": "0" * 64}})
    monkeypatch.setattr(create, "rows_of", lambda model: (row,))
    with pytest.raises(WeightsError) as caught:
        facepcl.create_model("pcl_facecycle", pretrained=True)
    assert_sentence(caught, r"model\.safetensors is not the file that this facepcl knows")


def test_default_cfgs_name_the_repository_beside_the_file(monkeypatch):
    from dataclasses import replace

    from facepcl.models import _weights

    row = replace(read_index()[0], hf_hub_id="org/faces@" + "a" * 40)
    monkeypatch.setattr(_weights, "rows_of", lambda model: (row,))
    cfgs = _weights.cfg_rows("pcl_facecycle", input_size=(3, 64, 64), pool_size=(4, 4))
    (cfg,) = timm.models.generate_default_cfgs(cfgs)["pcl_facecycle"].cfgs.values()
    assert (cfg.file, cfg.hf_hub_id) == (str(row.path), row.hf_hub_id)
    model = timm.create_model("pcl_facecycle", pretrained=True, pretrained_cfg=cfg)  # offline: the file wins
    assert model.pretrained_cfg["hf_hub_id"] == row.hf_hub_id


# The commands.


def test_push_and_models_as_typed(hub, encoders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(encoders("pcl_facecycle")[1], tmp_path / "encoder")
    assert main(["push", "encoder", "org/faces", "--dry-run"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("to org/faces; nothing was sent")
    assert main(["push", "encoder", "org/faces", "--license", "mit", "--dataset", "org/photos"]) == 0
    revision = hub.repositories["org/faces"].head
    said = capsys.readouterr()
    assert said.out.startswith(
        f"pushed 3 files to org/faces@{revision}; load them with facepcl.create_model("
    )
    assert said.err == ""
    assert main(["push", "encoder", "org/faces", "--license", "mit", "--dataset", "org/photos"]) == 0
    assert capsys.readouterr().out.startswith(f"nothing changed: org/faces@{revision}")
    assert main(["models", "--download", "hf-hub:org/faces", "pcl_facecycle"]) == 0
    fetched, bundled = capsys.readouterr().out.splitlines()
    assert Path(fetched, "model.safetensors").is_file()
    assert Path(fetched).name == revision
    assert Path(bundled) == facepcl.index.WEIGHTS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["models", "--download", "hf-hub:org/faces"]) == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("push", "say what to push and where to"),
        ("push encoder", "say what to push and where to"),
        ("push encoder org/faces --bundled org", "takes neither OUT"),
        ("push nowhere org/faces", "nowhere: there is no such folder"),
        ("models --download pcl_resnet50", "there are no weights for pcl_resnet50"),
        ("models --download pcl_vgg", "has no model 'pcl_vgg'"),
    ],
)
def test_commands_that_cannot_work_say_one_line(hub, capsys, command, said):
    assert main(command.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("facepcl: ")
    assert said in err
    assert err.count("\n") == 1


def test_the_list_of_models_has_no_path_of_this_machine(capsys):
    assert main(["models", "--json"]) == 0
    text = capsys.readouterr().out
    assert str(ROOT) not in text
    found = {(model["name"], model["tag"]): model for model in json.loads(text)}
    assert found["pcl_facecycle", "synth_labels"]["weights"] == "bundled"
    assert found["pcl_resnet50", None]["license"] is None
    assert main(["models"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["model", "parameters", "input", "weights", "licence"]
    assert len(table) == 1 + len(found)


def test_the_page_about_weights_is_true_as_typed(hub, tmp_path, monkeypatch):
    """Every command and call of docs/hub.md, in order, in a folder that has the files they name."""
    monkeypatch.chdir(tmp_path)
    encoder = facepcl.create_model("pcl_facecycle").state_dict()
    names = {"face.": "layer3_2_exp.", "pose.": "layer3_2_pose."}
    renamed = {
        names.get(key[:5], "") + (key[5:] if key[:5] in names else key): v for key, v in encoder.items()
    }
    torch.save({"state_dict": renamed}, "500.pth")
    torch.save(timm.create_model("resnet18", num_classes=10).state_dict(), "resnet18.pth")
    shutil.copytree(ROOT / "examples/faces", "faces")
    torch_hub = tmp_path / "torch/OWNER_facepcl_main"
    shutil.copytree(ROOT / "facepcl", torch_hub / "facepcl")
    shutil.copy(ROOT / "hubconf.py", torch_hub)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(torch_hub.parent))
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *a, **k: str(torch_hub))
    commands = 0
    for indented, block in re.findall(
        r"((?:^    facepcl [^\n]*\n)+)|^```python\n(.*?)^```",
        (ROOT / "docs/hub.md").read_text("utf-8"),
        re.M | re.S,
    ):
        for line in indented.splitlines():
            assert main(line.split()[1:]) == 0, line
            commands += 1
        exec(block, {})
    assert commands == 9
