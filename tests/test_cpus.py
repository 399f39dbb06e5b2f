"""The processors that a process may use: its affinity mask and the quotas of its cgroups."""

import os

import pytest

from facepcl.utils import cpus

SEEN = 64


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(cgroup, files) sets up a system of 64 processors with these files below /sys/fs/cgroup."""

    def build(cgroup, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(cpus, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(SEEN)), raising=False)
    return build


VERSION_1 = "4:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "wanted"),
    [
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="version 2 in a container"),
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 2, id="one and a half is two"),
        pytest.param("0::/\n", {"cpu.max": "5000 100000\n"}, 1, id="a twentieth is one"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, SEEN, id="version 2 without a limit"),
        pytest.param("0::/\n", {"cpu.max": "9900000 100000\n"}, SEEN, id="more than there are"),
        pytest.param(
            "0::/user.slice/job\n",
            {"user.slice/cpu.max": "300000 100000\n", "user.slice/job/cpu.max": "max 100000\n"},
            3,
            id="version 2, of a group above",
        ),
        pytest.param(
            VERSION_1,
            {"cpu,cpuacct/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            4,
            id="version 1 in a container",
        ),
        pytest.param(
            VERSION_1,
            {"cpu/docker/1f/cpu.cfs_quota_us": "250000\n", "cpu/docker/1f/cpu.cfs_period_us": "50000\n"},
            5,
            id="version 1 on the host",
        ),
        pytest.param(
            VERSION_1,
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            SEEN,
            id="version 1 without a limit",
        ),
        pytest.param("0::/\n", {"cpu.max": "much\n"}, SEEN, id="a file of another form"),
        pytest.param("", {}, SEEN, id="no cgroups"),
    ],
)
def test_a_quota_of_the_container_limits_the_processors(machine, cgroup, files, wanted):
    machine(cgroup, files)
    assert cpus.cores() == wanted
