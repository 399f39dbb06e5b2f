"""Shards that are read while a run trains: the same batches for any number of processes, each image once an
epoch, on from where a run was stopped, and past what is broken."""

import io
import json
import os
import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from helpers import training
from helpers.files import pack
from helpers.scripts import children
from helpers.training import as_options, assert_same, end_of, in_processes, log_of, stop_in_step
from PIL import Image

from facepcl.cli import main
from facepcl.data import remote
from facepcl.errors import DataError, MissingPath, OptionError, RemoteError
from facepcl.models.io import load_tensors
from facepcl.pretrain import distributed, run, stream
from facepcl.pretrain.checkpoints import checkpoints
from facepcl.pretrain.config import Config
from facepcl.pretrain.rng import permutation
from facepcl.pretrain.stream import SHARDS, Stream, survey

CPU = torch.device("cpu")
SHARD_COUNT, EACH_SHARD = 6, 11
SMALL = {**training.SMALL, "batch": 8, "pose_batch": 4, "source_size": 32, "steps": 4, "stream": 4}


def picture(number):
    """An image that says which it is by its colour, without loss."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (number // 256, number % 256, 100)).save(file, "PNG")
    return file.getvalue()


def numbers(images):
    """Which images of `picture` these are."""
    levels = images[:, :, 16, 16].int()
    return (256 * levels[:, 0] + levels[:, 1]).tolist()


@pytest.fixture
def shards(tmp_path):
    """Six shards of eleven images: of each a lane takes two a step, and leaves out the last."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(SHARD_COUNT):
        names = range(shard * EACH_SHARD, (shard + 1) * EACH_SHARD)
        pack(folder / f"{shard}.tar", {f"{i:03d}.png": picture(i) for i in names})
    return folder


@pytest.fixture
def config(shards, tmp_path):
    return Config(data=(str(shards),), out=str(tmp_path / "run"), **SMALL)


def opened(config, place=None, begun=None):
    stream = Stream(config, survey(config.data, config.stream, None), begun or {}, CPU)
    if place:
        stream.place = place
    return closing(stream)


def batches_of(config, steps, place=None):
    """Which images each step and its pose contrast see, `[steps, batch]`; where the lanes are after it."""
    seen, posed, places = [], [], []
    with opened(config, place) as source:
        for step in range(steps):
            seen.append(numbers(source.batch(step, 0, config.batch)))
            posed.append(numbers(source.batch(step, 2, config.pose_batch)))
            places.append(source.place)
    return torch.tensor(seen), torch.tensor(posed), places


@pytest.mark.parametrize("processes", [2, 4])
def test_batches_of_several_processes_are_those_of_one_where_it_stopped(config, monkeypatch, processes):
    seen, posed, places = batches_of(config, 30)  # three epochs
    monkeypatch.setattr(distributed, "all_gather", lambda rows: rows)  # what this one knows
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(distributed.dist, "get_rank", lambda rank=rank: rank)
        parts.append(batches_of(config, 17, places[12]))
    assert torch.equal(torch.cat([part[0] for part in parts], 1), seen[13:])
    assert torch.equal(torch.cat([part[1] for part in parts], 1), posed[13:])
    assert [lane for part in parts for lane in part[2][-1]] == places[-1]


def test_an_epoch_holds_each_image_once_and_the_next_one_in_another_order(config):
    config = replace(config, stream=2, batch=4)  # six shards are three for each of two lanes
    steps = SHARD_COUNT // 2 * (EACH_SHARD // 2)
    seen = batches_of(config, 2 * steps)[0].flatten().tolist()
    first, second = seen[: 4 * steps], seen[4 * steps :]
    for epoch in (first, second):
        assert len(set(epoch)) == len(epoch) == SHARD_COUNT * (EACH_SHARD // 2 * 2)
    assert first != second
    order_of_shards = [[image // EACH_SHARD for image in epoch[::20]] for epoch in (first, second)]
    assert order_of_shards[0] != order_of_shards[1]
    assert batches_of(replace(config, seed=1), steps)[0].flatten().tolist() != first


def test_the_pose_contrast_sees_images_of_all_lanes(config):
    seen, posed, _ = batches_of(config, 1)
    assert torch.equal(posed, seen[:, ::2])


def test_a_run_stopped_within_shards_ends_as_if_it_had_not_been(config, tmp_path, monkeypatch):
    config, others = replace(config, steps=6, method="simclr"), children()
    whole = replace(config, out=str(tmp_path / "whole"))
    run(whole)
    stop_in_step(3, config, monkeypatch, "contrast_shared", signal.SIGTERM)
    assert children() <= others
    run(replace(config, workers=2))
    assert_same(end_of(config), end_of(whole))


def test_shards_with_another_signature_are_the_same():
    old, new, other = (
        stream.Listing([f"https://h/{name}?Expires=1&Signature={signature}"], [512], 8).facts
        for name, signature in (("a.tar", "OLD"), ("a.tar", "NEW/"), ("b.tar", "OLD"))
    )
    assert old == new != other


def test_without_workers_the_process_that_trains_decodes(config):
    wanted, others = batches_of(config, 3)[0].tolist(), children()
    with opened(replace(config, workers=0)) as source:
        assert [numbers(source.batch(step, 0, 8)) for step in range(3)] == wanted
        assert children() == others


def test_a_worker_that_is_killed_is_replaced_and_changes_no_batch(config):
    wanted, others = batches_of(config, 12)[0].tolist(), children()
    with opened(replace(config, workers=2)) as source:
        for step in range(12):
            if step in (3, 7):
                for child in children() - others:
                    os.kill(child, signal.SIGKILL)
            assert numbers(source.batch(step, 0, 8)) == wanted[step]


@pytest.fixture
def behind_url(config, shards, monkeypatch):
    """The same shards on a server."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for shard in shards.iterdir():
        fs.pipe(f"/faces/{shard.name}", shard.read_bytes())
    monkeypatch.setattr(stream, "WAITS", (0.0, 0.0))
    return replace(config, data=("memory://faces",))


def failing(monkeypatch, first, last):
    """Shards cannot be read from the `first` to the `last` time that one is opened."""
    real, opened = remote.RemoteFile.read, []

    def read(self, size=-1):
        if self not in opened:
            opened.append(self)
        if first <= opened.index(self) + 1 <= last:
            raise RemoteError(f"{self.url} cannot be read: connection reset")
        return real(self, size)

    monkeypatch.setattr(remote.RemoteFile, "read", read)


def test_a_server_gives_the_batches_of_local_files_also_where_it_is_asked_again(
    config, behind_url, monkeypatch
):
    wanted = batches_of(config, 8)[0]
    failing(monkeypatch, 2, 3)
    assert torch.equal(batches_of(behind_url, 8)[0], wanted)
    with opened(config) as source, opened(behind_url, begun=source.facts):
        pass  # the same shards, wherever they lie


@pytest.mark.slow
def test_a_server_that_is_gone_ends_the_run_where_it_is_and_the_same_command_goes_on(
    behind_url, tmp_path, monkeypatch
):
    config = replace(behind_url, steps=12, method="simclr")
    whole = replace(config, out=str(tmp_path / "whole"))
    run(whole)
    with monkeypatch.context() as patch:
        failing(patch, 10, 10_000)  # behind the one that is counted, and two of each lane
        said = r"faces/\d.tar cannot be read: connection reset; the last good checkpoint is .*-000000(\d\d)\."
        with pytest.raises(RemoteError, match=said) as error:
            run(config)
    last = checkpoints(tmp_path / "run")[-1]
    assert str(last) in str(error.value)
    log = log_of(config)
    assert last.name == f"checkpoint-{len(log):08d}.safetensors"  # no step is lost
    assert 4 < len(log) < 12
    run(config)
    assert_same(end_of(config), end_of(whole))


def test_a_process_ends_where_another_cannot_go_on(config, monkeypatch):
    with opened(config) as source:
        source.batch(0, 0, 8)
        place = source.place
        monkeypatch.setattr(
            distributed, "all_gather", lambda rows: torch.cat([rows, torch.tensor([[0, 0, 0, 1]])])
        )
        with pytest.raises(DataError, match="another process cannot continue"):
            source.batch(1, 0, 8)
        assert source.place == place


def test_what_is_broken_is_skipped_named_and_counted(config, shards, caplog, capsys):
    whole = (shards / "1.tar").read_bytes()
    (shards / "1.tar").write_bytes(whole[:4000])  # two images, and half of one
    (shards / "2.tar").write_bytes(b"no tar")
    names = {f"{i}.png": picture(i) for i in range(10)}
    pack(shards / "3.tar", {**names, "4.png": b"no image"})
    options = as_options({**SMALL, "method": "simclr", "steps": 12})
    assert main(["pretrain", str(shards), "--out", config.out, *options]) == 0
    for said in (
        "1.tar: the shard is cut off",
        "2.tar: the shard is cut off or not a tar file",
        "3.tar/4.png: ",
    ):
        assert f"skipped {shards}/{said}" in caplog.text
    counts = [line["skipped"] for line in log_of(config)]
    assert counts == sorted(counts)
    assert counts[-1] >= 3
    out = capsys.readouterr().out
    assert out.startswith(f"{counts[-1]} broken images were skipped; wrote ")


def test_shards_that_are_all_broken_end_the_run_and_do_not_hang(config, shards):
    with opened(config) as source:
        for shard in shards.iterdir():
            shard.write_bytes(b"no tar")
        with pytest.raises(DataError, match="6 shards in a row held fewer than 2 good images"):
            source.batch(0, 0, 8)


def test_the_shards_of_webdataset_are_read(config, shards):
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset (extra dev)")
    levels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    folder = shards / "written"
    pattern = str(folder / "%04d.tar")
    folder.mkdir()
    with webdataset.ShardWriter(pattern, maxcount=6, verbose=0) as writer:
        for i, pixels in enumerate(levels):
            writer.write({"__key__": f"face{i:03d}", "png": pixels, "json": {"yaw": 3}, "cls": i})
    with opened(replace(config, data=(str(folder),))) as source:
        assert source.count == 24
        seen = torch.cat([source.batch(step, 0, 8) for step in range(3)])
    assert sorted(image.sum().item() for image in seen.int()) == sorted(levels.sum((1, 2, 3)).tolist())
    assert {image.numpy().tobytes() for image in seen.permute(0, 2, 3, 1)} == {i.tobytes() for i in levels}


def test_a_resnet_gets_the_statistics_of_as_many_shards_as_it_takes(config):
    encoder = run(replace(config, model="pcl_resnet18", method="simclr", steps=1))
    with opened(config) as source:
        assert numbers(source.sample(2048)) == list(range(SHARD_COUNT * EACH_SHARD))
        assert len(numbers(source.sample(40))) == 2 * EACH_SHARD
        assert numbers(source.sample(4)) == [0, 3, 6, 9]
    assert load_tensors(encoder / "model.safetensors")["bn1.running_mean"].abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"method": "labels"},
            OptionError,
            "--method labels needs .* leave out --stream 4",
        ),
        ({"batch": 10}, OptionError, "--batch must be a multiple of --stream 4"),
        ({"pose_batch": 12}, OptionError, "--pose-batch must be at most --batch 8, not 12"),
        ({"stream": 8}, DataError, "--stream 8 needs as many shards, and there are 6; lower it"),
        ({"batch": 64}, DataError, "shards of about 11 images are too small: each step takes 16"),
        ({"data": ("nowhere",)}, MissingPath, "nowhere: there is no such file or folder"),
        ({"data": ("nowhere.tar",)}, MissingPath, "nowhere.tar: there is no such file or folder"),
        (
            {"data": ("memory://shards",), "stream": 0},
            OptionError,
            "behind URLs are read with --stream",
        ),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(config, tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        run(replace(config, **changes))
    assert not (tmp_path / "run").exists()


def test_loose_images_and_empty_shards_are_refused(config, shards, tmp_path):
    (shards / "x.png").write_bytes(picture(0))
    with pytest.raises(OptionError, match=r"x\.png: --stream reads only \.tar shards; pack the images"):
        run(config)
    pack(tmp_path / "empty.tar", {"readme.txt": b"x"})
    with pytest.raises(DataError, match="no images to train on"):
        run(replace(config, data=(str(tmp_path / "empty.tar"),), stream=1))


def test_processes_that_cannot_share_the_lanes_are_refused(config, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 8)
    with pytest.raises(OptionError, match="--stream must be a multiple of 8, the number of processes, not 4"):
        distributed.check_batches(replace(config, pose_batch=8).batches)


def test_a_run_goes_on_with_the_shards_it_was_begun_with(config, shards):
    run(replace(config, steps=1, method="simclr"))
    said = r"was started with 6 shards of [0-9,]+ bytes, but DATA .* 6 shards of .* with other names or sizes"
    (shards / "5.tar").rename(shards / "6.tar")
    with pytest.raises(DataError, match=said):
        run(replace(config, steps=1, method="simclr"))
    (shards / "6.tar").unlink()
    with pytest.raises(DataError, match=r"6 shards of .* bytes, but DATA now holds 5 shards of"):
        run(replace(config, steps=1, method="simclr"))


def watched(rank, config, folder):
    """A run that notes which shards this process opens."""

    def note(event, arguments):
        if event == "open" and str(arguments[0]).endswith(".tar"):
            with open(folder / f"read-by-{rank}", "a") as file:
                file.write(os.path.basename(arguments[0]) + "\n")

    sys.addaudithook(note)
    run(config)


@pytest.mark.slow
def test_two_processes_read_their_own_shards(config, tmp_path):
    config = replace(config, stream=2, batch=4, pose_batch=2, steps=2)
    in_processes(watched, config, tmp_path)
    order = permutation(SHARD_COUNT, config.seed, SHARDS, 0).tolist()
    first, second = ((tmp_path / f"read-by-{rank}").read_text().split() for rank in range(2))
    # a lane's shard and its next; the first process counts those of the first shard of all
    assert sorted(first) == sorted(f"{i}.tar" for i in (0, order[0], order[2]))
    assert sorted(second) == sorted(f"{i}.tar" for i in (order[1], order[3]))
    assert [line["step"] for line in log_of(config)] == [1, 2]
    saved = checkpoints(Path(config.out))[-1]
    with open(saved, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    assert json.loads(header["progress"])["place"] == [[0, 4, 0], [0, 4, 0]]
