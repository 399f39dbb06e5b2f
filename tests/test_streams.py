"""Commands and calls where standard streams are missing, closed, full or in another encoding."""

import io
import os
import subprocess
import sys

import pytest
from helpers.files import put_face

import facepcl
from facepcl.utils.progress import Progress
from facepcl.utils.streams import say

POSIX = pytest.mark.skipif(os.name == "nt", reason="closes streams as a POSIX shell does")


def shell(line, folder, **environ):
    """Run a line of the shell in which `facepcl` is this package."""
    line = line.replace("facepcl ", f'"{sys.executable}" -m facepcl ')
    path = os.pathsep.join(p for p in sys.path if p)
    environ = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("streams", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/null 2>/dev/full"])
def test_a_command_without_streams_does_its_work(tmp_path, streams):
    for number in range(3):
        put_face(tmp_path / f"photos/{number}.jpg", number)
    (tmp_path / "photos/bad.jpg").write_bytes(b"none")  # its reason goes to stderr
    done = shell(f"facepcl embed photos -o out.npz --workers 1 {streams}", tmp_path)
    table = facepcl.read_embeddings(tmp_path / "out.npz")
    assert [error is None for error in table.errors] == [True, True, True, False]
    assert done.returncode == 1  # one image failed


@POSIX
def test_a_full_stdout_is_one_sentence(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    done = shell("facepcl models >/dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "facepcl: [Errno 28] No space left on device\n"


@pytest.mark.slow
@POSIX
def test_names_that_the_encoding_lacks_are_escaped(tmp_path):
    put_face(tmp_path / "face.jpg")
    done = shell("facepcl embed face.jpg -o gelöscht.npz", tmp_path, PYTHONIOENCODING="ascii")
    assert done.stdout.startswith(r"wrote gel\xf6scht.npz: 1 embedded")
    assert done.returncode == 0


@pytest.mark.parametrize("stream", ["missing", "closed", "full", "without isatty"])
def test_progress_needs_no_stderr(monkeypatch, stream):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    class Plain:
        def write(self, text):
            pass

        def flush(self):
            pass

    kinds = {"missing": None, "closed": io.StringIO(), "full": Full(), "without isatty": Plain()}
    kinds["closed"].close()
    monkeypatch.setattr(sys, "stderr", kinds[stream])
    with Progress(3, "images", enabled=True) as bar:
        bar.update(3)
    assert bar.done == 3


def test_messages_never_go_to_stdout(monkeypatch, capsys):
    """print() writes to stdout where the stream that it is given is None."""
    monkeypatch.setattr(sys, "stderr", None)
    say("a message")
    assert capsys.readouterr().out == ""


IN_PYTHON = f"\"{sys.executable}\" -c 'from facepcl.cli import main; raise SystemExit(main())'"


@POSIX
@pytest.mark.parametrize("command", ["facepcl", IN_PYTHON], ids=["typed", "called"])
def test_help_needs_no_streams(tmp_path, command):
    assert shell(f"{command} --help >&- 2>&-", tmp_path).returncode == 0
