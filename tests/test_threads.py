"""One object in eight threads, as in a server, and in a child that is forked: each call gives what it gives
alone."""

import multiprocessing
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.files import FACES, photo_of
from helpers.scripts import run_python

import facepcl
from facepcl.errors import OptionError
from facepcl.utils.torch_state import default_torch_state

THREADS = 8
ALONE = 1e-5  # of the largest number: a batch's sums may have another order
FORK = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs os.fork")


def together(call, arguments):
    """call(argument) for each, by threads that begin at once."""
    start = threading.Barrier(THREADS)

    def one(share):
        start.wait(60)
        return [call(argument) for argument in share]

    shares = [arguments[place::THREADS] for place in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        results = list(threads.map(one, shares))
    return [results[place % THREADS][place // THREADS] for place in range(len(arguments))]


def assert_as_alone(call, arguments):
    for found, argument in zip(together(call, arguments), arguments, strict=True):
        wanted = call(argument)
        assert np.abs(found - wanted).max() <= ALONE * np.abs(wanted).max()


def test_threads_that_compute_at_once_leave_torch_as_the_program_set_it():
    """One that begins within another's work and ends after it must neither keep nor disturb its defaults."""
    first_ends, second_begins = threading.Event(), threading.Event()

    def first():
        with default_torch_state():
            second_begins.wait(60)
        first_ends.set()

    torch.set_default_dtype(torch.float64)
    try:
        with ThreadPoolExecutor() as threads:
            done = threads.submit(first)
            while torch.get_default_dtype() != torch.float32:
                time.sleep(0.001)
            with default_torch_state():
                second_begins.set()
                first_ends.wait(60)
                assert torch.get_default_dtype() == torch.float32
            done.result()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def photos():
    """Photos of different sizes, each of another person."""
    return [photo_of(1, first=n, size=(500 + 40 * n, 420 + 30 * (n % 3))) for n in range(16)]


SLOW_BACKENDS = [pytest.param(name, marks=pytest.mark.slow) for name in ("compile", "onnx")]


@pytest.mark.parametrize("backend", ["eager", "trace", *SLOW_BACKENDS])
def test_threads_share_an_embedder(backend):
    embedder = facepcl.FaceEmbedder("pcl_facecycle", branch="concat", dtype="float32", backend=backend)
    assert_as_alone(embedder, [FACES[n : n + 1 + n % 3] for n in range(16)])


def test_threads_share_an_embedder_that_was_just_copied():
    """Its network is traced by whichever call comes first."""
    embedder = facepcl.FaceEmbedder("pcl_facecycle", dtype="float32", backend="trace")
    wanted = embedder(FACES[:8])
    embedder.__setstate__(embedder.__getstate__())
    found = together(lambda face: embedder([face])[0], FACES[:8])
    assert np.abs(np.stack(found) - wanted).max() <= ALONE * np.abs(wanted).max()


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_threads_share_an_embedder_that_finds_faces(detector, photos, times):
    embedder = facepcl.FaceEmbedder("pcl_facecycle", dtype="float32", align=True, detector=detector)
    assert_as_alone(lambda photo: embedder([photo]), photos * times)


def test_threads_stream_from_one_embedder():
    embedder = facepcl.FaceEmbedder("pcl_facecycle", dtype="float32")

    def vectors(faces):
        return np.stack([row.vector for row in embedder.stream(faces, workers=0)])

    assert_as_alone(vectors, [FACES[n : n + 3] for n in range(16)])


def test_calls_leave_the_warning_filters_alone(model):
    """`warnings.catch_warnings` in threads restores the filters of another thread."""
    embedder = facepcl.FaceEmbedder(model)
    before = list(warnings.filters)
    together(lambda face: embedder([face]), FACES[:16])
    assert warnings.filters == before


@FORK
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "trace", "onnx"])
def test_a_forked_child_embeds(backend):
    """As under gunicorn --preload, in multiprocessing's pools and in the map of `datasets`."""
    script = f"""
import multiprocessing, sys
import numpy as np, torch
import facepcl
torch.set_num_threads(2)
faces = {[str(face) for face in FACES[:4]]}
embedder = facepcl.FaceEmbedder("pcl_facecycle", dtype="float32", backend={backend!r})
wanted = embedder(faces)
streamed = [row.vector for row in embedder.stream(faces, workers=1)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(embedder.__call__, [faces, faces]).get(60)
assert all(np.abs(vectors - wanted).max() <= {ALONE} * np.abs(wanted).max() for vectors in found)
"""
    assert run_python(script).stderr == ""


@FORK
def test_a_forked_child_of_a_compiled_embedder_gets_a_sentence(model):
    embedder = facepcl.FaceEmbedder(model, dtype="float32")
    embedder._backend = "compile"  # as if; compiling takes a minute
    child = os.fork()
    if child == 0:
        try:
            embedder(FACES[:1])
        except OptionError as error:
            os._exit(7 if "create it in the child" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
