"""Two processes train as one does: losses, gradients, batch statistics, whole runs, stops."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.files import ROOT
from helpers.scripts import children
from helpers.training import (
    SMALL,
    as_options,
    assert_same,
    end_of,
    in_processes,
    log_of,
    small_config,
)
from torch.distributed import HashStore

from facepcl.errors import OptionError
from facepcl.models.io import load_tensors, save_tensors
from facepcl.pretrain import distributed, run, substeps
from facepcl.pretrain.checkpoints import checkpoints
from facepcl.pretrain.label_heads import IDENTITY_WIDTH
from facepcl.pretrain.networks import Networks
from facepcl.pretrain.sampler import InMemory
from facepcl.pretrain.substeps import Tasks

# From weights that know something and in small steps: the gradient of another batch would show in the second
# digit. Where a run starts from chance, or in large steps, rounding alone parts two runs by a hundredth
# within ten steps, also those of one process with one and with two threads.
SETTLED = {**SMALL, "init": "pcl_facecycle", "lr": 1e-6, "batch": 8, "pose_batch": 4, "steps": 12}


def each_task(rank, config, path):
    """What one process of several makes of the tasks of iteration 1: their losses, the gradients, and at
    the end the running statistics. Nothing is moved, so that rounding cannot grow."""
    source = InMemory(config, {})
    faces = source.faces
    faces.au[::3], faces.pose[1::3], faces.expression[::2] = torch.nan, torch.nan, -1
    torch.manual_seed(0)
    labels = faces.label_outputs(IDENTITY_WIDTH) if "labels" in config.tasks else {}
    nets = Networks(config.model, labels, config.tasks).train()
    found = {}
    with distributed.process_group(), distributed.sync_batch_norms(nets):
        tasks = Tasks(config, source, nets, 64, torch.float32)
        weights = dict.fromkeys(("face", "pose", "shared"), 1.0)
        for number, loss in enumerate(tasks.of_step(1, 0.5, weights)):
            nets.zero_grad()
            loss.total.backward()
            distributed.all_reduce_gradients(nets)
            found |= {
                f"{number} loss {name}": distributed.all_reduce_sum(part.detach())
                for name, part in loss.parts.items()
            }
            named = [(name, p.grad) for name, p in nets.named_parameters() if p.grad is not None]
            found |= {f"{number} gradient {name}": gradient.clone() for name, gradient in named}
    found |= {f"buffer {name}": buffer for name, buffer in nets.named_buffers()}
    save_tensors(found, f"{path}-{rank}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("labels", "pcl_facecycle"),
        ("pcl", "pcl_resnet18"),
        ("simclr", "pcl_resnet18"),
        ("simclr", "test_efficientnet"),  # its batch norms have an activation behind them
        ("pcl-relative", "pcl_facecycle"),
    ],
)
def test_losses_gradients_and_statistics_are_those_of_one_process(config, tmp_path, method, model):
    config = replace(config, method=method, model=model, size=64, pose_negatives=3)
    each_task(0, config, tmp_path / "1")
    in_processes(each_task, config, tmp_path / "2")
    one = load_tensors(tmp_path / "1-0.safetensors")
    first, second = (load_tensors(tmp_path / f"2-{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys() == one.keys()
    for name, wanted in one.items():
        assert torch.equal(first[name], second[name]), name
        # float32 sums in another order, which batch norm over few rows magnifies, and a ReLU's kink for some
        # numbers; a bias before a batch norm has a gradient of 0, so that what is computed is rounding alone
        off, scale = (first[name] - wanted).float().norm(), wanted.float().norm()
        rounding = 1e-5 * scale if "loss" in name else 5e-3 * scale + 2e-5 * wanted.numel() ** 0.5
        assert off <= rounding, f"{name} is off by {off:.2g} of {scale:.2g}"


def test_a_batch_norm_of_another_kind_is_refused(monkeypatch):
    class Renormalised(torch.nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(OptionError, match=r"class Renormalised, .* train it with one process"):
        distributed.sync_batch_norms(torch.nn.Sequential(Renormalised(4))).__enter__()


def torchrun(config, *options, processes=2, restarts=0):
    given = as_options({name: getattr(config, name) for name in SETTLED})
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
        *(f"--max-restarts={restarts}", "-m", "facepcl", "pretrain", *config.data, "--out", config.out),
        *("--preset", "paper", "--epochs=0", *given, *options),
    ]


NUMBERS = ("reconstruction", "orthogonality", "face", "pose")


def wait_for_step(config, step, agent):
    deadline = time.monotonic() + 200
    while agent.poll() is None and time.monotonic() < deadline:
        if Path(config.out, "log.jsonl").is_file() and len(log_of(config)) >= step:
            return
        time.sleep(0.05)
    pytest.fail(f"never came to step {step}")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The configuration of a settled run of one process, which is done."""
    out = tmp_path_factory.mktemp("one") / "run"
    config = small_config(ROOT / "examples/faces", out, **SETTLED)
    run(config)
    return config


@pytest.fixture(scope="module")
def two_processes(one_process, tmp_path_factory):
    """The same run by two processes."""
    config = replace(one_process, out=str(tmp_path_factory.mktemp("two") / "run"))
    subprocess.run(torchrun(config), check=True, capture_output=True, timeout=300)
    return config


def assert_same_curve(found, wanted):
    """Rounding parts them by up to 1.1e-4, by processor; a step of twice the length by 0.01 to 0.1."""
    for a, b in zip(log_of(found), log_of(wanted), strict=True):
        for name in NUMBERS:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-3), (a["step"], name)


@pytest.mark.slow
def test_the_losses_of_two_processes_are_those_of_one_over_twelve_steps(one_process, two_processes):
    assert_same_curve(two_processes, one_process)
    found, wanted = end_of(two_processes), end_of(one_process)
    assert found.keys() == wanted.keys()
    apart = [(found[k] - w).abs().mean() for k, w in wanted.items() if k.endswith("weight")]
    assert max(apart) < 0.05 * 3 * SETTLED["steps"] * SETTLED["lr"]  # of what Adam's steps can move them
    assert Path(two_processes.out, "encoder/model.safetensors").is_file()


@pytest.mark.soak
def test_the_losses_of_four_processes_are_those_of_one_over_twelve_steps(one_process, tmp_path):
    config = replace(one_process, out=str(tmp_path / "run"))
    subprocess.run(torchrun(config, processes=4), check=True, capture_output=True, timeout=600)
    assert_same_curve(config, one_process)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [((3, 0),), pytest.param(((2, 1), (7, 0)), marks=pytest.mark.soak)])
def test_a_process_that_is_killed_is_started_again_with_the_others_and_no_bit_differs(
    two_processes, tmp_path, kills
):
    config = replace(two_processes, out=str(tmp_path / "run"))
    with subprocess.Popen(
        torchrun(config, "--checkpoint-minutes=0", restarts=2),
        stderr=subprocess.PIPE,
        text=True,
    ) as agent:
        for step, rank in kills:
            wait_for_step(config, step, agent)
            os.kill(sorted(children(agent.pid))[rank], signal.SIGKILL)
            wait_for_step(config, step + 3, agent)
        said = agent.communicate(timeout=200)[1]
    assert agent.returncode == 0
    assert said.count("lost its connection") == len(kills)
    assert "the same command continues from the last checkpoint" in said
    assert "Traceback" not in said
    assert [line["step"] for line in log_of(config)] == list(range(1, 13))
    assert_same(end_of(config), end_of(two_processes))


def test_restarts_on_several_machines_need_a_store_of_their_own(monkeypatch):
    torchruns = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in (torchruns | {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        distributed._store_of_attempt(HashStore())
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    store = HashStore()
    assert distributed._store_of_attempt(store) is store


def signal_to_the_second(rank, config):
    """A run in which SIGTERM comes to the second process alone, in its second step."""
    real, calls = substeps.contrast_shared, []

    def press(*arguments):
        calls.append(1)
        if rank == 1 and len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    substeps.contrast_shared = press
    with pytest.raises(KeyboardInterrupt):
        run(config)


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step_and_one_may_go_on(config):
    config = replace(config, method="simclr", steps=6)
    in_processes(signal_to_the_second, config)
    (saved,) = checkpoints(Path(config.out))
    step = int(saved.stem.rpartition("-")[2])
    assert 2 <= step < 6
    assert [line["step"] for line in log_of(config)] == list(range(1, step + 1))
    run(config)
    assert [line["step"] for line in log_of(config)] == list(range(1, 7))


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    distributed.check_batches({"--batch": 6})
    with pytest.raises(
        OptionError, match="--pose-batch must be a multiple of 3, the number of processes, not 4"
    ):
        distributed.check_batches({"--batch": 6, "--pose-batch": 4})
