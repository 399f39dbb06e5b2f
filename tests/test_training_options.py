"""Options of a run that change what it trains or releases: `--ema`, `--resolution-schedule`, `--minutes`."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.training import assert_same, end_of, log_of, recorded, stop_in_step

from facepcl.cli import main
from facepcl.errors import OptionError
from facepcl.models.io import load_tensors
from facepcl.pretrain import loop, run, substeps
from facepcl.pretrain.networks import Networks
from facepcl.pretrain.release import EMA
from facepcl.pretrain.rng import seeded_dropout
from facepcl.pretrain.sampler import schedule


@pytest.fixture
def config(config):
    """SimCLR, since it has the least to compute."""
    return replace(config, method="simclr", steps=4)


def test_an_average_is_that_of_the_weights_it_saw():
    nets = Networks("pcl_facecycle", {})
    average, name = EMA(nets, 0.75), "decoder.fc.weight"
    expected = average.state_dict()[name].clone()
    for step in range(1, 60):
        with torch.no_grad():
            nets.decoder.fc.weight.add_(0.01)
        average.update(nets, step)
        keep = min(0.75, step / (step + 10))
        expected = keep * expected + (1 - keep) * nets.decoder.fc.weight.detach()
    torch.testing.assert_close(average.state_dict()[name], expected)


@pytest.mark.slow
def test_the_average_is_released_and_changes_no_training(config):
    config = replace(config, method="pcl", steps=2)
    plain = replace(config, out=config.out + "-plain")
    encoder, _ = run(replace(config, ema=0.9)), run(plain)
    found = end_of(config)
    averaged = {name: found.pop(name) for name in list(found) if name.startswith("averaged.")}
    assert_same(found, end_of(plain))
    released = load_tensors(encoder / "model.safetensors")
    name = "conv1.0.weight"
    assert torch.equal(released[name], averaged[f"averaged.encoder.{name}"])
    assert not torch.equal(released[name], found[f"encoder.{name}"])
    decoder = load_tensors(encoder / "decoder.safetensors")
    assert torch.equal(decoder["fc.weight"], averaged["averaged.decoder.fc.weight"])


def test_an_averaged_resnet_has_batch_statistics_of_its_own(config):
    encoder = run(replace(config, model="pcl_resnet18", ema=0.9, steps=2))
    trained = end_of(replace(config, steps=2))
    released = load_tensors(encoder / "model.safetensors")
    assert not torch.equal(released["bn1.running_mean"], trained["averaged.encoder.bn1.running_mean"])


def test_an_ema_of_1_is_refused(config):
    with pytest.raises(OptionError, match=r"--ema must be below 1, not 1.0"):
        run(replace(config, ema=1.0))


def test_a_head_is_not_turned_to_its_side(config):
    with pytest.raises(OptionError, match=r"--turn must be below 90 degrees, not 120"):
        run(replace(config, method="pcl-relative", turn=120.0))


def test_more_edges_than_views_are_refused(config):
    with pytest.raises(OptionError, match=r"--edges must be a probability of at most 1, not 1.5"):
        run(replace(config, edges=1.5))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lr": "1e-4"}, "--lr must be float, not '1e-4'"),  # as PyYAML reads it
        ({"batch": 16.5}, "--batch must be int, not 16.5"),
        ({"init": None}, "--init must be str, not None"),
        ({"tensorboard": "no"}, "--tensorboard must be bool, not 'no'"),
    ],
)
def test_a_value_of_another_type_is_refused_before_the_data_are_read(config, values, said):
    with pytest.raises(OptionError, match=said):
        run(replace(config, data=("nowhere",), **values))


def test_paths_devices_and_numbers_of_numpy_become_what_json_holds(config):
    found = replace(
        config, init=Path("a.safetensors"), device=torch.device("cpu"), steps=np.int64(3), batch=8.0, lr=1
    )
    assert json.loads(json.dumps(asdict(found)))["init"] == "a.safetensors"
    assert (found.device, found.steps, found.batch, type(found.batch)) == ("cpu", 3, 8, int)


def sizes_seen(monkeypatch):
    """Sides of the views of a run, as it goes on."""
    real, seen = substeps.contrast_shared, []

    def note(nets, views, *mixing):
        seen.append(views.shape[-1])
        return real(nets, views, *mixing)

    monkeypatch.setattr(substeps, "contrast_shared", note)
    return seen


def test_a_schedule_trains_at_one_size_and_then_at_the_next(config, monkeypatch):
    seen = sizes_seen(monkeypatch)
    encoder = run(replace(config, size=0, resolution_schedule="32:0.25,48:0.7,64"))
    assert seen == [32, 48, 48, 64]
    assert json.loads((encoder / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 64, 64]


def test_a_stopped_run_goes_on_to_the_bit_with_its_average_and_in_its_schedule(config, monkeypatch):
    config = replace(config, ema=0.9, size=0, resolution_schedule="32:0.6,48")
    whole = replace(config, out=config.out + "-whole")
    run(whole)
    stop_in_step(2, config, monkeypatch, "contrast_shared")
    seen = sizes_seen(monkeypatch)
    run(config)
    assert seen == [32, 48]
    assert_same(end_of(config), end_of(whole))


def test_sizes_of_a_schedule_take_turns_and_the_largest_of_its_end_is_that_of_the_encoder(config):
    config = replace(config, size=0, resolution_schedule="32+48:0.7,40")
    assert [config.size_at(step / 4, step) for step in range(4)] == [32, 48, 32, 40]
    assert config.final_size == 40
    assert replace(config, resolution_schedule="32:0.5,48+64+32").final_size == 64


@pytest.mark.parametrize(
    "text",
    ["48:0.6", "48,64", "48+,64", "48+31", "48:0.6,x", "48:0.6,31", "48:0.6,56:0.5,64", "48:1,64", ","],
)
def test_a_schedule_that_cannot_work_is_refused(config, text):
    with pytest.raises(OptionError, match="--resolution-schedule takes sizes of at"):
        run(replace(config, size=0, resolution_schedule=text))


def test_a_schedule_beside_a_size_is_refused(config):
    with pytest.raises(OptionError, match="leave out --size 32"):
        run(replace(config, resolution_schedule="48:0.6,64"))


class Clock:
    """time.monotonic in steps of one second from one look to the next."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(loop.time, "monotonic", self)

    def __call__(self):
        self.now += 1
        return self.now


def test_a_run_by_the_clock_ends_in_time_and_its_rate_with_it(config, monkeypatch):
    Clock(monkeypatch)  # a step takes one second: it is looked at before and after
    run(replace(config, steps=0, minutes=5 / 60))
    log = log_of(config)
    assert len(log) == 5
    assert [line["lr"] for line in log] == pytest.approx([config.lr * schedule(i / 5, 0) for i in range(5)])
    assert recorded(config)["total_steps"] is None


def test_a_stopped_run_by_the_clock_trains_for_the_rest_of_its_time(config, monkeypatch):
    config = replace(config, steps=0, minutes=5 / 60)
    Clock(monkeypatch)
    stop_in_step(2, config, monkeypatch, "contrast_shared")
    assert not Path(config.out, "encoder").exists()
    Clock(monkeypatch).now = 1000.0  # the time between does not count
    encoder = run(config)
    log = log_of(config)
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5]
    assert encoder.is_dir()


def test_two_lengths_at_once_are_refused(config, capsys):
    options = [*config.data, "--out", config.out, "--steps", "3", "--minutes", "2"]
    assert main(["pretrain", *options]) == 2
    assert "--steps 3 and --minutes 2 are mutually exclusive: give one" in capsys.readouterr().err


def test_a_run_leaves_the_callers_random_numbers_alone(config):
    state = torch.get_rng_state()
    run(replace(config, steps=1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("method", "words", "unread_words"),
    [
        ("simclr", "--noise 0.1 --lr 0.1", "--noise"),
        ("labels", "--edges 0.1 --max-yaw 9 --cls identity", "--edges"),
        ("pcl", "--weight-pose 1 --pose-batch 4 --probe-steps 7", "--weight-pose, --probe-steps"),
        ("pcl-relative", "--face-crops whole --turn 5", "--face-crops"),
        ("simclr", "--face-crops aligned --edges 0.3 --turn 5", "--edges"),
        ("pcl", "--face-crops whole --edges 0.3 --turn 5", "--turn"),
    ],
)
def test_options_of_other_methods_are_named(method, words, unread_words, tmp_path, caplog):
    out = ["--out", str(tmp_path / "run"), "--steps", "1"]
    assert main(["pretrain", str(tmp_path / "gone"), *out, "--method", method, *words.split()]) == 2
    assert f"these options have no effect with --method {method}: {unread_words}\n" in caplog.text


def test_the_random_numbers_of_a_device_continue_after_a_step(monkeypatch):
    """As on Apple's GPUs, whose generator `fork_rng` does not know."""
    of_device, module_of = SimpleNamespace(state="own"), torch.get_device_module
    of_device.get_rng_state = lambda: of_device.state
    of_device.set_rng_state = of_device.manual_seed = lambda state: setattr(of_device, "state", state)
    monkeypatch.setattr(
        torch, "get_device_module", lambda kind: of_device if kind == "mps" else module_of(kind)
    )
    with seeded_dropout(torch.device("mps"), 0, 5):
        assert isinstance(of_device.state, int)
    assert of_device.state == "own"


def test_layers_that_drop_at_random_draw_what_the_seeds_determine():
    drop, ones, state = torch.nn.Dropout(), torch.ones(1000), torch.get_rng_state()
    draws = []
    for seeds in ((0, 5), (0, 5), (0, 6)):
        with seeded_dropout(torch.device("cpu"), *seeds):
            draws.append(drop(ones))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)
