"""`facepcl push` and `facepcl models`: what reaches the Hub, what is refused, what the commands say."""

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from helpers.files import ROOT, changed_encoder
from helpers.hub_clients import assert_same_codes, assert_sentence
from huggingface_hub import ModelCard, constants

import facepcl
from facepcl.cli import main
from facepcl.errors import HubError, MissingPath, OptionError, WeightsError
from facepcl.hub.card import card_of
from facepcl.models.io import load_tensors, save_encoder, save_tensors


def test_a_pushed_folder_loads_to_the_same_codes(hub, encoders):
    model, folder = encoders("pcl_resnet18")
    pushed = facepcl.hub.push(folder, "org/faces", license="cc0-1.0", datasets=["org/photos"])
    assert pushed.changed
    assert hub.repositories["org/faces"].head == pushed.revision
    files = hub.repositories["org/faces"].commits[pushed.revision]
    written = {"README.md", "config.json", "model.safetensors", "branches.safetensors"}
    assert set(files) == {".gitattributes", *written}
    assert json.loads(files["config.json"])["pretrained_cfg"]["license"] == "cc0-1.0"  # for timm
    for name in ("hf-hub:org/faces", f"hf-hub:org/faces@{pushed.revision}"):
        assert_same_codes(facepcl.create_model(name), model)
    assert facepcl.create_model("hf-hub:org/faces", branches=False, num_classes=3).fc.out_features == 3


def test_pushed_heads_answer_as_the_bundled_ones(hub, tmp_path):
    heads = facepcl.create_heads("pcl_facecycle")
    model = facepcl.create_model("pcl_facecycle", pretrained=True)
    facepcl.hub.push(save_encoder(model, tmp_path / "encoder", heads=heads), "org/faces")
    faces = sorted((ROOT / "examples/faces").glob("person1*.jpg"))
    pushed, bundled = (
        facepcl.FaceAnalyzer(name, crops=True, dtype="float32")(faces)
        for name in ("hf-hub:org/faces", "pcl_facecycle")
    )
    for a, b in zip(pushed, bundled, strict=True):
        assert (a.yaw, a.pitch, a.roll) == pytest.approx((b.yaw, b.pitch, b.roll), abs=0.1)  # float16 files
        assert a.identity @ b.identity > 0.9999
    facepcl.analyze(faces, tmp_path / "faces.parquet", model="hf-hub:org/faces", crops=True)
    [result] = facepcl.search(faces[0], tmp_path / "faces.parquet", model="hf-hub:org/faces")
    assert result.matches[0].path == str(faces[0])


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


def test_a_push_does_not_overwrite_what_came_in_meanwhile(hub, encoders):
    folder = encoders("pcl_facecycle")[1]
    facepcl.hub.push(folder, "org/faces")
    files = hub.repositories["org/faces"].commits[hub.repositories["org/faces"].head]
    theirs = {**files, "README.md": b"a card of somebody else"}
    hub.before_commit = lambda: hub.put("org/faces", theirs)
    with pytest.raises(HubError, match="somebody else changed org/faces meanwhile"):
        facepcl.hub.push(folder, "org/faces", license="mit")
    assert hub.repositories["org/faces"].commits[hub.repositories["org/faces"].head] == theirs


def test_nothing_but_weights_config_and_card_is_pushed(hub, encoders, tmp_path):
    folder = changed_encoder(encoders("pcl_facecycle")[1], tmp_path / "encoder")
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
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        facepcl.hub.push(broken, "org/faces", dry_run=True)
    assert not hub.asked


def test_the_card_can_be_read_back_and_names_the_call_that_loads_it(hub, encoders, tmp_path):
    facepcl.hub.push(encoders("pcl_resnet18")[1], "org/faces", license="Someone's", datasets="org/photos")
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


def test_the_card_of_a_trunk_promises_no_branches(encoders, tmp_path):
    timm.models.save_for_hf(timm.create_model("pcl_facecycle"), tmp_path, safe_serialization=True)
    assert "forward_codes" not in card_of(tmp_path, "hf-hub:org/faces")
    assert "forward_codes" in card_of(encoders("pcl_facecycle")[1], "hf-hub:org/faces")


@pytest.fixture
def fine_tuned(tmp_path):
    """fine_tuned(name) -> a folder in which timm saved these weights after a change, with 7 classes."""

    def save(name):
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=True, num_classes=7)
        with torch.no_grad():
            next(model.parameters()).mul_(1.01)
        timm.models.save_for_hf(model, tmp_path / "tuned", safe_serialization=True)
        return tmp_path / "tuned"

    return save


def test_weights_that_timm_fine_tuned_do_not_take_the_claims_of_those_they_began_with(hub, fine_tuned):
    folder = fine_tuned("pcl_facecycle")
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["license"] == "CC0-1.0"
    facepcl.hub.push(folder, "org/faces")
    (files,) = list(hub.repositories["org/faces"].commits.values())[1:]
    assert ModelCard(files["README.md"].decode()).data.license == "unknown"
    assert "no real person" not in (files["README.md"] + files["config.json"]).decode()
    for name in (f"local-dir:{folder}", "hf-hub:org/faces"):
        cfg = facepcl.create_model(name).pretrained_cfg
        assert not {"tag", "license", "description"} & set(cfg)
        assert facepcl.FaceEmbedder(name, dtype="float32").meta["tag"] is None


def test_a_licence_that_was_pushed_is_that_of_the_repository_and_not_of_what_timm_trains_from_it(
    hub, fine_tuned, tmp_path
):
    facepcl.hub.push(fine_tuned("pcl_facecycle"), "org/faces", license="CC-BY-4.0")
    assert facepcl.create_model("hf-hub:org/faces").pretrained_cfg["license"] == "CC-BY-4.0"
    assert "license: unknown" in card_of(fine_tuned("hf-hub:org/faces"), "hf-hub:org/other")


@pytest.mark.parametrize("options", [{}, {"branches": False}], ids=["branches", "trunk"])
@pytest.mark.parametrize("name", ["pcl_facecycle", "test_resnet"])
def test_a_folder_that_transformers_saved_claims_nothing(tmp_path, name, options):
    """It keeps the whole of our config.json, whatever it trained."""
    folder = save_encoder(facepcl.create_model(name), tmp_path / "encoder", about={"license": "mit"})
    saved = changed_encoder(folder, tmp_path / "saved", {"transformers_version": "5.0"})
    for path, license in ((folder, "mit"), (saved, None)):
        model = facepcl.create_model(f"local-dir:{path}", **options)
        assert model.pretrained_cfg.get("license") == license
        assert f"license: {license or 'unknown'}" in card_of(path, "hf-hub:org/faces")


def test_a_configuration_without_the_normalisation_has_no_card(encoders, tmp_path):
    folder = changed_encoder(encoders("pcl_facecycle")[1], tmp_path / "encoder")
    (folder / "config.json").write_text('{"architecture": "pcl_facecycle", "num_classes": 0}')
    with pytest.raises(OptionError, match=r"config\.json needs input_size, mean and std"):
        card_of(folder, "hf-hub:org/faces")


def test_a_card_that_was_written_where_paths_have_blanks_names_the_repository(hub, encoders, tmp_path):
    folder = changed_encoder(encoders("pcl_facecycle")[1], tmp_path / "my own encoder")
    (folder / "README.md").write_text(card_of(folder, f"local-dir:{folder}", license="mit"))
    assert f"--model 'local-dir:{folder}'" in (folder / "README.md").read_text()
    facepcl.hub.push(folder, "org/faces")
    (files,) = list(hub.repositories["org/faces"].commits.values())[1:]
    text = files["README.md"].decode()
    assert str(tmp_path) not in text
    assert 'facepcl.create_model("hf-hub:org/faces", pretrained=True)' in text


@pytest.mark.parametrize(("file", "name"), [("model", "layer3_1.0.weight"), ("heads", "pose.weight")])
def test_weights_that_are_not_finite_are_not_pushed(hub, tmp_path, file, name):
    model, heads = facepcl.create_model("pcl_facecycle", True), facepcl.create_heads("pcl_facecycle")
    folder = save_encoder(model, tmp_path / "encoder", heads=heads)
    tensors = load_tensors(path := folder / f"{file}.safetensors")
    tensors[name].fill_(float("nan"))
    save_tensors(tensors, path)
    with pytest.raises(WeightsError, match=f"not finite: {re.escape(name)}"):
        facepcl.hub.push(folder, "org/faces", dry_run=True)


def test_a_card_of_ones_own_is_pushed_but_must_have_metadata(hub, encoders, tmp_path):
    folder = changed_encoder(encoders("pcl_facecycle")[1], tmp_path / "encoder")
    card = "---\nlibrary_name: timm\nlicense: mit\npipeline_tag: image-feature-extraction\n---\nlocal-dir:x\n"
    (folder / "README.md").write_text(card)
    pushed = facepcl.hub.push(folder, "org/faces")
    files = hub.repositories["org/faces"].commits[pushed.revision]
    assert files["README.md"].decode() == card.replace("local-dir:x", "hf-hub:org/faces")
    with pytest.raises(OptionError, match="pushed unchanged"):
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
        assert_sentence(caught, f"org/{name} already holds {found}", "another name")
    with pytest.raises(HubError, match="already exists and is public"):
        facepcl.hub.push(encoders("pcl_resnet18")[1], "org/faces", private=True)
    assert before == {name: repository.head for name, repository in hub.repositories.items()}


@pytest.mark.parametrize(
    ("token", "name", "error", "said"),
    [
        ("", "org/faces", HubError, "no token: type hf auth login"),
        ("hf_wrong", "org/faces", HubError, "token is not valid; type hf auth login"),
        ("hf_reader", "org/faces", HubError, "token has no right to do this on org/faces"),
        ("hf_reader", "org/there", HubError, "token has no right to do this on org/there"),
        ("hf_writer", "faces", OptionError, "expected ORG/NAME"),
        ("hf_writer", "org/two words", OptionError, "not a valid repository name"),
        ("hf_writer", "org/a/b", OptionError, "not a valid repository name"),
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
    assert_sentence(caught, "hf-hub:org/faces could not be downloaded", r"127\.0\.0\.1:9 cannot be reached")
    with pytest.raises(MissingPath, match="there is no such folder"):
        facepcl.hub.push("nowhere", "org/faces")


def test_push_and_models_as_typed(hub, encoders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed_encoder(encoders("pcl_facecycle")[1], tmp_path / "encoder")
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
    assert Path(bundled) == facepcl.models.registry.WEIGHTS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["models", "--download", "hf-hub:org/faces"]) == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("push", "name the folder and the repository"),
        ("push encoder", "name the folder and the repository"),
        ("push nowhere org/faces", "nowhere: there is no such folder"),
        ("models --download pcl_vgg", "Unknown model 'pcl_vgg'"),
    ],
)
def test_commands_that_cannot_work_say_one_line(hub, capsys, command, said):
    assert main(command.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("facepcl: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_model_without_weights_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("facepcl.models.factory.rows_of", lambda architecture: ())
    assert main(["models", "--download", "pcl_resnet50"]) == 2
    assert "there are no weights for pcl_resnet50; train some" in capsys.readouterr().err


def test_the_list_of_models_has_no_path_of_this_machine(capsys):
    assert main(["models", "--json"]) == 0
    text = capsys.readouterr().out
    assert str(ROOT) not in text
    found = {(model["name"], model["tag"]): model for model in json.loads(text)}
    assert found["pcl_facecycle", "synth_labels"]["weights"] == "bundled"
    assert found["pcl_resnet50", "synth_labels"]["license"] == "CC0-1.0"
    assert main(["models"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["model", "parameters", "input", "weights", "licence"]
    assert len(table) == 1 + len(found)
