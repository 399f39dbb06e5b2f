"""examples/embed_with_ray.py on a cluster of two nodes on this machine, with nothing but the loopback."""

import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from helpers.files import FACES, ROOT

import facepcl

# A worker that is killed after its second batch, once; then the example as it is.
SCRIPT = """
import os, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
import embed_with_ray as example
from ray.cluster_utils import Cluster

class Dies(example.Embed):
    batches = 0
    def __call__(self, batch):
        table = super().__call__(batch)
        self.batches += 1
        if self.batches == 2:
            try:
                os.close(os.open(os.environ['KILLED'], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return table
            os.kill(os.getpid(), 9)
        return table

source, out = sys.argv[1:]
example.Embed = Dies
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
cluster.add_node(num_cpus=2)
options = {"model": "pcl_facecycle", "branch": "face,pose", "dtype": "float32", "batch_size": 4}
print(example.run([source], out, options, 2, 0, cluster.address))
"""


@pytest.mark.slow
@pytest.mark.soak
def test_a_cluster_of_two_makes_the_rows_of_the_plain_run_though_a_worker_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs ray (extra ray)")
    alone = ["unshare", "--net", "--map-root-user"]  # a network of its own, with nobody else in it
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and the right to use it: Ray listens on all of a machine's networks")
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        with tarfile.open(shards / f"{number}.tar", "w") as tar:
            for face in FACES[8 * number : 8 * number + 8]:
                tar.add(face, face.name)
    (shards / "0.jpg").write_bytes(b"no picture")
    (tmp_path / "job.py").write_text(SCRIPT)
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["KILLED"] = str(tmp_path / "killed")
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "examples", ROOT)))  # for Ray's workers too
    command = [*alone, sys.executable, "job.py", "shards", "out"]
    job = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert job.returncode == 0, job.stderr[-3000:]
    assert (tmp_path / "killed").exists()
    assert job.stdout.splitlines()[-1] == "25"

    monkeypatch.chdir(tmp_path)
    facepcl.embed("shards", tmp_path / "plain.npz", branch="face,pose", dtype="float32", batch_size=4)
    found, wanted = facepcl.read_embeddings("out"), facepcl.read_embeddings("plain.npz")
    assert (found.paths, found.errors, found.meta) == (wanted.paths, wanted.errors, wanted.meta)
    assert found.sizes.tolist() == wanted.sizes.tolist()
    # batches are cut elsewhere, and add up in another order
    tolerance = 1e-5 * np.nanmax(np.abs(wanted.vectors))
    assert np.allclose(found.vectors, wanted.vectors, rtol=0, atol=tolerance, equal_nan=True)
