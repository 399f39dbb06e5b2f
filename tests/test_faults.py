"""Faults that are brought about, not imitated: memory that runs out, disks that are full or read-only, labels
that cannot be.

Others are where their subject is: kills (test_jobs, test_pretrain_stops, test_readers, and twenty of each
in test_soak), shards that are cut off (test_sources, test_stream), bombs and hostile names (test_images,
test_strange_files), files that vanish (test_jobs, test_sources), two jobs on one output (test_jobs,
test_scale, test_pretrain).
"""

import errno
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.files import FACES, ROOT, no_room_beyond, pack
from helpers.forked_jobs import stopping_after
from helpers.scripts import children, time_limit
from torch import nn

import facepcl
from facepcl.cli import main
from facepcl.data.sources import list_entries, read_items
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.writers import TableWriter
from facepcl.errors import DataError, ImageError, OptionError, RemoteError, WriteError
from facepcl.pretrain.dataset import read_faces
from facepcl.utils.files import alone, atomic, temporary_name

TRAIN = "--batch 2 --pose-batch 2 --pose-negatives 1 --size 32 --source-size 64 --steps 2 --log-steps 1"


class Narrow(nn.Module):
    """A model whose device has memory for `room` images."""

    def __init__(self, room):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.room, self.sizes = facepcl.create_model("pcl_facecycle").eval(), room, []
        self.pretrained_cfg = self.inner.pretrained_cfg

    def forward_features(self, x):
        if torch.jit.is_tracing():
            raise RuntimeError("a trace would not ask for memory")
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has less.")
        self.sizes.append(len(x))
        return self.inner.forward_features(x)

    def shared_code(self, maps):
        return self.inner.shared_code(maps)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty files."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(40):
        shutil.copy(FACES[i % len(FACES)], folder / f"{i:02d}.jpg")
    return folder


def test_a_batch_that_does_not_fit_is_halved_once_and_said_once(photos, tmp_path, caplog):
    narrow = Narrow(8)
    options = {"dtype": "float32", "workers": 1}
    facepcl.embed(photos, tmp_path / "a.npz", model=narrow, batch_size=16, **options)
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said == ("CUDA out of memory; going on with batches of 8: add --batch-size 8 to begin with them")
    facepcl.embed(photos, tmp_path / "b.npz", model=narrow.inner, batch_size=8, **options)
    a, b = (facepcl.read_embeddings(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert a.paths == b.paths
    assert np.array_equal(a.vectors, b.vectors)  # the same batches, so the same sums


def test_memory_that_the_cpu_does_not_have_halves_a_batch_too(photos, caplog):
    """For which torch raises no OutOfMemoryError."""

    class Greedy(Narrow):
        def forward_features(self, x):
            torch.empty(2**60 if len(x) > self.room else 1, dtype=torch.uint8)
            return super().forward_features(x)

    embedder = FaceEmbedder(Greedy(8), batch_size=16, backend="eager", dtype="float32")
    assert embedder(sorted(photos.iterdir())).shape == (40, 2048)
    assert "can't allocate memory: you tried to allocate 1152921504606846976 bytes" in caplog.text
    assert "going on with batches of 8" in caplog.text


def test_a_list_that_does_not_fit_is_halved_too(photos, caplog):
    embedder = FaceEmbedder(Narrow(8), batch_size=16, backend="eager", dtype="float32")
    embedder.model.sizes.clear()
    assert embedder(sorted(photos.iterdir())).shape == (40, 2048)
    assert embedder.model.sizes == [8] * 5
    assert len(caplog.records) == 1


def test_memory_that_is_not_enough_for_half_a_batch_is_an_error(photos):
    embedder = FaceEmbedder(Narrow(2), batch_size=16, backend="eager", dtype="float32")
    with pytest.raises(OptionError, match="a batch of 8 does not fit into the memory of cpu; use a smaller"):
        embedder(sorted(photos.iterdir()))
    with pytest.raises(OptionError, match="a batch of 8 does not fit"):  # and is not halved again
        list(embedder.stream(photos))


def test_a_step_of_pretraining_that_does_not_fit_is_one_sentence(tmp_path, capsys, monkeypatch):
    def no_room(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has less.")

    monkeypatch.setattr("facepcl.pretrain.substeps.contrast_faces", no_room)
    assert main(["pretrain", str(FACES[0].parent), "--out", str(tmp_path / "run"), *TRAIN.split()]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "facepcl: a step of this run does not fit into the memory of cpu (CUDA out of memory); start again "
        "with a smaller --batch or --pose-batch"
    )


# -- codes that are not finite


def test_an_image_whose_code_is_not_finite_is_a_row_that_says_so(photos, tmp_path, monkeypatch):
    """Such as one that overflows a half-precision network; the others keep their codes."""
    facepcl.embed(photos, tmp_path / "good.npz", dtype="float32", batch_size=8)
    real = FaceEmbedder.vectors

    def overflowing(self, maps, branch=None):
        found = real(self, maps, branch)
        found[2::8, 7] = np.inf
        return found

    monkeypatch.setattr(FaceEmbedder, "vectors", overflowing)
    summary = facepcl.embed(photos, tmp_path / "bad.npz", dtype="float32", batch_size=8)
    good, bad = (facepcl.read_embeddings(tmp_path / f"{name}.npz") for name in ("good", "bad"))
    broken = np.arange(40) % 8 == 2
    assert summary.failed == 5
    assert [error is not None and "is not finite" in error for error in bad.errors] == broken.tolist()
    assert np.isnan(bad.vectors[broken]).all()
    assert np.array_equal(bad.vectors[~broken], good.vectors[~broken])


def test_damaged_weights_are_told_from_good_ones(photos):
    model = facepcl.create_model("pcl_facecycle")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    embedder = FaceEmbedder(model, dtype="float32")
    with pytest.raises(ImageError, match="item 0: the model's output for it is not finite: the weights"):
        embedder([FACES[0]])
    assert {row.error.partition(":")[0] for row in embedder.stream(photos)} == {
        "the model's output for it is not finite"
    }


# -- disks


@pytest.fixture
def disk(tmp_path):
    """disk(kilobytes) -> a small disk of its own, which can be mounted anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a disk")
        return place

    yield mount
    while subprocess.run(["umount", place], capture_output=True, check=False).returncode == 0:
        pass


def one_sentence(capsys, out, reason):
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"facepcl: {re.escape(str(out))}\S* could not be written.*{reason}.*", said[-1])
    assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet"])
def test_a_full_disk_costs_no_work_and_leaves_nothing_half_written(photos, disk, capsys, kind):
    """The parts fit (330 kB), the table beside them does not; with more room the same command goes on."""
    place = disk("size=500k")
    command = ["embed", str(photos), "-o", str(place / f"e.{kind}"), "--dtype", "float32", "--workers", "1"]
    assert main(command) == 2
    one_sentence(capsys, place / "e.", "there is no room left on the disk")
    assert {p.name for p in place.iterdir()} == {f"e.{kind}.parts"}
    disk("remount,size=8m")
    assert main([*command, "--resume"]) == 0
    assert len(facepcl.read_embeddings(place / f"e.{kind}")) == 40
    names = {f"e.{kind}"} | ({"e.csv.meta.json"} if kind == "csv" else set())
    assert {p.name for p in place.iterdir()} == names


def test_a_disk_that_is_full_at_once_says_so(photos, disk, capsys):
    place = disk("size=64k")
    assert main(["embed", str(photos), "-o", str(place / "e.npz"), "--workers", "1"]) == 2
    one_sentence(capsys, place / "e.npz", "there is no room left on the disk")
    assert list(place.iterdir()) == []


def test_a_cache_of_features_on_a_full_disk_is_one_sentence(disk, capsys, faces_folder):
    """Files in memory that find no room end a process by SIGBUS."""
    place = disk("size=16k")
    assert main(["probe", "verification", str(faces_folder), "--cache", str(place)]) == 2
    one_sentence(capsys, place, "no room left on the disk; name another folder by --cache or FACEPCL_CACHE")
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_leaves_a_run_its_last_checkpoint(disk, capsys):
    place = disk("size=300m")  # a checkpoint of 200 MB fits, a second does not
    command = ["pretrain", str(FACES[0].parent), "--out", str(place / "run"), *TRAIN.split()]
    command += ["--dtype", "float32"]
    assert main([*command, "--checkpoint-minutes", "0"]) == 2
    one_sentence(capsys, place / "run", "No space left")
    assert not list(place.rglob("*.partial"))
    (kept,) = place.glob("run/checkpoint-*")
    assert kept.name == "checkpoint-00000001.safetensors"
    disk("remount,size=700m")
    assert main(command) == 0
    facepcl.create_model(f"local-dir:{place / 'run/encoder'}")


@pytest.mark.parametrize("command", ["embed", "pretrain"])
def test_a_read_only_disk_is_said_before_the_work(photos, disk, capsys, command):
    place = disk("ro,size=1m")
    option = {"embed": "-o", "pretrain": "--out"}[command]
    assert main([command, str(photos), option, str(place / "e.npz")]) == 2
    said = capsys.readouterr().err
    assert str(place) in said
    assert re.search("the disk is read-only|cannot be written to", said)
    assert said.count("\n") == 1  # nothing was begun


def test_a_file_system_without_locks_is_worked_on_by_one_job_at_a_time(tmp_path, monkeypatch):
    def without(fd, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", without)
    with (
        pytest.warns(UserWarning, match="falling back to SoftFileLock"),
        alone(tmp_path / "run", ""),
        pytest.raises(OptionError, match="at work"),
        alone(tmp_path / "run", "another is at work"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_drive_that_refuses_locks_is_worked_on_by_one_job_at_a_time(tmp_path, monkeypatch, error):
    """As NFS does without its lock server; a lock that a killed process left is taken over."""

    def without(fd, operation):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", without)
    if not (child := os.fork()):
        with alone(tmp_path / "run", ""):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with (
        alone(tmp_path / "run", "what a killed process left is in the way"),
        pytest.raises(OptionError, match="at work"),
        alone(tmp_path / "run", "another is at work"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_drive_that_cannot_wait_for_its_disk_is_written_to(tmp_path, monkeypatch):
    def without(fd):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.fsync", without)
    with atomic(tmp_path / "t") as temporary:
        temporary.write_text("there")
    assert (tmp_path / "t").read_text() == "there"


@pytest.mark.usefixtures("small_parts")
def test_a_job_whose_list_names_images_of_a_folder_that_vanishes_ends_and_goes_on(photos, tmp_path):
    """As with a drive that is unmounted while the list is on another: there are no bad rows, but for what
    was not there from the start."""
    drive, table = tmp_path / "drive", tmp_path / "e.npz"
    shutil.copytree(photos, drive)
    lines = ["path", "never/there.jpg", *(f"drive/{i:02d}.jpg" for i in range(40))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    job = partial(facepcl.embed, tmp_path / "list.csv", dtype="float32", batch_size=8, workers=1)
    job(tmp_path / "whole.npz")
    with stopping_after(TableWriter, 3):
        job(table)
    drive.rename(tmp_path / "elsewhere")
    with pytest.raises(RemoteError, match="drive cannot be read: all that was listed there has vanished"):
        job(table, resume=True)
    (tmp_path / "elsewhere").rename(drive)
    assert job(table, resume=True).embedded == 41 - 16  # the first part was kept
    whole, found = (facepcl.read_embeddings(tmp_path / f"{name}.npz") for name in ("whole", "e"))
    assert found.errors == whole.errors == ["there is no such file, and none beside it"] + [None] * 40
    assert np.array_equal(found.vectors, whole.vectors, equal_nan=True)


# -- names


@pytest.fixture
def one_photo(tmp_path, monkeypatch):
    """A working folder with one photo, `photo.jpg`."""
    shutil.copy(FACES[0], tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet", ""])
def test_a_table_may_have_the_longest_name_that_the_file_system_allows(model, one_photo, suffix):
    """OUT.parts, the csv's metadata and temporary files have longer ones."""
    out = "x" * (255 - len(suffix)) + suffix
    facepcl.embed("photo.jpg", out, model=model, dtype="float32", workers=1)
    assert facepcl.read_embeddings(out).paths == ["photo.jpg"]
    assert {name[:24] for name in os.listdir()} == {"photo.jpg", "x" * 24}
    assert not [name for name in os.listdir() if name.endswith((".parts", ".partial"))]


@pytest.mark.parametrize(
    "command",
    [
        "embed photo.jpg -o {name}.npz",
        "embed photo.jpg -o {name}/",
        "embed photo.jpg -o t.npz --sheet {name}.png",
        "align photo.jpg {name}",
        "export pcl_facecycle {name}.pt2",
        "convert photo.jpg {name}",
        "pretrain . --steps 1 --out {name}",
        "probe verification . --out {name}",
        "probe verification . --report {name}.html",
    ],
)
def test_a_name_that_is_too_long_is_said_before_the_work(one_photo, capsys, command):
    assert main(command.format(name="x" * 300).split()) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("could not be written: the file system allows no path of this length")
    assert os.listdir() == ["photo.jpg"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("embed photo.jpg -o photo.jpg/t.npz", "a folder in its path is a file"),
        ("embed photo.jpg -o t.npz --sheet folder.png", "folder.png is a folder; name a file"),
        ("embed photo.jpg -o t.npz --sheet s.txt", "s.txt: the name of a sheet must end in .png or .jpg"),
        ("embed photo.jpg -o t.npz --sheet no/s.png", "no: there is no such folder to write to"),
        ("embed nowhere -o t.npz", "nowhere: there is no such file or folder"),
        ("export pcl_facecycle folder.onnx", "folder.onnx is a folder; name a file"),
        ("align photo.jpg photo.jpg", "photo.jpg is a file, not a folder"),
        ("convert photo.jpg photo.jpg", "photo.jpg is a file, not a folder"),
        ("pretrain . --steps 1 --out photo.jpg", "photo.jpg is a file, not a folder"),
        ("probe verification . --out photo.jpg", "photo.jpg is a file, not a folder"),
        ("probe verification . --report no/r.html", "no: there is no such folder to write to"),
        ("embed photo.jpg -o in_the_way.npz", "a folder in its path is a file"),
    ],
)
def test_an_output_of_the_wrong_kind_is_said_before_the_work(one_photo, capsys, command, said):
    for folder in ("folder.png", "folder.onnx"):
        os.mkdir(folder)
    Path("in_the_way.npz.parts").touch()
    before = sorted(os.listdir())
    assert main(command.split()) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert sorted(os.listdir()) == before


def test_temporary_files_of_killed_processes_go_with_the_next_table_and_no_others(model, one_photo):
    for name in ("t.npz", "t.npz.npz"):
        temporary_name(Path(name)).touch()
    facepcl.embed("photo.jpg", "t.npz", model=model, dtype="float32", workers=1)
    (left,) = set(os.listdir()) - {"photo.jpg", "t.npz"}
    assert left.startswith(".t.npz.npz.")


def test_two_processes_never_write_the_same_temporary_file(monkeypatch, tmp_path):
    """Containers that share a drive have the same process ids."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert temporary_name(tmp_path / "t") != temporary_name(tmp_path / "t")


# -- limits


def test_a_limit_on_the_size_of_files_is_said(photos, tmp_path):
    """What a quota does, where nobody may mount."""
    with no_room_beyond(100_000), pytest.raises(WriteError, match="there is no room left on the disk"):
        facepcl.embed(photos, tmp_path / "e.npz", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_shards_beyond_the_room_are_said_and_those_before_stay(photos, tmp_path):
    """Two shards of 3 faces fit, one of 30 does not."""
    shards = tmp_path / "shards"
    for name, count in (("a", 3), ("b", 3), ("c", 30)):
        faces = sorted(photos.iterdir())[:count]
        pack(shards / f"{name}.tar", {face.name: face.read_bytes() for face in faces})
    out = f"{tmp_path}/tables/"
    with no_room_beyond(100_000), pytest.raises(WriteError, match="there is no room left on the disk"):
        facepcl.embed(shards, out, workers=1)
    before = {table.name: table.read_bytes() for table in Path(out).glob("*.parquet")}
    assert len(before) == 2
    facepcl.embed(shards, out, workers=1, resume=True)
    assert len(facepcl.read_embeddings(out)) == 36
    assert all((Path(out) / name).read_bytes() == table for name, table in before.items())


# -- data of pretraining


def test_a_training_file_that_cannot_be_read_is_skipped_and_named(tmp_path):
    """Gone since the folder was listed, a link to nowhere, a pipe that nobody fills, an empty file."""
    shutil.copy(FACES[0], tmp_path / "good.jpg")
    shutil.copy(FACES[1], tmp_path / "z-gone.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    from facepcl.pretrain import dataset

    decode = dataset.decode

    def decode_and_delete(data):
        (tmp_path / "z-gone.jpg").unlink(missing_ok=True)
        return decode(data)

    with pytest.MonkeyPatch.context() as patch, time_limit(30):
        patch.setattr(dataset, "decode", decode_and_delete)
        faces = read_faces([tmp_path], 32)
    assert faces.names == [str(tmp_path / "good.jpg")]
    assert {Path(name).name: reason for name, reason in faces.skipped} == {
        "empty.jpg": "the file is empty",
        "link.jpg": "there is no such file",
        "pipe.jpg": "cannot be read: it is a pipe or device, not a file",
        "z-gone.jpg": "there is no such file",
    }


def test_links_folders_and_devices_of_a_training_shard_are_no_faces(tmp_path):
    """Nothing is read but the members that are files, whatever their names; links are named."""
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(FACES[0], "../../a.jpg")
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
            ("device.jpg", tarfile.CHRTYPE),
            ("folder.jpg", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(FACES[1])
            tar.addfile(info)
    with time_limit(30):
        faces = read_faces([tmp_path / "s.tar"], 32)
    assert faces.names == [f"{tmp_path}/s.tar/../../a.jpg"]
    assert [name for name, _ in faces.skipped] == [
        f"{tmp_path}/s.tar/{kind}.jpg" for kind in ("link", "hard")
    ]
    rows = [item.path for item in read_items(list_entries([tmp_path / "s.tar"])) if item.error is None]
    assert rows == [f"{tmp_path}/s.tar/../../a.jpg"]


def test_a_training_file_whose_name_is_not_utf8_is_read(tmp_path):
    shutil.copy(FACES[0], os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    faces = read_faces([tmp_path], 32)
    assert (len(faces.names), faces.skipped) == (1, [])
    assert len(faces.digest()) == 16


def test_a_huge_member_of_a_small_packed_shard_is_not_unpacked(tmp_path):
    info = tarfile.TarInfo("a.jpg")
    info.size = 5 << 30
    with gzip.open(tmp_path / "s.tar.gz", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    with pytest.raises(DataError, match=r"s\.tar\.gz/a\.jpg: 5,368,709,120 bytes are too many for an image"):
        read_faces([tmp_path / "s.tar.gz"], 32)
    (item, *_) = read_items(list_entries([tmp_path / "s.tar.gz"]))
    assert item.error == "cannot be read: 5,368,709,120 bytes are too many for an image"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ('{"yaw": NaN}', "yaw is nan, not a number"),
        ('{"roll": -Infinity}', "roll is -inf, not a number"),
        ('{"pitch": "level"}', "pitch is 'level', not a number"),
        ('{"yaw": 1e30}', r"yaw is 1e\+30, not a number"),
        ('{"au": {"AU12": NaN}}', "AU12 is nan, not a number"),
        ('{"au": [1, 2]}', r"au is \[1, 2\], not an object"),
        ('{"expression": 3}', "expression is 3, not a word"),
        ('{"identity": [1]}', r"identity is \[1\], not a word or a whole number"),
        ('{"landmarks": [[1, 2]]}', r"landmarks is \[\[1, 2\]\], not an object"),
        ('{"landmarks": {"nose": [1]}}', r"nose is \[1\], not \[x, y\] in pixels"),
        ('{"landmarks": {"nose": [1, NaN]}}', "nose is nan, not a number"),
        ("[" * 100_000, "is not valid JSON"),
        ("\udcff", "is not valid JSON"),
    ],
)
def test_a_label_that_cannot_be_is_said_with_its_file_before_the_first_step(tmp_path, labels, said):
    shutil.copy(FACES[0], tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(labels, "utf-8", "surrogateescape")
    with pytest.raises(DataError, match=rf"a\.json.*{said}"):
        read_faces([tmp_path], 32)


def test_labels_that_are_null_are_unknown(tmp_path):
    names = ("yaw", "au", "expression", "identity", "landmarks")
    for i, labels in enumerate((dict.fromkeys(names), {"identity": 7, "au": {"AU1": 1}})):
        shutil.copy(FACES[i], tmp_path / f"{i}.jpg")
        (tmp_path / f"{i}.json").write_text(json.dumps(labels))
    faces = read_faces([tmp_path], 32)
    assert faces.identity.tolist() == [-1, 0]
    assert faces.au[0].isnan().all()
    assert faces.pose.isnan().all()


# -- processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("sys.exit(3)", 3, ""),
        ("raise KeyError('the consumer')", 1, "KeyError: 'the consumer'"),
        ("keep.append(rows)", 0, ""),
    ],
)
def test_a_stream_that_is_abandoned_ends_with_the_program(photos, tmp_path, end, code, said):
    """Without a traceback of its own, and without a process that stays."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, subprocess, sys
import facepcl
embedder = facepcl.FaceEmbedder(dtype="float32", backend="eager", batch_size=4)
keep, rows = [], embedder.stream({str(photos)!r}, workers=2)
next(rows)
print(subprocess.check_output(["ps", "--ppid", str(os.getpid()), "-o", "pid="], text=True), flush=True)
{end}
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "dev", "-W", "ignore:::", str(script)]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == code, ran.stderr
    assert ran.stderr.strip().splitlines()[-1:] == ([said] if said else [])
    assert ran.stderr.count("Traceback") == bool(said)
    started = ran.stdout.split()
    assert len(started) >= 2
    assert not [pid for pid in started if os.path.exists(f"/proc/{pid}")]


def test_a_stream_that_is_abandoned_leaves_no_process_beside_the_program(photos):
    embedder = FaceEmbedder(dtype="float32", backend="eager", batch_size=4)
    before = children()  # those of earlier tests, such as torch's compiling workers
    rows = embedder.stream(photos, workers=2)
    next(rows)
    started = children() - before
    assert len(started) >= 2
    del rows
    assert not started & children()


@pytest.mark.slow
def test_a_script_without_a_main_guard_embeds_whatever_starts_its_processes(photos, tmp_path):
    """Readers are no processes of multiprocessing, which would run the script again in each of them."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing
multiprocessing.set_start_method("spawn")  # as on Windows and macOS
print("started", flush=True)
import facepcl
summary = facepcl.embed({str(photos)!r}, "e.npz", workers=2, dtype="float32")
assert (summary.total, summary.failed) == (40, 0), summary
print("done", flush=True)
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["started", "done"]
