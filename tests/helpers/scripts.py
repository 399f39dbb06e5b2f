"""Scripts run as they are typed, in this process: a new one would spend seconds importing torch."""

import io
import runpy
import shlex
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
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


def free_port():
    """A port of this machine that nothing listens at."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]
