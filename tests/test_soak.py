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
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_pretrain_stops import assert_same, command, logged_steps

import facepcl
from facepcl.embedding.resume import Unfinished
from facepcl.models.io import load_tensors
from facepcl.pretrain.checkpoints import checkpoint_path, checkpoints

pytestmark = [pytest.mark.soak, pytest.mark.slow]
KILLS, MANY_STEPS = 20, 60
ROOT = Path(__file__).resolve().parents[1]
SMALL_PARTS = """
import sys, time, facepcl
from facepcl.embedding import embedder, job, parquet_table, resume
for file in (parquet_table, embedder, job, resume):
    file.ROWS_A_GROUP = 16  # instead of 1,024, so that a small folder has many parts
embed = embedder.FaceEmbedder._embed
def slowly(self, *args):
    time.sleep(0.2)  # so that kills fall between start-up and end
    return embed(self, *args)
embedder.FaceEmbedder._embed = slowly
print("ready", flush=True)
facepcl.embed("photos", sys.argv[1], resume=True, dtype="float32", batch_size=8, workers=2)
"""


def children(pid):
    """The processes that `pid` has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(number) for number in listed.stdout.split()]


def test_a_job_of_embed_that_is_killed_twenty_times_loses_nothing_and_doubles_nothing(tmp_path):
    """At random moments, every fourth time a reader first; then each row once, in order, equal to the bit."""
    rng = np.random.default_rng(1)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(640):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(photos / f"{i:03d}.png")
    (photos / "200.png").write_bytes(b"no picture")
    with tarfile.open(photos / "shard.tar", "w") as shard:
        for i in range(500, 640):
            shard.add(photos / f"{i}.png", f"{i}.png")
            (photos / f"{i}.png").unlink()
    (tmp_path / "job.py").write_text(SMALL_PARTS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(out):
        command = [sys.executable, "job.py", out]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment)

    assert start("whole.npz").wait() == 0
    out, work, kills, parts, grown = tmp_path / "e.npz", Unfinished(tmp_path / "e.npz"), 0, 0, set()
    while kills < KILLS:
        if out.exists():  # it was faster than the kills; they go on with a new job
            out.unlink()
            parts = 0
        job = start("e.npz")
        job.stdout.readline()
        if kills % 2:  # whatever the machine does, every second job gets past its start-up
            while job.poll() is None and len(work.parts) <= parts:
                time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3) if kills % 2 else rng.uniform(0.3, 2.0))
        if kills % 4 == 3:
            for reader in children(job.pid):
                os.kill(reader, signal.SIGKILL)
            time.sleep(rng.uniform(0, 0.5))
        job.send_signal(signal.SIGKILL)
        kills += 1
        job.wait()
        assert len(work.parts) >= parts or out.exists()
        parts = len(work.parts)
        grown.add(parts)
    assert len(grown) > 5  # it was killed in its midst
    assert start("e.npz").wait() == 0
    a, b = facepcl.read_embeddings(out), facepcl.read_embeddings(tmp_path / "whole.npz")
    assert a.paths == b.paths
    assert len(set(a.paths)) == len(a.paths) == 640
    assert a.errors == b.errors
    assert np.array_equal(a.vectors, b.vectors, equal_nan=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npz", "job.py", "photos", "whole.npz"]


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
