"""Scripts run as they are typed, in this process, since a new one would spend seconds importing torch; and
what tests need where a process has to be new."""

import io
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest


class Done(NamedTuple):
    """What a finished command gave."""

    returncode: int
    stdout: str
    stderr: str


def run_script(command):
    """What `python SCRIPT OPTIONS` gives, in the working folder of this process."""
    script, *options = shlex.split(command)[1:]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [script, *options])
        patch.syspath_prepend(str(Path(script).resolve().parent))
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):  # a message, which the interpreter writes
                print(code, file=sys.stderr)
                code = 1
    return Done(code or 0, out.getvalue(), err.getvalue())


def output(command):
    """The lines of a script that ends well."""
    done = run_script(command)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def run_python(script, env=None, cwd=None, code=0):
    """What `python -c` gives, in a process of its own that ends with this exit code within two minutes."""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == code, run.stderr
    return Done(run.returncode, run.stdout, run.stderr)


def children(pid=None):
    """Processes that this one, or another, started and that still run."""
    with subprocess.Popen(["ps", "-A", "-o", "ppid=,pid="], stdout=subprocess.PIPE, text=True) as ps:
        rows = [map(int, line.split()) for line in ps.communicate()[0].splitlines()]
    return {child for parent, child in rows if parent == (pid or os.getpid())} - {ps.pid}


@contextmanager
def time_limit(seconds):
    """What would wait for ever becomes an error."""

    def give_up(*about):
        raise TimeoutError("it takes for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def free_port():
    """A port of this machine that nothing listens at."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]
