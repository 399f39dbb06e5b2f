"""Many processes fill one folder, a table a shard: the rows of one run, whatever is killed on the way."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.files import ROOT, pack, photo_of
from helpers.forked_jobs import forked_jobs
from PIL import Image

import facepcl
from facepcl.cli import main
from facepcl.embedding.tables import write_table
from facepcl.errors import ImageError, MissingPath, OptionError, TableError
from facepcl.images.face import FACE_COLUMNS
from facepcl.jobs.state import Job
from facepcl.models.io import save_encoder
from facepcl.utils import files
from facepcl.utils.launch import Share, find_share, own_device, take_own_cores

OPTIONS = {"dtype": "float32", "batch_size": 8}
pytestmark = pytest.mark.usefixtures("small_parts")
PART = 16  # images, of `small_parts`
SIZES = {"a.tar": 24, "b.tar": 16, "c.tar.gz": 16}  # whole batches: cut at a shard's end, they stay the same


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty files, three tars, a bad image among each ten, and a tar that is cut off: seven shards."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def picture(path, number):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 66), Image.Resampling.BICUBIC).save(path)
        if number % 10 == 7:
            path.write_bytes(path.read_bytes()[:200])
        return path

    for i in range(40):
        picture(folder / f"{i:02d}.png", i)
    for name, count in {**SIZES, "d.tar": 9}.items():
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as tar:
            for i in range(count):
                tar.add(picture(folder / "member.png", i), f"{i:02d}.png")
    (folder / "member.png").unlink()
    whole = (folder / "d.tar").read_bytes()
    (folder / "d.tar").write_bytes(whole[: whole.rindex(b"08.png") + 700])
    return folder


@pytest.fixture(scope="module")
def whole(model, folder, small_parts, tmp_path_factory):
    """The plain table."""
    out = tmp_path_factory.mktemp("whole") / "e.npz"
    facepcl.embed(folder, out, model=model, **OPTIONS)
    return facepcl.read_embeddings(out)


@pytest.fixture(scope="module")
def half_done(model, folder, small_parts, tmp_path_factory):
    """A folder that the first of two processes has done its part of."""
    out = tmp_path_factory.mktemp("half") / "e"
    embed(model, folder, out, 0)
    return out


@pytest.fixture
def half(half_done, tmp_path):
    shutil.copytree(f"{half_done}.parts", tmp_path / "e.parts")
    return shutil.copytree(half_done, tmp_path / "e")


def same(a, b):
    assert (a.paths, a.errors, a.sizes.tolist()) == (b.paths, b.errors, b.sizes.tolist())
    assert a.meta == b.meta
    return np.array_equal(a.vectors, b.vectors, equal_nan=True)


def embed(model, folder, out, rank=0, world_size=2, **options):
    return facepcl.embed(folder, out, model=model, rank=rank, world_size=world_size, **{**OPTIONS, **options})


def names(out):
    return sorted(path.name for path in out.iterdir())


def test_two_processes_make_the_rows_of_one_to_the_bit(model, folder, whole, tmp_path):
    out = tmp_path / "e"
    first, second = embed(model, folder, out, 1), embed(model, folder, out, 0)
    assert (first.shards, first.missing, second.shards, second.missing, second.listed) == (3, 4, 4, 0, 7)
    assert first.total + second.total == len(whole)
    assert first.failed + second.failed == sum(error is not None for error in whole.errors)
    assert "cut off" in whole.errors[-1]
    assert names(out) == [f"{i:08d}-{n}.parquet" for i, n in enumerate(["files"] * 3 + list("abcd"))]
    assert names(tmp_path) == ["e"]  # the state goes with the last process
    assert same(facepcl.read_embeddings(out), whole)
    assert facepcl.read_embeddings(out, vectors=False).paths == whole.paths


@pytest.mark.slow
def test_torchrun_starts_the_processes_of_one_job(model, folder, whole, tmp_path):
    """As the README has it; from weights in a folder, since each process loads them itself."""
    save_encoder(model, tmp_path / "encoder")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--model", f"local-dir:{tmp_path / 'encoder'}", "--dtype", "float32", "--batch-size", "4"]
    command = [*torchrun, "-m", "facepcl", "embed", str(folder), "-o", f"{tmp_path}/e/", *options, "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr  # also where rows have errors: torchrun would end the others
    found = facepcl.read_embeddings(tmp_path / "e")
    assert (found.paths, found.errors) == (whole.paths, whole.errors)
    np.testing.assert_allclose(found.vectors, whole.vectors, rtol=1e-4, atol=1e-4)  # other threads


def test_other_readers_take_the_folder_as_one_table(model, folder, whole, tmp_path):
    import duckdb
    import pandas
    from pyarrow import dataset

    embed(model, folder, tmp_path / "e", 0, 1)
    assert dataset.dataset(tmp_path / "e").to_table()["path"].to_pylist() == whole.paths
    assert pandas.read_parquet(tmp_path / "e")["error"].notna().sum() == sum(map(bool, whole.errors))
    ((counted,),) = duckdb.sql(f"select count(embedding) from '{tmp_path}/e/*.parquet'").fetchall()
    assert counted == np.isfinite(whole.vectors[:, 0]).sum()


def test_the_queries_of_the_documentation_work_on_tables_with_errors(
    model, folder, whole, tmp_path, monkeypatch
):
    import duckdb

    embed(model, folder, tmp_path / "embeddings", 0, 1)
    meta = {**facepcl.read_embeddings(tmp_path / "embeddings", vectors=False).meta, "align": {}}
    faces = np.ones((len(whole), len(FACE_COLUMNS)), np.float32)
    faces[[error is not None for error in whole.errors]] = np.nan
    write_table(tmp_path / "photos.parquet", meta, [replace(whole, faces=faces)])
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/scaling.md").read_text("utf-8"), re.DOTALL)
    nearest, boxes = (duckdb.sql(query).fetchall() for query in block.split(";\n") if query.strip())
    good = [i for i, error in enumerate(whole.errors) if not error]
    wanted = facepcl.similarity(whole.vectors[good], whole.vectors[good])[np.triu_indices(len(good), 1)]
    assert [cosine for _, _, cosine in nearest] == pytest.approx(sorted(wanted)[::-1][:10], abs=1e-4)
    assert [path for path, *_ in boxes] == [whole.paths[i] for i in good]


def test_batches_cut_at_shard_ends_move_the_codes_by_rounding_only(model, folder, tmp_path):
    """A shard of 24 in front of others: with batches of 9 none is as in the plain table."""
    sources, options = [folder / "a.tar", folder / "b.tar"], {**OPTIONS, "batch_size": 9}
    facepcl.embed(sources, tmp_path / "e.npz", model=model, **options)
    facepcl.embed(sources, tmp_path / "e", model=model, **options)
    found, wanted = (facepcl.read_embeddings(tmp_path / name) for name in ("e", "e.npz"))
    assert found.paths == wanted.paths
    # other batch sizes run other loops of the convolutions, which add up in another order
    assert np.allclose(
        found.vectors, wanted.vectors, rtol=0, atol=1e-5 * np.nanmax(wanted.vectors), equal_nan=True
    )


SETUP = f"""
import time, torch
torch.set_num_threads(1)
import facepcl
from facepcl.embedding.writers import TableWriter
from facepcl.jobs import state
TableWriter.part_images = state.FILES_PER_SHARD = {PART}
take = TableWriter.take
def slowly(self, batch):
    time.sleep(0.05)  # so that kills fall between start-up and end
    return take(self, batch)
TableWriter.take = slowly
torch.manual_seed(0)
model = facepcl.create_model("pcl_facecycle")
"""
JOB = (
    "facepcl.embed({source!r}, {out!r}, model=model, dtype='float32', batch_size=8, workers=1, "
    "rank=int(words[0]), world_size=2, resume=True)"
)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_two_processes_that_are_killed_lose_nothing_and_do_nothing_twice(folder, whole, tmp_path, kills):
    """SIGKILL at random moments; what was done stays as it is, and the rest is done again to the bit."""
    out, rng = tmp_path / "e", np.random.default_rng(kills)
    with forked_jobs(SETUP, JOB.format(source=str(folder), out=str(out)), tmp_path) as jobs:
        times, grown = {}, set()
        for kill in range(kills):
            both = [jobs.start(rank) for rank in (0, 1)]
            before = len(times)
            deadline = time.monotonic() + 30
            while kill % 2 and len(list(out.glob("*.parquet"))) <= before and time.monotonic() < deadline:
                time.sleep(0.01)  # every second time it gets past its start-up, whatever the machine does
            time.sleep(rng.uniform(0, 0.4))
            for pid in both:
                os.kill(pid, signal.SIGKILL)
            assert all(jobs.wait(pid) in (-signal.SIGKILL, 0) for pid in both)
            now = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
            assert times.items() <= now.items()
            times = now
            grown.add(len(times))
            if len(times) == 7:  # begin again, until it has been killed so often
                assert same(facepcl.read_embeddings(out), whole)
                out.rename(tmp_path / f"done-{kill}")
                times = {}
        assert [jobs.run(rank) for rank in (0, 1)] == [0, 0]
    assert len(grown) > 1  # some were killed in their midst
    assert times.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}.items()
    assert same(facepcl.read_embeddings(out), whole)
    assert not (tmp_path / "e.parts").exists()


def test_resume_makes_what_is_missing_or_damaged_and_counts_the_rest(model, folder, whole, tmp_path):
    out = tmp_path / "e"
    embed(model, folder, out, 0, 1)
    missing, damaged, *others = sorted(out.glob("*.parquet"))
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    before = [path.stat().st_mtime_ns for path in others]
    summary = embed(model, folder, out, 0, 1, resume=True)
    assert (summary.total, summary.shards, summary.missing) == (len(whole), 7, 0)
    assert summary.embedded == 32
    assert before == [path.stat().st_mtime_ns for path in others]
    assert same(facepcl.read_embeddings(out), whole)


def test_another_number_of_processes_may_finish_a_job(model, folder, whole, half):
    with pytest.raises(OptionError, match=r"unfinished work .*add --resume .*delete .*e\.parts and .*e to"):
        embed(model, folder, half, 0, 1)
    assert embed(model, folder, half, 0, 1, resume=True).missing == 0
    assert same(facepcl.read_embeddings(half), whole)


def test_a_process_that_comes_when_all_is_done_has_nothing_to_do(model, folder, tmp_path):
    embed(model, folder / "a.tar", tmp_path / "e", 0)
    assert names(tmp_path) == ["e"]
    late = embed(model, folder / "a.tar", tmp_path / "e", 1)
    assert (late.shards, late.missing) == (0, 0)
    assert names(tmp_path) == ["e"]


def test_processes_that_end_at_once_clear_the_state_and_none_fails(tmp_path):
    """Forty times four processes that claim their share, write nothing and end."""
    setup = "from pathlib import Path; from facepcl.jobs.state import Job, Share"
    job = (
        "job = Job(Path(words[0]), Share(int(words[1]), 4))\n"
        "            with job.claimed():\n"
        "                job.begin('embed', {}, [])\n"
        "                job.release_when(lambda: True)"
    )
    with forked_jobs(setup, job, tmp_path) as jobs:
        for run in range(40):
            pids = [jobs.start(f"e{run}", rank) for rank in range(4)]
            assert [jobs.wait(pid) for pid in pids] == [0] * 4
    assert names(tmp_path) == []


def test_all_work_on_the_listing_of_the_first(model, folder, whole, tmp_path):
    """A file that comes between the starts of two processes would move the shards of the second."""
    photos = tmp_path / "photos"
    subprocess.run(["cp", "-rp", folder, photos], check=True)
    embed(model, photos, tmp_path / "e", 0)
    (photos / "000.png").write_bytes((photos / "00.png").read_bytes())
    embed(model, photos, tmp_path / "e", 1)
    found = facepcl.read_embeddings(tmp_path / "e")
    assert [os.path.relpath(p, photos) for p in found.paths] == [
        os.path.relpath(p, folder) for p in whole.paths
    ]


def test_of_two_that_begin_at_once_the_first_one_stays(tmp_path):
    with files.atomic_first(tmp_path / "job") as late:
        late.write_text("late")
        with files.atomic_first(tmp_path / "job") as early:
            early.write_text("early")
    assert (tmp_path / "job").read_text() == "early"
    assert names(tmp_path) == ["job"]


def test_a_second_job_on_the_same_rank_is_refused_and_one_on_another_is_not(model, folder, tmp_path):
    out = tmp_path / "e"
    with Job(out, Share(0, 2)).claimed():
        with pytest.raises(OptionError, match="another process is writing rank 0 of 2 of it"):
            embed(model, folder, out, 0)
        assert embed(model, folder, out, 1).shards == 3


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        ("e", {"sheet": "s.png"}, r"folder of tables, and s\.png belongs to one"),
        ("e.npz", {}, r"e\.npz is a single table, which one process writes"),
        ("nowhere/e", {}, "nowhere: there is no such folder"),
        ("full", {}, "full holds notes, which is not a table of embeddings"),
        ("notes", {}, "notes is a file"),
        (
            "e.txt",
            {"rank": None, "world_size": None},
            r"must end in \.parquet, \.npz, \.csv; that of a folder of tables, in /",
        ),
        ("e", {"rank": 2}, "rank 2 of 2"),
        ("e", {"world_size": None}, "belong together"),
    ],
)
def test_what_cannot_work_is_said_first(model, folder, tmp_path, monkeypatch, out, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").touch()
    (tmp_path / "notes").touch()
    with pytest.raises((OptionError, MissingPath), match=said):
        embed(model, folder, out, **options)
    assert names(tmp_path) == ["full", "notes"]


def test_on_error_raise_keeps_the_shards_that_are_done(model, folder, tmp_path):
    out = tmp_path / "e"
    with pytest.raises(ImageError, match=r"a\.tar/07\.png: damaged"):
        embed(model, [folder / "00.png", folder / "a.tar"], out, 0, 1, on_error="raise")
    assert names(out) == ["00000000-files.parquet"]
    assert names(tmp_path) == ["e", "e.parts"]


def test_a_folder_that_is_not_whole_or_of_two_spaces_is_not_read_as_one(model, folder, half, tmp_path):
    with pytest.raises(MissingPath, match="nowhere: there is no such folder"):
        facepcl.read_embeddings(tmp_path / "nowhere")
    with pytest.raises(MissingPath, match="no tables"):
        facepcl.read_embeddings(tmp_path)
    with pytest.raises(TableError, match="lacks 3 of its 7 shards"):
        facepcl.read_embeddings(half)
    embed(model, folder / "a.tar", tmp_path / "g", 0, 1)
    embed(model, folder / "b.tar", tmp_path / "h", 0, 1, branch="pose")
    (tmp_path / "h/00000000-b.parquet").rename(tmp_path / "g/00000001-b.parquet")
    with pytest.raises(TableError, match=r"different spaces: 0+-a\.parquet of .*shared.* of .*pose"):
        facepcl.read_embeddings(tmp_path / "g")


def test_a_tar_without_images_is_a_table_without_rows(model, folder, tmp_path):
    embed(model, [pack(tmp_path / "s.tar", {}), folder / "00.png"], tmp_path / "e", 0, 1)
    assert len(facepcl.read_embeddings(tmp_path / "e/00000000-s.parquet")) == 0
    assert facepcl.read_embeddings(tmp_path / "e").paths == [str(folder / "00.png")]


def test_faces_of_photos_are_shards_too(model, detector, tmp_path):
    (tmp_path / "p").mkdir()
    for i in range(3):
        photo_of(i + 1).save(tmp_path / "p" / f"{i}.jpg")
    options = {"model": model, "align": True, "detector": detector, **OPTIONS}
    facepcl.embed(tmp_path / "p", tmp_path / "e.npz", **options)
    facepcl.embed(tmp_path / "p", tmp_path / "e", **options)
    found, wanted = (facepcl.read_embeddings(tmp_path / name) for name in ("e", "e.npz"))
    assert same(found, wanted)
    assert np.array_equal(found.faces, wanted.faces, equal_nan=True)


@pytest.fixture
def launched(monkeypatch):
    """`launched(RANK="1", ...)` makes this the whole environment."""
    return lambda **environ: monkeypatch.setattr(os, "environ", environ)


@pytest.mark.parametrize(
    ("environ", "share"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}, (2, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),  # a batch script without srun runs once
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"}, (4, 8)),
        (
            {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "4"}
            | {"SLURM_ARRAY_TASK_STEP": "4"},
            (2, 4),
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "3"}
            | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
            (3, 6),
        ),
    ],
)
def test_the_share_is_what_the_launcher_says(launched, environ, share):
    launched(**environ)
    found, named = find_share(None, None), find_share(1, 3)
    assert (found.rank, found.world_size) == share
    assert (named.rank, named.world_size) == (1, 3)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RANK": "8", "WORLD_SIZE": "8"}, "rank 8 of 8"),
        ({"RANK": "x", "WORLD_SIZE": "8"}, "RANK in the environment is 'x'"),
        ({"RANK": "1"}, "RANK is set in the environment without WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "SLURM_PROCID": "0"}, "WORLD_SIZE is set in the environment without RANK"),
        (
            {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"},
            "array with gaps: give --rank",
        ),
    ],
)
def test_a_share_that_cannot_be_is_refused(launched, environ, said):
    launched(**environ)
    with pytest.raises(OptionError, match=said):
        find_share(None, None)


def test_each_process_on_a_machine_has_its_own_gpu_and_cores(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for asked, environ, given in (
        ("auto", {"LOCAL_RANK": "5"}, "cuda:1"),
        ("cuda", {"SLURM_LOCALID": "2"}, "cuda:2"),
        ("cuda:3", {"LOCAL_RANK": "1"}, "cuda:3"),
        ("auto", {}, "auto"),
    ):
        launched(**environ)
        assert own_device(asked) == given
    taken = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 6}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: taken.append(cores), raising=False)
    for environ in ({"LOCAL_WORLD_SIZE": "2"}, {}, {"LOCAL_WORLD_SIZE": "9"}):
        launched(LOCAL_RANK="1", **environ)
        take_own_cores()
    assert taken == [[2, 5]]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"LOCAL_WORLD_SIZE": "two"}, "LOCAL_WORLD_SIZE in the environment is 'two'"),
        ({"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": ""}, "LOCAL_RANK in .* is ''"),
    ],
)
def test_what_a_launcher_sets_is_a_number(launched, monkeypatch, environ, said):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: None, raising=False)
    launched(**environ)
    with pytest.raises(OptionError, match=said):
        take_own_cores()


def test_half_of_what_a_launcher_sets_is_refused_for_one_table_too(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(OptionError, match="RANK is set in the environment without WORLD_SIZE"):
        facepcl.embed("faces", tmp_path / "e.npz")
    assert list(tmp_path.iterdir()) == []


def test_the_command_tells_what_its_share_is_and_what_is_missing(folder, tmp_path, monkeypatch, capsys):
    """Errors in rows leave the exit code at 0: torchrun would end the other processes."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    command = ["embed", str(folder / "a.tar"), str(folder / "b.tar"), "-o", f"{tmp_path}/e.v2/"]
    assert main([*command, "--dtype", "float32"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}/e.v2: rank 0 of 2 has 1 shard, 24 rows: 22 embedded, 2 failed, ")
    assert said.endswith("; 1 of 2 shards are missing\n")
    assert main([*command, "--rank", "0", "--world-size", "1", "--resume", "--dtype", "float32"]) == 1
    assert capsys.readouterr().out.endswith("; no shard is missing\n")
