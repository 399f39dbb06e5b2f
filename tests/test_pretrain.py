"""The loop: it learns, stops and goes on, and leaves an encoder that timm loads."""

import json
import os
import re
import shutil
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from helpers.files import photo_of
from helpers.training import (
    SMALL,
    as_options,
    assert_same,
    end_of,
    log_of,
    recorded,
    stop_in_step,
)
from PIL import Image

import facepcl
from facepcl.cli import main
from facepcl.errors import DataError, FacepclError, OptionError, WriteError
from facepcl.models.io import load_tensors
from facepcl.pretrain import PRESETS, Config, run, substeps
from facepcl.pretrain.checkpoints import checkpoints, load_checkpoint
from facepcl.pretrain.networks import Networks
from facepcl.utils.files import alone
from facepcl.utils.torch_state import default_torch_state

ONE_STEP = {**SMALL, "method": "simclr", "steps": 1}


@pytest.fixture
def simclr(config):
    """The method that has the least to compute, where any will do."""
    return replace(config, method="simclr")


@pytest.fixture(scope="session")
def done(finished):
    """A run of PCL."""
    return finished("pcl")


def test_a_run_leaves_an_encoder_a_log_pictures_and_no_pickle(done):
    out = Path(done.out)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "config.json",
        "log.jsonl",
        "checkpoint-00000002.safetensors",
        "optimizer-00000002.safetensors",
        "samples/step-00000002.png",
        "encoder/config.json",
        "encoder/model.safetensors",
        "encoder/decoder.safetensors",
    }
    trained = end_of(done)
    loaded = timm.create_model(f"local-dir:{out}/encoder", pretrained=True)
    assert torch.equal(loaded.conv1[0].weight, trained["encoder.conv1.0.weight"])
    assert [line["step"] for line in log_of(done)] == [1, 2]
    named = {"reconstruction", "orthogonality", "face", "pose", "views_per_s", "lr"}
    assert named <= log_of(done)[0].keys()
    with Image.open(out / "samples/step-00000002.png") as grid:
        assert grid.height == 6 * 64
    assert recorded(done)["autocast"] == "float32"
    assert recorded(done).items() >= json.loads(json.dumps(asdict(done))).items()
    decoder = facepcl.create_decoder(f"local-dir:{out}/encoder")
    assert torch.equal(decoder.fc.weight, trained["decoder.fc.weight"])


def test_a_second_run_in_the_same_folder_is_refused_and_an_error_leaves_no_folder(config, tmp_path):
    with alone(tmp_path / "run", ""), pytest.raises(OptionError, match="another process is training there"):
        run(config)
    with pytest.raises(DataError, match="fewer than a batch"):
        run(replace(config, batch=1000))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_losses_fall(config):
    run(replace(config, steps=16, lr=1e-3, gradients="none"))
    log = log_of(config)
    first, last = (sum(line["reconstruction"] for line in part) / 4 for part in (log[:4], log[-4:]))
    assert last < 0.8 * first


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(config, done):
    run(config)
    assert_same(end_of(config), end_of(done))
    other = replace(config, seed=1, out=config.out + "-other")
    run(other)
    assert not torch.equal(end_of(other)["encoder.conv1.0.weight"], end_of(done)["encoder.conv1.0.weight"])


def test_a_stopped_run_goes_on_as_if_it_had_not_been(config, done, monkeypatch):
    """Ctrl-C in the first step: that step is finished and saved, and the end is the same to the bit."""
    stop_in_step(1, config, monkeypatch)
    run(config)
    assert_same(end_of(config), end_of(done))


@pytest.mark.parametrize("name", ["encoder/code.py", "samples/step-00000001.png", "log.jsonl"])
def test_a_folder_with_files_of_another_kind_is_no_run(config, name):
    """Its files would be deleted or replaced."""
    file = Path(config.out, name)
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(OptionError, match=f"contains {Path(name).parts[0]} but no config.json of a run"):
        run(config)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "1"}, "RANK is set in the environment without WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set in the environment without RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and MASTER_ADDR is not set"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK in the environment is '', not a number"),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS is 4, and RANK"),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID is 1, and RANK"),
    ],
)
def test_half_of_what_a_launcher_sets_is_refused_before_any_work(config, monkeypatch, environment, said):
    """A process that takes itself for the second of several writes nothing."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=said):
        run(config)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"", "config.json is not valid JSON"),
        ("config.json", b'{"images": "many"}', "config.json is not the configuration of a run"),
        ("config.json", None, "has checkpoints and no config.json; give another --out"),
        ("checkpoint-00000002.safetensors", b"{", "00002.safetensors is not a complete safetensors file"),
        ("optimizer-00000002.safetensors", None, "optimizer-00000002.safetensors: there is no such file"),
        ("samples", b"", "samples is a file; a folder was expected"),
    ],
)
def test_a_damaged_file_of_a_run_is_one_sentence_when_it_goes_on(done, tmp_path, name, content, said):
    out = shutil.copytree(done.out, tmp_path / "run", copy_function=os.link)
    if (out / name).is_dir():
        shutil.rmtree(out / name)
    else:
        (out / name).unlink()
    if content is not None:
        (out / name).write_bytes(content)
    with pytest.raises(FacepclError, match=said):
        run(replace(done, out=str(out)))


@pytest.mark.slow
def test_what_a_program_has_set_in_torch_does_not_change_a_run(config, done):
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            run(config)
            assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
    assert_same(end_of(config), end_of(done))


def test_autocast_computes_with_the_weights_of_now():
    """Not with copies out of its cache, which lasts as long as the outermost autocast: a run in bfloat16
    would see the weights of its first step to the end."""
    layer, x = torch.nn.Linear(4, 1), torch.ones(1, 4)

    def output():
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x).item()

    with default_torch_state():
        before = output()
        with torch.no_grad():
            layer.weight.add_(1)
        assert output() == pytest.approx(before + 4, abs=0.05)  # eight bits of precision


def test_data_may_be_a_path_or_several_and_strings_or_paths(tmp_path):
    for data in ("faces", Path("faces"), ["faces"], (Path("faces"),)):
        assert Config(data=data, out=tmp_path / "run") == Config(("faces",), str(tmp_path / "run"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_run_that_goes_on_keeps_no_checkpoint_mapped(done):
    """Windows deletes no file that is, and old checkpoints are deleted."""
    nets = Networks(done.model, {}, done.tasks)
    optimizer = torch.optim.Adam(nets.parameters())
    load_checkpoint(checkpoints(Path(done.out))[-1], nets, optimizer)
    assert optimizer.state
    assert done.out not in Path("/proc/self/maps").read_text()


@pytest.mark.slow
def test_both_gradient_resets_run_and_differ(config, done):
    run(replace(config, gradients="none"))
    assert not torch.equal(end_of(config)["encoder.face.0.weight"], end_of(done)["encoder.face.0.weight"])


@pytest.mark.slow
def test_a_resnet_trains_and_its_folder_is_stock_timm(config):
    encoder = run(replace(config, model="pcl_resnet18", size=64, steps=2))
    assert json.loads((encoder / "config.json").read_text())["architecture"] == "resnet18"
    loaded = facepcl.create_model(f"local-dir:{encoder}")
    assert tuple(loaded.pretrained_cfg["input_size"]) == (3, 64, 64)
    assert loaded.bn1.running_mean.abs().max() > 0  # estimated anew on clean images
    assert loaded.forward_codes(torch.rand(1, 3, 128, 128)).face.shape == (1, 2048)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "side"), [(48, 3), (100, 7)])
def test_other_sizes_reach_the_decoder_by_resized_maps_and_are_recorded(config, size, side):
    encoder = run(replace(config, size=size, steps=1))
    cfg = timm.create_model(f"local-dir:{encoder}", pretrained=True).pretrained_cfg
    assert tuple(cfg["input_size"]) == (3, size, size)
    assert tuple(cfg["pool_size"]) == (side, side)


@pytest.mark.parametrize(
    ("missing", "change", "said"),
    [(None, {"lr": 0.01}, "--lr 0.0001, not 0.01"), ("ema", {"ema": 0.5}, "started with --ema 0.0, not 0.5")],
)
def test_another_number_is_refused_for_a_begun_run(config, missing, change, said):
    """A run that was begun before an option existed had its default."""
    begun = {name: value for name, value in asdict(config).items() if name != missing}
    Path(config.out).mkdir()
    Path(config.out, "config.json").write_text(json.dumps(begun))
    Path(config.out, "checkpoint-00000001.safetensors").touch()
    with pytest.raises(OptionError, match=said):
        run(replace(config, **change))


def test_a_run_that_failed_before_its_first_checkpoint_takes_other_options(simclr, tmp_path, monkeypatch):
    breaking(monkeypatch, 1, lambda loss: loss * float("nan"))
    with pytest.raises(FacepclError, match="last good checkpoint is none; start again with a lower --lr"):
        run(simclr)
    monkeypatch.undo()
    run(replace(simclr, lr=1e-5, steps=1))
    assert recorded(simclr)["lr"] == 1e-5


def test_only_the_newest_checkpoints_stay(simclr, tmp_path):
    run(replace(simclr, checkpoint_minutes=0.0, steps=4))
    kept = sorted(p.name for p in (tmp_path / "run").glob("*-0*.safetensors"))
    assert kept == [
        f"{kind}-0000000{step}.safetensors" for kind in ("checkpoint", "optimizer") for step in (3, 4)
    ]


def test_what_is_no_whole_checkpoint_is_left_alone_or_cleared_away(simclr, tmp_path):
    config = replace(simclr, steps=1)
    run(config)
    best, orphan = (
        tmp_path / "run" / f"{name}.safetensors" for name in ("checkpoint-best", "optimizer-00000002")
    )
    best.write_bytes(b"a copy of somebody's")
    orphan.write_bytes(b"killed before its checkpoint was there")
    (tmp_path / "run/checkpoint-00000001.safetensors").unlink()
    run(config)
    assert best.exists()
    assert not orphan.exists()


def test_a_run_that_is_stopped_before_its_first_step_begins_anew(simclr, monkeypatch):
    config = replace(simclr, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr("facepcl.pretrain.loop.until_interrupted", lambda: nullcontext(lambda: 15))
        with pytest.raises(KeyboardInterrupt, match="stopped before the first step of 1; the same command"):
            run(config)
    run(config)
    assert [line["step"] for line in log_of(config)] == [1]


def test_others_may_read_what_a_run_writes(done, tmp_path):
    rights = {path.stat().st_mode & 0o777 for path in Path(done.out).rglob("*") if path.is_file()}
    (tmp_path / "new").touch()
    assert rights == {(tmp_path / "new").stat().st_mode & 0o777}


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"batch": 400}, DataError, "12 images are fewer than a batch of 400"),
        ({"steps": 0}, OptionError, "--steps, --epochs or --minutes"),
        ({"batch": 1}, OptionError, "--batch must be between 2 and"),
        ({"steps": -1}, OptionError, "--steps must be between 0 and"),
        ({"size": 7}, OptionError, "--size must be at least 32"),
        ({"lr": float("nan")}, OptionError, "--lr must be .* not nan"),
        ({"seed": 10**25}, OptionError, "--seed must be between 0 and 1e"),
        ({"pose_batch": 13}, DataError, "12 images are fewer than a batch of 13; lower --pose-batch"),
        ({"method": "labels", "batch": 5}, OptionError, "--batch must be even"),
        ({"method": "magic"}, OptionError, "Unknown --method 'magic'. Available: pcl, labels"),
        ({"method": "labels", "max_yaw": 1.0, "batch": 4}, DataError, "too few for --batch 4"),
        ({"device": "abacus"}, OptionError, "device 'abacus'"),
        ({"model": "resnet_18"}, OptionError, "Unknown model 'resnet_18'"),
        ({"init": "local-dir:nowhere"}, FileNotFoundError, "nowhere: there is no such folder"),
        ({"init": "pcl_facecycle", "model": "pcl_resnet18"}, OptionError, "is a pcl_facecycle"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(config, tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        run(replace(config, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["run", "run/deeper/still"])
def test_a_file_in_the_place_of_the_run_folder_is_said_before_the_data_is_read(config, tmp_path, where):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(
        FacepclError, match=r"run is a file, not a folder|run/.* a folder in its path is a file"
    ):
        run(replace(config, out=str(tmp_path / where), data=("not read",)))


def test_a_run_folder_that_cannot_be_written_is_said_before_the_data_is_read(config, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(WriteError, match="locked/run could not be written: permission denied"):
        run(replace(config, out=str(tmp_path / "locked/run"), data=("not read",)))


def test_an_empty_folder_is_said_before_the_first_step(config, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images to train on"):
        run(replace(config, data=(str(tmp_path / "empty"),)))
    assert not (tmp_path / "run").exists()


def test_photos_in_the_place_of_face_crops_are_noticed(config, tmp_path, caplog):
    (photos := tmp_path / "photos").mkdir()
    for number in range(4):
        photo_of(2, number).save(photos / f"{number}.jpg")
    run(replace(config, data=(str(photos),), batch=4, steps=1, epochs=0.0))
    assert "most of these 4 images look like photos" in caplog.text


def test_the_last_line_counts_broken_images_and_has_the_call_that_loads(config, faces_folder, capsys, caplog):
    for name in ("x.jpg", "y.jpg"):
        (faces_folder / "person0" / name).write_bytes(b"no image")
    caplog.set_level("INFO", "facepcl")
    assert main(["pretrain", str(faces_folder), "--out", config.out, *as_options(ONE_STEP)]) == 0
    assert "12 images, 2 broken images skipped" in caplog.text
    assert f"skipped {faces_folder / 'person0/x.jpg'}" in caplog.text
    said, call = capsys.readouterr().out.rstrip().split("load it with ")
    assert said.startswith("2 broken images were skipped; wrote ")
    assert recorded(config)["skipped"] == [
        str(faces_folder / "person0" / name) for name in ("x.jpg", "y.jpg")
    ]
    model = eval(call, {"facepcl": facepcl})  # as printed
    trained = load_tensors(f"{config.out}/encoder/model.safetensors")
    assert torch.equal(model.state_dict()["conv1.0.weight"], trained["conv1.0.weight"])


def test_a_run_inside_its_data_is_refused(config):
    with pytest.raises(OptionError, match=r"run is inside .* and would be read with its images"):
        run(replace(config, out=f"{config.data[0]}/run"))


def test_labels_are_asked_of_data_without(config, tmp_path, faces_folder):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(faces_folder.rglob("*.jpg")):
        (flat / f"{i}.jpg").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="needs labels"):
        run(replace(config, method="labels", batch=4, data=(str(flat),)))


def breaking(monkeypatch, at_call, what):
    """Have the loss of SimCLR go through `what` from its call `at_call` on."""
    real, calls = substeps.contrast_shared, []

    def contrast(*arguments):
        calls.append(1)
        loss = real(*arguments)
        return what(loss) if len(calls) >= at_call else loss

    monkeypatch.setattr(substeps, "contrast_shared", contrast)


def assert_good(path):
    """A checkpoint, and the optimiser state beside it, load and are finite."""
    for file in (path, path.with_name(path.name.replace("checkpoint", "optimizer"))):
        assert all(tensor.isfinite().all() for tensor in load_tensors(file).values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(simclr, tmp_path, monkeypatch, value):
    breaking(monkeypatch, 3, lambda loss: loss * value)
    last = tmp_path / "run/checkpoint-00000002.safetensors"
    said = f"shared is no longer finite at step 3; the last good checkpoint is {last}; start again"
    with pytest.raises(FacepclError, match=re.escape(said)):
        run(replace(simclr, steps=6, log_steps=100, checkpoint_minutes=0.0))
    assert checkpoints(tmp_path / "run")[-1] == last
    assert_good(last)


def test_weights_that_are_not_finite_are_not_saved(simclr, tmp_path, monkeypatch):
    """A gradient can overflow where the loss does not."""
    breaking(monkeypatch, 3, lambda loss: loss + 0 * (loss - loss.detach()).sqrt())
    last = tmp_path / "run/checkpoint-00000002.safetensors"
    said = f"no longer finite (after|at) step 3; the last good checkpoint is {re.escape(str(last))}"
    with pytest.raises(FacepclError, match=said):
        run(replace(simclr, steps=6, checkpoint_minutes=0.0))
    assert_good(last)


def test_a_run_that_breaks_before_its_first_checkpoint_says_so(simclr, monkeypatch):
    breaking(monkeypatch, 1, lambda loss: loss * float("nan"))
    with pytest.raises(FacepclError, match="no longer finite at step 1; the last good checkpoint is none"):
        run(simclr)


def test_the_paper_preset_is_the_papers():
    paper = Config(data=(), out="", **PRESETS["paper"])
    assert (paper.batch, paper.pose_batch, paper.pose_negatives) == (256, 10, 100)
    assert (paper.lr, paper.weight_decay, paper.epochs) == (1e-4, 1e-3, 6000)
    assert (paper.noise, paper.orthogonality) == (0.4, 1.0)
    assert (paper.gradients, paper.negatives, paper.warmup) == ("zeros", "blocks", 0.0)


def test_the_small_preset():
    small = Config(data=(), out="", **PRESETS["small"])
    assert (small.batch, small.pose_batch, small.pose_negatives) == (32, 4, 16)
    assert (small.lr, small.gradients) == (1e-4, "none")


def test_every_number_is_an_option_with_help(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    text = capsys.readouterr().out
    for field in fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text or field.name == "data"


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_and_leaves_the_same_names(simclr, monkeypatch):
    # What is tested is that the trunk is one graph; the C++ of it would take minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    config = replace(simclr, ema=0.9)
    plain = run(replace(config, out=config.out + "-plain"))
    compiled = run(replace(config, compile=True))
    weights, wanted = (load_tensors(f / "model.safetensors") for f in (compiled, plain))
    assert weights.keys() == wanted.keys()
    for name in wanted:  # the graph holds the same operations
        torch.testing.assert_close(weights[name], wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_compiler_that_is_missing_is_one_sentence(simclr):
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    said = r"--compile does not work here \(.*no-such-compiler.*\); leave it out"
    with missing, pytest.raises(OptionError, match=said):
        run(replace(simclr, compile=True))
