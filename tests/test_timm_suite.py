"""timm's own model tests, and what a hub package needs beyond them, on every pcl_* model."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_timms_own_suite_passes(shared):
    run = subprocess.run(
        [str(shared / "tools/timm_suite/run"), "--python", sys.executable, "--extra", "--quiet"],
        capture_output=True,
        text=True,
        timeout=550,
    )
    said = run.stdout + run.stderr
    if run.returncode == 2:
        pytest.skip(f"timm's tests could not be fetched: {said.strip().splitlines()[-1]}")
    assert run.returncode == 0, said[-4000:]
    assert not [line for line in said.splitlines() if line.strip().startswith("skipped ")], said[-4000:]
    assert " 0 failed" in said.strip().splitlines()[-1]
