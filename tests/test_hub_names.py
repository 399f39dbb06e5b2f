"""`hf-hub:` names: loading with and without facepcl, offline, and what may go wrong on the way."""

import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import timm
import torch
from helpers.files import ROOT, no_room_beyond
from helpers.hub_clients import FACES, assert_same_codes, assert_sentence, environment, files_of
from helpers.hub_server import Hub
from helpers.scripts import run_python
from huggingface_hub import constants

import facepcl
from facepcl.cli import main
from facepcl.errors import MissingPath, OptionError, WeightsError
from facepcl.images.detector import FILE, REPOSITORY, find_detector
from facepcl.models.heads import Heads, HeadSpec
from facepcl.models.io import save_encoder, save_tensors


@pytest.fixture
def faces(hub, encoders):
    """The model that the repository org/faces holds."""
    model, folder = encoders("pcl_facecycle")
    hub.put("org/faces", files_of(folder))
    return model


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("org/nothing", WeightsError, "has no org/nothing, or your token may not see it"),
        ("org/faces@v2", WeightsError, "org/faces has no revision v2"),
        ("faces", OptionError, "expected hf-hub:ORG/NAME"),
        ("org/pickle", WeightsError, "holds no model.safetensors; a pickle .* facepcl convert"),
        ("org/vgg", WeightsError, "holds 'vgg11', which is not one of facepcl's; use timm"),
        ("org/empty", MissingPath, "has no config.json"),
        ("org/text", WeightsError, "not a complete safetensors file"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence(hub, faces, encoders, name, error, said):
    config = (encoders("pcl_facecycle")[1] / "config.json").read_bytes()
    hub.put("org/pickle", {"config.json": config, "pytorch_model.bin": b"x"})
    hub.put("org/vgg", {"config.json": b'{"architecture": "vgg11"}', "model.safetensors": b"big"})
    hub.put("org/empty", {"README.md": b"", "model.safetensors": b"x"})
    hub.put("org/text", {"config.json": config, "model.safetensors": b"hello"})
    with pytest.raises(error) as caught:
        facepcl.create_model(f"hf-hub:{name}")
    assert_sentence(caught, said)
    assert not [request for request in hub.asked if re.search("cdn.*(bin|vgg)", request)]
    assert facepcl.create_model("hf-hub:org/faces")  # the cache still works


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "token"), (403, "no right"), (409, "409"), (410, "410")],
)
def test_a_hub_that_refuses_is_a_sentence(hub, faces, status, said):
    for request in ("GET /api/models", "HEAD .*model.safetensors"):
        hub.answers = {request: status}
        with pytest.raises(WeightsError) as caught:
            facepcl.create_model("hf-hub:org/faces")
        assert_sentence(caught, "^hf-hub:org/faces could not be downloaded: ", said)
    hub.answers = {}
    assert facepcl.create_model("hf-hub:org/faces")


def test_a_mirror_that_is_no_hub_is_named(faces, monkeypatch):
    monkeypatch.setattr(Hub, "announce", False)
    with pytest.raises(WeightsError) as caught:
        facepcl.create_model("hf-hub:org/faces")
    assert_sentence(caught, r"127\.0\.0\.1:\d+ does not answer as a Hub does; check HF_ENDPOINT")


def test_private_weights_load_with_a_token_that_may_see_them(hub, encoders, monkeypatch):
    model, folder = encoders("pcl_facecycle")
    hub.put("org/faces", files_of(folder), private=True)
    for token in ("hf_reader", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(WeightsError, match="has no org/faces, or your token may not see it"):
            facepcl.create_model("hf-hub:org/faces")
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), model)


def test_other_bytes_than_the_hub_announced_are_refused_and_leave_the_cache(hub, faces, encoders):
    right = (encoders("pcl_facecycle")[1] / "model.safetensors").read_bytes()
    hub.swaps["model.safetensors"] = right[:-1] + bytes([right[-1] ^ 1])  # one bit, same length
    for _ in range(2):
        with pytest.raises(WeightsError) as caught:
            facepcl.create_model("hf-hub:org/faces")
        assert_sentence(caught, r"model\.safetensors is damaged, sha256 \w{12} instead of \w{12}")
    hub.swaps.clear()
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), faces)


def test_a_download_that_is_cut_goes_on_where_it_was(hub, faces):
    hub.cuts["model.safetensors"] = [100_000]
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), faces)
    assert not hub.cuts["model.safetensors"]


def test_a_download_that_never_ends_well_is_a_sentence_and_a_second_try_works(hub, faces, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.cuts["model.safetensors"] = [0] * 10
    with pytest.raises(WeightsError) as caught:
        facepcl.create_model("hf-hub:org/faces")
    assert_sentence(caught, "the connection broke off; try again")
    hub.cuts.clear()
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), faces)


def test_a_disk_that_is_full_is_a_sentence(faces):
    with no_room_beyond(1_000_000), pytest.raises(WeightsError) as caught:
        facepcl.create_model("hf-hub:org/faces")
    assert_sentence(caught, "there is no room left on the disk")
    assert_same_codes(facepcl.create_model("hf-hub:org/faces"), faces)


def test_a_cache_that_cannot_be_written_to_is_a_sentence_that_names_hf_home(
    hub, faces, monkeypatch, tmp_path
):
    """As without a home folder: weights and the face detector alike."""
    hub.put(REPOSITORY, {FILE: b"onnx"})
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file/hub"))
    for use in (lambda: facepcl.create_model("hf-hub:org/faces"), find_detector):
        with pytest.raises(WeightsError, match=r"file/hub.* cannot be written to; set HF_HOME to a folder"):
            use()


def test_what_is_in_the_cache_loads_offline_and_a_cache_dir_is_its_own(hub, faces, monkeypatch, tmp_path):
    facepcl.create_model("hf-hub:org/faces", cache_dir=tmp_path / "own")
    assert not (tmp_path / "home/hub").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = hub.asked.total()
    for name in ("hf-hub:org/faces", f"hf-hub:org/faces@{hub.repositories['org/faces'].head}"):
        assert_same_codes(facepcl.create_model(name, cache_dir=tmp_path / "own"), faces)
    with pytest.raises(WeightsError) as caught:
        facepcl.create_model("hf-hub:org/faces")
    assert_sentence(caught, "not in the cache, and HF_HUB_OFFLINE is set")
    assert hub.asked.total() == asked


def test_a_python_call_prints_nothing(hub, encoders, capfd):
    facepcl.hub.push(encoders("pcl_facecycle")[1], "org/faces")
    facepcl.create_model("hf-hub:org/faces")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
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


def test_another_timm_model_of_a_repository_or_folder_embeds(hub, tmp_path):
    """Such as the face recognisers that others publish, to compare with."""
    other = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    cfg = {"input_size": [3, 96, 96], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    other.pretrained_cfg.update(cfg, tag="of_others", license="mit")  # of what they were trained from
    timm.models.save_for_hf(other, tmp_path / "other", safe_serialization=True)
    hub.put("ann/other", files_of(tmp_path / "other"))
    images = [np.random.default_rng(i).integers(0, 256, (96, 96, 3), np.uint8) for i in range(2)]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        wanted = other.forward_head(other.forward_features(pixels), pre_logits=True).numpy()
    for name in ("hf-hub:ann/other", f"local-dir:{tmp_path / 'other'}"):
        embedder = facepcl.FaceEmbedder(name, dtype="float32", backend="eager")
        np.testing.assert_allclose(embedder(images), wanted, rtol=1e-4, atol=1e-4)  # another memory format
        assert embedder.meta["tag"] is None  # else a search would load other weights by this name
    (tmp_path / "other/model.safetensors").write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="is not a complete safetensors file"):
        facepcl.FaceEmbedder(name)


@pytest.mark.slow
def test_a_killed_download_does_not_spoil_the_next(hub, faces, tmp_path):
    """SIGKILL in the middle of a file; then the same command."""
    env = environment(hub, tmp_path / "fresh")
    hub.stalls["model.safetensors"] = 100_000
    save_tensors({"x": FACES, "y": faces.forward_codes(FACES).face}, tmp_path / "sample.safetensors")
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


@pytest.mark.slow
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
    specs = {"pose": HeadSpec("pose", 2, "none", ("yaw", "pitch", "roll"))}
    save_encoder(
        facepcl.create_model("pcl_facecycle"), "runs/first/encoder", heads=Heads(specs, {"pose": 512})
    )
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
    assert commands == 8
