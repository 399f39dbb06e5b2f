"""What takes minutes (`make soak`): jobs that are killed twenty times, and a shard of a million members."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from helpers.files import ROOT
from test_pretrain_stops import assert_same, command, logged_steps

from facepcl.models.io import load_tensors
from facepcl.pretrain.checkpoints import checkpoint_path, checkpoints

pytestmark = [pytest.mark.soak, pytest.mark.slow]
KILLS, MANY_STEPS = 20, 60


def test_a_run_of_pretrain_that_is_killed_twenty_times_ends_as_if_it_had_not_been(tmp_path):
    """At random moments, start-up and writing included; each step is in the log once, and no bit differs."""
    random.seed(1)
    options = ("--steps", str(MANY_STEPS), "--checkpoint-minutes", "0")

    def finished(run):
        subprocess.run(command(run, *options), check=True, capture_output=True)
        assert logged_steps(run) == list(range(1, MANY_STEPS + 1))
        return load_tensors(checkpoint_path(run, MANY_STEPS))

    whole, out = finished(tmp_path / "whole"), tmp_path / "run"
    kills, at = 0, []
    while kills < KILLS:
        step = max(logged_steps(out), default=0)
        with subprocess.Popen(command(out, *options), stderr=subprocess.DEVNULL) as process:
            if kills % 2:  # every second run gets a step further
                while process.poll() is None and max(logged_steps(out), default=0) <= step:
                    time.sleep(0.01)
                time.sleep(random.uniform(0, 1.0))
            else:
                time.sleep(random.uniform(1, 8))
            process.kill()
        kills += 1
        saved = checkpoints(out)
        at.append(int(saved[-1].stem.rpartition("-")[2]) if saved else 0)
        assert at == sorted(at)  # no checkpoint is lost
        assert process.returncode == -signal.SIGKILL  # it was not faster than the kills
    assert len(set(at)) > 5
    assert_same(finished(out), whole)
    assert not list(out.rglob(".*"))


def test_a_shard_of_a_million_members_takes_little_memory_and_a_bounded_time(tmp_path):
    """A few megabytes on the disk, a gigabyte unpacked."""
    blocks = []
    for i in range(1000):
        info = tarfile.TarInfo(f"{i:04d}.jpg")
        info.size = 1
        blocks.append(info.tobuf(tarfile.USTAR_FORMAT) + b"x".ljust(512, b"\0"))
    with gzip.open(tmp_path / "s.tar.gz", "wb", 1) as file:
        for _ in range(1000):
            file.write(b"".join(blocks))
        file.write(bytes(1024))
    script = f"""
import json, resource, sys, time
from facepcl.data.sources import list_entries, read_items
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
count = sum(1 for item in read_items(list_entries([{str(tmp_path / "s.tar.gz")!r}])) if item.data == b"x")
print(json.dumps([count, peak() - before, time.process_time() - start]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    count, grown, seconds = json.loads(ran.stdout)
    print(f"\n1,000,000 members: {grown:.0f} MB more, {seconds:.0f} s of the processor")
    assert count == 1_000_000
    assert grown < 50  # MB; headers that are kept would be 1.4 GB
    assert seconds < 300
