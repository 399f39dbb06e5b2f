"""Reader processes: in order, replaced when they die, ended when they hang, gone when the work is done."""

import io
import os
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from facepcl.data import worker_main, workers
from facepcl.data.sources import Item
from facepcl.data.workers import Reader, Readers
from facepcl.errors import ReaderError, RemoteError
from facepcl.images.decode import decode_reduced
from facepcl.images.transform import Transform
from facepcl.utils.interpreter import find_interpreter

TRANSFORM = Transform.square(16)


def encoded(seed, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def items(tmp_path):
    """Files and members of shards in turn, with a few that are none."""
    found = []
    for i in range(12):
        if i % 2:
            found.append(Item(f"s.tar/{i}.png", encoded(i)))
        else:
            (tmp_path / f"{i}.png").write_bytes(encoded(i))
            found.append(Item(str(tmp_path / f"{i}.png")))
    found[3] = Item("s.tar/3.png", b"no picture")
    found[6] = Item(str(tmp_path / "gone.png"))
    found[9] = Item("s.tar", error="the shard is cut off")
    return found


@pytest.fixture
def reader():
    one = Reader(TRANSFORM)
    yield one
    one.kill(for_good=True)
    one.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_pixels_are_those_of_this_process_and_reasons_keep_their_places(items, reader):
    found = reader.prepare(items)
    assert [p.path for p in found] == [item.path for item in items]
    for item, prepared in zip(items, found, strict=True):
        if prepared.error is None:
            assert (prepared.pixels == TRANSFORM(*decode_reduced(item.read(), TRANSFORM.needed))).all()
            assert prepared.size == (24, 20)
    assert [p.error for p in (found[3], found[6], found[9])] == [
        "not an image in a format that Pillow reads",
        "there is no such file",
        "the shard is cut off",
    ]
    assert sum(p.error is not None for p in found) == 3


def test_a_name_that_is_not_utf8_is_read(tmp_path, reader):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(path, "wb") as file:
        file.write(encoded(0))
    (found,) = reader.prepare([Item(os.fsdecode(path))])
    assert found.error is None


@pytest.mark.slow
def test_readers_that_are_killed_lose_nothing(items, monkeypatch):
    """Killed again and again while they work; every image comes once, in order, as if nothing had been."""
    monkeypatch.setattr(workers, "TRIES", 1000)  # a slow machine is killed over the same image, which is fine
    with Readers(TRANSFORM, 2) as pool:
        wanted = [pool.submit(items).result() for _ in range(2)][1]
        futures = [pool.submit(items) for _ in range(600)]
        killed, random = 0, np.random.default_rng(0)
        while killed < 6 or not all(future.done() for future in futures):
            if all(future.done() for future in futures):  # a fast machine
                futures += [pool.submit(items) for _ in range(100)]
            time.sleep(random.uniform(0, 0.2))
            one = pool._all[killed % 2]
            if one._process and one._is_ready:
                os.kill(one._process.pid, signal.SIGKILL)
                killed += 1
        for future in futures:
            for a, b in zip(future.result(), wanted, strict=True):
                assert (a.path, a.size, a.error) == (b.path, b.size, b.error)
                assert a.error or (a.pixels == b.pixels).all()


def test_an_image_that_kills_its_reader_becomes_a_reason(monkeypatch, items, reader):
    monkeypatch.setattr(workers, "_BOOT", workers._BOOT.replace(
        "from facepcl.data.worker_main import serve",
        "import os, facepcl.data.worker_main as r\n"
        "decode = r.decode_reduced\n"
        "r.decode_reduced = lambda d, n: os.abort() if d == b'killer' else decode(d, n)\n"
        "serve = r.serve",
    ))  # fmt: skip
    items[5] = Item("s.tar/5.png", b"killer")
    found = reader.prepare(items)
    assert found[5].error == f"the process that decoded it died (signal {int(signal.SIGABRT)})"
    assert sum(p.error is not None for p in found) == 4


@pytest.mark.slow
def test_an_image_that_hangs_is_given_up(monkeypatch, items):
    monkeypatch.setattr(workers, "SECONDS_AN_IMAGE", 2.0)
    monkeypatch.setattr(workers, "_BOOT", workers._BOOT.replace(
        "from facepcl.data.worker_main import serve",
        "import time, facepcl.data.worker_main as r\n"
        "decode = r.decode_reduced\n"
        "r.decode_reduced = lambda d, n: time.sleep(1000) if d == b'hangs' else decode(d, n)\n"
        "serve = r.serve",
    ))  # fmt: skip
    items[5] = Item("s.tar/5.png", b"hangs")
    start = time.monotonic()
    with Readers(TRANSFORM, 1) as pool:
        found = pool.submit(items).result()
    assert found[5].error == "not decoded within 2 s"
    assert sum(p.error is not None for p in found) == 4
    assert time.monotonic() - start < 30


@pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")
def test_a_drive_that_hangs_is_an_error_and_no_bad_image(items, monkeypatch, reader):
    """A lease keeps others waiting in open(), as a network drive does whose server is gone."""
    import fcntl

    monkeypatch.setattr(workers, "SECONDS_A_READ", 0.5)
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody waits
    with open(items[4].path, "rb+") as held:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(
            RemoteError, match=r"4\.png cannot be read: no answer for 0\.5 s; check the drive"
        ):
            reader.prepare(items)
    signal.signal(signal.SIGIO, handler)
    assert reader.prepare(items[4:5])[0].error is None


def test_a_reader_that_never_starts_is_an_error_not_a_bad_image(monkeypatch, reader):
    monkeypatch.setattr(workers, "_BOOT", "import sys; sys.exit(3)")
    with pytest.raises(ReaderError, match=r"does not start.*exit code 3"):
        reader.prepare([Item("a.png", encoded(0))])


def test_an_image_that_fails_without_a_word_has_a_reason(monkeypatch):
    monkeypatch.setattr(worker_main, "_answer", Mock(side_effect=KeyError))
    answer = worker_main.answerer(TRANSFORM, None)
    assert answer(Item("a.png", b"x")) == ({"error": "cannot be prepared: KeyError"}, b"")


def test_no_process_is_left_when_the_work_ends_early(items):
    with Readers(TRANSFORM, 2) as pool:
        pool.submit(items).result()
        for _ in range(100):
            pool.submit(items)
        pids = [one._process.pid for one in pool._all if one._process]
    assert pids
    assert not any(alive(pid) for pid in pids)


def test_readers_end_with_a_process_that_is_killed(tmp_path):
    script = """
import os, signal
from facepcl.images.transform import Transform
from facepcl.utils.interpreter import find_interpreter
from facepcl.data.workers import Reader
from facepcl.data.sources import Item
reader = Reader(Transform.square(16))
reader.prepare([Item("a", b"")])
print(reader._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    pid = int(run.stdout)
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_a_path_that_is_no_text_is_not_imported_from(items, tmp_path, monkeypatch, reader):
    """Python ignores a `Path` on its path, which notebooks put there."""
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    assert [found.error is None for found in reader.prepare(items)].count(True) == 9


@pytest.mark.parametrize("entry", ["", "."])
def test_a_reader_imports_no_file_of_the_working_folder(items, tmp_path, monkeypatch, reader, entry):
    """A folder of photos may come from anybody, and its json.py with it; "" and the folder are on the path of
    an interactive interpreter and of `python -m`."""
    for name in ("json", "types", "numpy", "PIL", "facepcl"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry and str(tmp_path), *sys.path])
    assert [found.error is None for found in reader.prepare(items)].count(True) == 9
    assert not (tmp_path / "ran").exists()


def test_a_reader_loads_no_torch(items, tmp_path, monkeypatch, reader):
    path = tmp_path / "loaded"
    monkeypatch.setattr(
        workers, "_BOOT", workers._BOOT + f"\nopen({str(path)!r}, 'w').write(' '.join(sys.modules))"
    )
    reader.prepare(items)
    reader._requests.close()  # the end of its input ends it
    reader._process.wait(10)
    loaded = path.read_text().split()
    assert "PIL.Image" in loaded
    assert not {"torch", "torchvision", "timm"} & set(loaded)


def test_a_frame_around_the_image_is_filled_alike_in_a_reader(items):
    """Of models whose config says `crop_mode` border; what is sent to a process is JSON, whose tuples are
    lists."""
    framed = Transform(16, 24, 16, 24, "border", fill=(1, 2, 3))
    with Readers(framed, 1) as readers:
        (found,) = readers.submit(items[:1]).result()
    assert (found.pixels == framed(*decode_reduced(items[0].read(), framed.needed))).all()
    assert (found.pixels[:, 0] == (1, 2, 3)).all()


def host_program(folder):
    """A program that is no Python, counts how often it is started, and stays."""
    host = folder / "server"
    host.write_text(f"#!/bin/sh\necho started >> {folder / 'started'}\nexec sleep 60\n")
    host.chmod(0o755)
    return str(host)


@pytest.mark.parametrize("executable", ["", None, "host"])
@pytest.mark.parametrize("prefix", ["with an interpreter", "without one"])
def test_a_program_that_embeds_python_is_not_started_again(
    items, tmp_path, monkeypatch, caplog, executable, prefix
):
    monkeypatch.setattr(sys, "executable", host_program(tmp_path) if executable == "host" else executable)
    if prefix == "without one":
        monkeypatch.setattr(sys, "prefix", str(tmp_path))
        monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with Readers(TRANSFORM, 2) as pool:
        found = pool.submit(items).result()
    assert sum(p.error is None for p in found) == 9
    assert not (tmp_path / "started").exists()
    in_this_process = "decoded in this process" in caplog.text
    assert in_this_process == (prefix == "without one")


def test_a_frozen_program_decodes_itself(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert find_interpreter() is None


def test_without_readers_images_are_decoded_in_this_process(items, monkeypatch):
    wanted = Reader(TRANSFORM).prepare(items)
    monkeypatch.setattr(subprocess, "Popen", None)
    with Readers(TRANSFORM, 0) as pool:
        found = pool.submit(items).result()
    for a, b in zip(found, wanted, strict=True):
        assert (a.path, a.size, a.error) == (b.path, b.size, b.error)
        assert a.error or (a.pixels == b.pixels).all()


def test_as_many_readers_start_as_there_is_work_for(items):
    with Readers(TRANSFORM, 32) as pool:
        for _ in range(3):
            pool.submit(items).result()
        assert sum(one._process is not None for one in pool._all) == 1
