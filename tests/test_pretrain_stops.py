"""The real command, stopped and killed at steps that nobody chose, ends as if it had not been."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers.files import ROOT
from helpers.training import assert_same

from facepcl.models.io import load_tensors
from facepcl.pretrain.checkpoints import checkpoints
from facepcl.utils.signals import Stopped, until_interrupted

FACES = ROOT / "examples/faces"
STEPS = 24
SIMCLR = ("--method", "simclr")  # which has the least to compute
SMALL = "--batch 2 --pose-batch 2 --pose-negatives 1 --size 32 --source-size 64 --log-steps 1"


def command(out, *options):
    small = [*SMALL.split(), "--dtype", "float32", "--device", "cpu", "--steps", str(STEPS)]
    return [sys.executable, "-m", "facepcl", "pretrain", str(FACES), "--out", str(out), *small, *options]


def logged_steps(out):
    log = out / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def stop_after(more, out, number, *options):
    """Run the command, send it `number` once `more` steps are in its log; return the last of these, its exit
    code and stderr."""
    step = max(logged_steps(out), default=0) + more
    with subprocess.Popen(command(out, *options), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while max(logged_steps(out), default=0) < step and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    return step, process.returncode, said


def finished(out, *options):
    """Run the command to its end; return all tensors of its last checkpoint."""
    subprocess.run(command(out, *options), check=True, capture_output=True)
    assert logged_steps(out) == list(range(1, STEPS + 1))
    return load_tensors(out / f"checkpoint-{STEPS:08d}.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The last checkpoint of a run that nobody stopped."""
    return finished(tmp_path_factory.mktemp("whole") / "run", *SIMCLR)


@pytest.mark.slow
def test_signals_at_random_steps_change_no_bit(tmp_path, whole):
    out = tmp_path / "run"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        step, returncode, said = stop_after(random.randint(1, 3), out, number, *SIMCLR)
        assert returncode == (143 if number == signal.SIGTERM else 130)
        saved = checkpoints(out)[-1]
        after = int(saved.stem.rpartition("-")[2])
        assert step <= after < STEPS
        last = f"facepcl: stopped after step {after} of {STEPS}, saved {saved}; the same command continues"
        assert said.splitlines()[-1] == last
        assert "Traceback" not in said
    assert_same(finished(out, *SIMCLR), whole)


@pytest.mark.slow
def test_sigkill_loses_the_steps_since_the_last_checkpoint_and_no_more(tmp_path, whole):
    out, each_step = tmp_path / "run", (*SIMCLR, "--checkpoint-minutes", "0")
    step, returncode, _ = stop_after(random.randint(2, 9), out, signal.SIGKILL, *each_step)
    assert returncode == -signal.SIGKILL
    saved = int(checkpoints(out)[-1].stem.rpartition("-")[2])
    assert saved >= step - 1  # a line of the log comes before the checkpoint of its step
    for name in (".checkpoint.partial", ".tmpYCJ9mF"):  # ours, and what safetensors calls its own
        (out / name).write_text("what was being written")
    (out / ".encoder.partial").mkdir()
    end = finished(out, *each_step)
    assert not list(out.rglob(".*"))
    assert_same(end, whole)


def test_stopping_is_a_question_until_ctrl_c_comes_twice():
    with until_interrupted() as interrupted:
        assert interrupted() == 0
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # what torchrun's processes may get of one Ctrl-C
        signal.raise_signal(signal.SIGTERM)
        assert interrupted() == signal.SIGTERM
    with until_interrupted() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert issubclass(Stopped, KeyboardInterrupt)
