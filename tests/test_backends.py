"""Whatever runs the network gives the same codes, and what does not work says so."""

import shutil
import time
from contextlib import contextmanager
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from facepcl.data.sources import Item
from facepcl.embedding.backends import make_run
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.encoder import Encoder
from facepcl.errors import OptionError
from facepcl.utils import device


def pixels(count):
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("branch", ["shared", "concat"])
def test_a_trace_equals_the_network_for_any_batch(model, dtype, branch):
    eager, trace = (Encoder(model, branch, dtype=dtype, backend=b) for b in ("eager", "trace"))
    assert trace.meta["backend"] == "trace"
    for count in (1, 2, 7):
        a, b = (e.vectors(e.maps(pixels(count))) for e in (eager, trace))
        # the same operations, but a frozen trace may join two of them
        assert np.abs(a - b).max() < (1e-5 if dtype == "float32" else 0.02) * np.abs(a).max()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_takes_batches_of_other_sizes(model):
    torch._dynamo.utils.counters.clear()  # other tests of this process compile too
    eager, compiled = (Encoder(model, dtype="float32", backend=b, batch_size=4) for b in ("eager", "compile"))
    assert compiled.batches_at_once == 1
    for count in (4, 1, 3, 6):
        a, b = (e.vectors(e.maps(pixels(count))) for e in (eager, compiled))
        assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # no size was compiled anew


class OnItsSize(nn.Module):
    """What a trace gets wrong: it takes the way of the images it was traced with."""

    def forward(self, x):
        return (x * 2 if x.shape[0] == 1 else x * 3,)


def test_auto_runs_a_network_that_cannot_be_traced_as_it_is():
    sample = torch.rand(2, 3, 8, 8)
    run, how = make_run(OnItsSize().eval(), sample, "auto", 2)
    assert how == "eager"
    assert torch.equal(run(sample)[0], sample * 3)
    with pytest.raises(OptionError, match="backend 'trace' does not work for this network"):
        make_run(OnItsSize().eval(), sample, "trace", 2)


def test_onnx_is_refused_where_it_gives_other_numbers():
    pytest.importorskip("onnxruntime", reason="needs the extra facepcl[onnx]")
    with pytest.raises(
        OptionError, match=r"backend 'onnx' does not work .* differ from the network's by 5.0e-01"
    ):
        make_run(OnItsSize().eval(), torch.rand(2, 3, 8, 8), "onnx", 2)


class OnePercentOff(nn.Module):
    """Traced with one image, and off by a hundredth with two."""

    def forward(self, x):
        return (x * 2 if x.shape[0] == 1 else x * 2.02,)


def test_a_trace_may_be_off_by_the_rounding_of_its_own_dtype():
    sample = torch.rand(2, 3, 8, 8)
    assert make_run(OnePercentOff().eval(), sample, "auto", 2)[1] == "eager"
    assert make_run(OnePercentOff().eval(), sample.bfloat16(), "auto", 2)[1] == "trace"


def test_wrong_names_say_the_right_ones(model):
    with pytest.raises(
        OptionError, match=r"Unknown backend 'magic'\. Available: auto, eager, trace, compile, onnx"
    ):
        FaceEmbedder(model, backend="magic")
    with pytest.raises(
        OptionError,
        match=r"Unknown dtype 'float8'\. Did you mean 'float32'\? Available: auto, float32, bfloat16, int8$",
    ):
        FaceEmbedder(model, dtype="float8")


def test_a_device_that_fails_without_a_word_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(torch, "zeros", Mock(side_effect=AssertionError))
    with pytest.raises(OptionError, match=r"^device 'cuda' cannot be used: AssertionError$"):
        device.find_device("cuda")


@pytest.mark.parametrize(("faster", "units"), [("bfloat16", True), ("float32", True), ("bfloat16", False)])
def test_auto_takes_bfloat16_where_there_are_units_and_a_timing_agrees(monkeypatch, faster, units):
    class Timed(nn.Module):
        def forward(self, x):
            time.sleep(0.002 if torch.is_autocast_enabled("cpu") == (faster == "bfloat16") else 0.02)
            return x

    monkeypatch.setattr(device, "has_bfloat16_units", lambda: units)
    found = device.inference_dtype("auto", Timed(), torch.zeros(1))
    assert found == (torch.bfloat16 if faster == "bfloat16" and units else torch.float32)


def test_batches_side_by_side_change_neither_order_nor_vectors(monkeypatch, model, tmp_path):
    from PIL import Image

    for i, image in enumerate(pixels(30)):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
    items = [Item(str(path)) for path in sorted(tmp_path.iterdir())]
    embedder = FaceEmbedder(model, dtype="float32", batch_size=2)
    tables = []
    for at_once in (1, 4):
        monkeypatch.setattr(Encoder, "batches_at_once", at_once)
        batches = list(embedder.batches(items, 2, all_branches=True))
        tables.append(([p for b in batches for p in b.rows.paths], [b.rows.vectors for b in batches]))
    assert tables[0][0] == tables[1][0] == [item.path for item in items]
    assert np.array_equal(np.concatenate(tables[0][1]), np.concatenate(tables[1][1]))


@contextmanager
def changed(get, set_to, value):
    """One of torch's settings, for a while."""
    before = get()
    set_to(value)
    try:
        yield
    finally:
        set_to(before)


STATES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "another default device": lambda: torch.device("meta"),
    "another default dtype": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "a default dtype of 16 bits": lambda: changed(
        torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16
    ),
    "deterministic algorithms": lambda: changed(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "another number of threads": lambda: changed(torch.get_num_threads, torch.set_num_threads, 3),
}


@pytest.mark.parametrize("backend", ["eager", pytest.param("trace", marks=pytest.mark.slow)])
@pytest.mark.parametrize("state", STATES)
def test_what_the_caller_has_set_in_torch_changes_no_embedding(model, state, backend):
    def make():
        return Encoder(model, "concat", dtype="float32", backend=backend)

    def embed(encoder):
        return encoder.vectors(encoder.maps(pixels(3)))

    before = make()
    wanted = embed(before)
    with STATES[state]():
        made_inside = make()
        found = [embed(before), embed(made_inside)]
    found.append(embed(made_inside))
    assert made_inside.meta == before.meta
    for vectors in found:
        # as many threads sum in another order
        np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
