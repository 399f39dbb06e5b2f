"""Jobs that are stopped by Ctrl-C, and jobs in processes that can be killed: forked from one that has loaded
torch, so that they start at once."""

import subprocess
import sys
from contextlib import contextmanager

import pytest


@contextmanager
def stopping_after(writer, count, error=KeyboardInterrupt):
    """A job ends with `error`, Ctrl-C's, where this class of writer would take a result more than so many."""
    take, taken = writer.take, []

    def counting(self, result):
        if len(taken) == count:
            raise error
        taken.append(result)
        return take(self, result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "take", counting)
        with pytest.raises(error):
            yield


SERVER = """
import os, sys, traceback
{setup}
print("ready", flush=True)
for line in sys.stdin:
    command, *words = line.split()
    if command == "wait":
        print(os.waitstatus_to_exitcode(os.waitpid(int(words[0]), 0)[1]), flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        try:
            {job}
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
"""


class ForkedJobs:
    """`pid = jobs.start("words")` runs the code `job` with these `words`; `jobs.wait(pid)` is its exit code,
    negative after a signal."""

    def __init__(self, server):
        self._server = server

    def start(self, *words):
        return self._ask("start", *words)

    def wait(self, pid):
        return self._ask("wait", pid)

    def run(self, *words):
        return self.wait(self.start(*words))

    def _ask(self, *words):
        print(*words, file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


@contextmanager
def forked_jobs(setup, job, cwd):
    """Run the code `setup` once, in the folder `cwd`, and `job` in each process that is started."""
    code = SERVER.format(setup=setup, job=job)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout.readline() == "ready\n"
        yield ForkedJobs(server)
        server.stdin.close()
