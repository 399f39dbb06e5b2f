"""Damaged files end in what they hold or in a named error; what `tools/fuzz` found, and that it finds."""

import io
import logging
import shutil
import signal
import zipfile

import numpy as np
import pytest
import torch
from fuzz import command
from fuzz.subjects import SUBJECTS
from helpers.files import changed_encoder
from helpers.scripts import time_limit

import facepcl
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.tables import write_table
from facepcl.errors import FacepclError, OptionError, TableError, WeightsError
from facepcl.hub.torch_checkpoint import read_checkpoint
from facepcl.models.io import save_tensors
from facepcl.pretrain.checkpoints import load_checkpoint, save_checkpoint

CASES = 600  # of all subjects together; `make soak` has 100,000


@pytest.fixture
def _ends(caplog):
    """A case that takes longer than a minute is a failure, not a test that hangs."""
    caplog.set_level(logging.CRITICAL)
    with time_limit(60):
        yield


@pytest.mark.usefixtures("_ends")
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_damaged_files_end_in_what_they_hold_or_in_a_named_error(subject, tmp_path, capfd):
    seeds, refused = subject.seeds(), 0
    for data in seeds:
        subject.run(data, tmp_path)
    count = max(12, CASES * subject.share // 100)
    for number in range(count):
        data = subject.case(seeds, 0, number)
        try:
            subject.run(data, tmp_path)
        except FacepclError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"python tools/fuzz --only '{subject.name}', case {number}") from error
        signal.alarm(60)
    assert 0 < refused < count + 1  # some are damaged enough


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tool(code) -> the outcomes of a child that does this in its first case."""

    def drive(code):
        (tmp_path / "fuzz").mkdir()
        (tmp_path / "fuzz/__main__.py").write_text(
            f"import json, os, time\nprint(json.dumps({{'begins': 0}}), flush=True)\n{code}\n"
        )
        monkeypatch.setattr(command, "TOOLS", tmp_path)
        monkeypatch.setattr(command, "SECONDS", 2.0)
        return command._drive("png", 0, 0, 1)[0]

    return drive


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("os.abort()", "crash", "exit code -6"),
        ("time.sleep(100)", "hang", "longer than 2 s"),
        (
            "print(json.dumps({'ended': ['other error', 'KeyError: 1'], 'mb': 9}))",
            "other error",
            "KeyError: 1",
        ),
    ],
)
def test_the_tool_tells_a_crash_a_hang_and_another_error(tool, code, kind, words):
    assert tool(code) == [(kind, words)]


def test_the_same_seed_makes_the_same_files():
    subject = next(s for s in SUBJECTS if s.name == "png")
    seeds = subject.seeds()
    cases = [subject.case(seeds, 3, number) for number in range(30)]
    assert cases == [subject.case(seeds, 3, number) for number in range(30)]
    assert len(set(cases)) > 25
    assert cases != [subject.case(seeds, 4, number) for number in range(30)]


# -- found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pretrained_cfg": {"num_clasqes": 0}}, "timm cannot make what its config.json describes"),
        ({"model_args": {"in_chans": "x" * 300}}, "in_chans in its config.json is 'xxx"),
        (
            {"model_args": {"num_classes": 1 << 40}},
            "num_classes in its config.json is 1099511627776",
        ),
        ({"model_args": {"num_classes": -1}}, "num_classes in its config.json is -1"),
        ({"facepcl": {"branches": "x" * 300}, "model_args": {"branches": True}}, "not branches.safetensors"),
        ({"facepcl": {"branches": "../b.safetensors"}}, "names '../b.safetensors', not branches.safetensors"),
        ({"model_args": [1]}, "does not describe a model"),
        ({"pretrained_cfg": None}, "does not describe a model"),
        ({"architecture": ["pcl_facecycle"]}, "not one of facepcl's"),
    ],
)
def test_a_config_that_timm_cannot_make_is_a_named_error(encoders, tmp_path, change, said):
    folder = changed_encoder(encoders("pcl_facecycle")[1], tmp_path / "encoder", change)
    with pytest.raises(WeightsError, match=said):
        facepcl.create_model(f"local-dir:{folder}")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "\udcff", '{"a": '])
def test_a_config_that_is_no_object_is_a_named_error(encoders, tmp_path, text):
    (tmp_path / "config.json").write_text(text, "utf-8", "surrogateescape")
    shutil.copy(encoders("pcl_facecycle")[1] / "model.safetensors", tmp_path)
    with pytest.raises(WeightsError, match=r"config\.json"):
        facepcl.create_model(f"local-dir:{tmp_path}")
    from facepcl.pretrain.checkpoints import check_same_run

    (tmp_path / "checkpoint-00000001.safetensors").touch()
    with pytest.raises(OptionError, match=r"config\.json"):
        check_same_run(tmp_path / "config.json", {"lr": 1})


def test_an_option_that_the_caller_got_wrong_is_still_the_callers(encoders):
    with pytest.raises(TypeError, match="colour"):
        facepcl.create_model(f"local-dir:{encoders('pcl_facecycle')[1]}", colour="red")


@pytest.fixture
def npz(tmp_path):
    """change(name, data) -> a table of three rows one of whose arrays is something else."""
    meta = {"dimension": 2, "space": "x"}
    rows = Embeddings(np.ones((3, 2), np.float32), list("abc"), [None] * 3, np.ones((3, 2), np.int32), meta)
    write_table(tmp_path / "whole.npz", meta, [rows], 3)

    def change(name, data):
        with (
            zipfile.ZipFile(tmp_path / "whole.npz") as old,
            zipfile.ZipFile(tmp_path / "t.npz", "w") as new,
        ):
            for member in old.namelist():
                new.writestr(member, data if member == f"{name}.npy" else old.read(member))
        return tmp_path / "t.npz"

    return change


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("vectors", array(np.ones((3, 2), np.float32)).replace(b"(3, 2)", b"((3, 2")),
        ("vectors", array(np.ones((4, 2), np.float32))),
        ("vectors", array(np.ones(6, np.float32))),
        ("vectors", array(np.ones((3, 2), np.float32)).replace(b"(3, 2), }    ", b"(3, 200000000000), }")),
        ("paths", array(np.array([0x7FFFFFFF] * 3, "<u4")).replace(b"<u4", b"<U1")),
        ("paths", array(np.array(["a", "b"]))),
        ("sizes", array(np.ones((3, 3), np.int32))),
        ("meta", array(np.array("[1, 2]"))),
        ("meta", array(np.array("[" * 100_000))),
    ],
)
def test_a_damaged_table_is_a_named_error(npz, name, data):
    with pytest.raises(TableError, match=r"t\.npz is not a table of embeddings \(.+\)"):
        facepcl.read_embeddings(npz(name, data))


@pytest.mark.parametrize("kind", ["checkpoint", "optimizer"])
@pytest.mark.parametrize(
    "tensors",
    [{"weight": torch.ones(3)}, {"weight": torch.ones(2, 2)}, {"a:b": torch.ones(1)}],
)
def test_a_checkpoint_of_another_run_is_a_named_error(tmp_path, kind, tensors):
    nets = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(nets.parameters())
    nets(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, 1, nets, optimizer, {})
    path = tmp_path / "checkpoint-00000001.safetensors"
    load_checkpoint(path, nets, optimizer)
    save_tensors(tensors, tmp_path / f"{kind}-00000001.safetensors", {"step": "1"})
    with pytest.raises(
        WeightsError, match=r"checkpoint-00000001\.safetensors is not a checkpoint of this run"
    ):
        load_checkpoint(path, nets, optimizer)


@pytest.mark.parametrize("new", [True, False])
def test_a_checkpoint_cut_off_anywhere_is_a_named_error(tmp_path, new):
    """torch raises IndexError, struct.error, AssertionError and more."""
    file = io.BytesIO()
    torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2)}, file, _use_new_zipfile_serialization=new)
    whole = file.getvalue()
    for end in range(1, len(whole) - 1, 7):
        (tmp_path / "c.pth").write_bytes(whole[:end])
        with pytest.raises(WeightsError, match=r"c\.pth"):
            read_checkpoint(tmp_path / "c.pth")
