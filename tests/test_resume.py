"""An embedding job can be killed at any moment: nothing is lost, nothing comes twice, nothing changes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image

import facepcl
from facepcl.embedding import job, parquet_table
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.resume import Unfinished, unfinished
from facepcl.errors import OptionError, TableError

OPTIONS = {"dtype": "float32", "batch_size": 8}
PART = 16


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Parts of 16 rows instead of 1,024, so that small folders have many."""
    from facepcl.embedding import embedder, resume

    for module in (parquet_table, embedder, job, resume):
        monkeypatch.setattr(module, "ROWS_A_GROUP", PART)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return facepcl.create_model("pcl_facecycle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty files and a shard of thirty, a bad one among each ten."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(70):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        path = folder / f"{i:02d}.png"
        Image.fromarray(pixels).resize((70, 66), Image.Resampling.BICUBIC).save(path)
        if i % 10 == 7:
            path.write_bytes(path.read_bytes()[:200])
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for i in range(40, 70):
            tar.add(folder / f"{i:02d}.png", f"{i:02d}.png")
            (folder / f"{i:02d}.png").unlink()
    return folder


@pytest.fixture(scope="module")
def whole(model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "e.npz"
    patch = pytest.MonkeyPatch()
    from facepcl.embedding import embedder, resume

    for module in (parquet_table, embedder, job, resume):
        patch.setattr(module, "ROWS_A_GROUP", PART)
    facepcl.embed(folder, out, model=model, sheet=out.with_suffix(".png"), **OPTIONS)
    patch.undo()
    return out


def interrupted(monkeypatch, model, folder, out, after, **options):
    """Embed until `after` batches are done, then Ctrl-C."""
    embed, count = FaceEmbedder._embed, 0

    def counting(self, *args):
        nonlocal count
        if count == after:
            raise KeyboardInterrupt
        count += 1
        return embed(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FaceEmbedder, "_embed", counting)
        with pytest.raises(KeyboardInterrupt):
            facepcl.embed(folder, out, model=model, **OPTIONS, **options)


def same(a, b):
    a, b = facepcl.read_embeddings(a), facepcl.read_embeddings(b)
    assert (a.paths, a.errors, a.sizes.tolist(), a.meta) == (b.paths, b.errors, b.sizes.tolist(), b.meta)
    return np.array_equal(a.vectors, b.vectors, equal_nan=True)


@pytest.mark.parametrize("after", [2, 4, 5, 8])
def test_a_resumed_job_equals_an_uninterrupted_one_to_the_bit(
    monkeypatch, model, folder, whole, tmp_path, after
):
    out, sheet = tmp_path / "e.npz", tmp_path / "e.png"
    interrupted(monkeypatch, model, folder, out, after, sheet=sheet)
    assert not out.exists()
    done = len(Unfinished(out).parts) * PART
    assert done == after * 8 // PART * PART
    summary = facepcl.embed(folder, out, model=model, sheet=sheet, resume=True, **OPTIONS)
    assert (summary.total, summary.failed, summary.embedded) == (70, 7, 70 - done)
    assert same(out, whole)
    assert sheet.read_bytes() == whole.with_suffix(".png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npz", "e.png"]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_every_kind_of_table_resumes(monkeypatch, model, folder, whole, tmp_path, kind):
    out = tmp_path / f"e.{kind}"
    interrupted(monkeypatch, model, folder, out, 4)
    facepcl.embed(folder, out, model=model, resume=True, **OPTIONS)
    assert same(out, whole)


def test_an_interruption_while_the_table_is_put_together_loses_nothing(
    monkeypatch, model, folder, whole, tmp_path
):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_table", interrupt)
        with pytest.raises(KeyboardInterrupt):
            facepcl.embed(folder, tmp_path / "e.npz", model=model, **OPTIONS)
    assert Unfinished(tmp_path / "e.npz").rows_done == 70  # the last part is not full
    summary = facepcl.embed(folder, tmp_path / "e.npz", model=model, resume=True, **OPTIONS)
    assert (summary.total, summary.embedded) == (70, 0)
    assert same(tmp_path / "e.npz", whole)


def test_what_is_done_is_not_thrown_away_unasked(monkeypatch, model, folder, tmp_path):
    out = tmp_path / "e.npz"
    interrupted(monkeypatch, model, folder, out, 4)
    with pytest.raises(OptionError, match=r"holds 32 rows of an unfinished e\.npz: add --resume"):
        facepcl.embed(folder, out, model=model, **OPTIONS)
    assert len(Unfinished(out).parts) == 2


def test_resume_begins_where_nothing_was_begun(model, folder, whole, tmp_path):
    facepcl.embed(folder, tmp_path / "e.npz", model=model, resume=True, **OPTIONS)
    assert same(tmp_path / "e.npz", whole)


def test_resume_of_a_whole_table_does_nothing_and_counts(model, folder, whole, tmp_path):
    out = tmp_path / "e.npz"
    shutil.copy(whole, out)
    before = out.stat().st_mtime_ns
    summary = facepcl.embed(folder, out, model=model, resume=True, **OPTIONS)
    assert (summary.total, summary.failed, summary.embedded) == (70, 7, 0)
    assert out.stat().st_mtime_ns == before
    with pytest.raises(TableError, match="another space"):
        facepcl.embed(folder, out, model=model, branch="pose", resume=True, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"branch": "pose"}, r"space pcl_facecycle shared/code \(\w+\).*pcl_facecycle pose/code"),
        ({"pool": "avg"}, "shared/avg"),
        ({"dtype": "bfloat16"}, "begun with dtype float32, not bfloat16"),
        ({"sheet": "s.png"}, "begun with sheet False, not True"),
    ],
)
def test_resume_refuses_another_space_and_names_both(monkeypatch, model, folder, tmp_path, change, said):
    monkeypatch.chdir(tmp_path)
    interrupted(monkeypatch, model, folder, "e.npz", 4)
    with pytest.raises(TableError, match=said):
        facepcl.embed(folder, "e.npz", model=model, resume=True, **{**OPTIONS, **change})
    assert len(Unfinished(tmp_path / "e.npz").parts) == 2


def test_resume_refuses_other_sources(monkeypatch, model, folder, tmp_path):
    interrupted(monkeypatch, model, folder, tmp_path / "e.npz", 4)
    with pytest.raises(TableError, match=r"begun with sources .*photos, not .*shard\.tar"):
        facepcl.embed(folder / "shard.tar", tmp_path / "e.npz", model=model, resume=True, **OPTIONS)


def test_a_whole_table_of_other_images_is_refused(model, folder, whole, tmp_path, caplog):
    out = shutil.copy(whole, tmp_path / "e.npz")
    caplog.set_level("INFO", "facepcl")
    again = {"model": model, "resume": True, **OPTIONS}
    assert facepcl.embed(folder, out, **again).total == 70
    assert "e.npz is whole already" in caplog.text
    two = [folder / "shard.tar", folder / "shard.tar"]
    for others in (folder / "shard.tar", folder / "00.png", [folder, folder / "00.png"], two):
        with pytest.raises(OptionError, match="is whole, and of other images"):
            facepcl.embed(others, out, **again)
    with pytest.raises(OptionError, match=r"s\.png is drawn while it is made"):
        facepcl.embed(folder, out, sheet=tmp_path / "s.png", **again)
    assert same(out, whole)


def test_a_whole_table_of_a_shard_that_breaks_off_is_of_that_shard(model, folder, tmp_path):
    data = (folder / "shard.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    again = {"model": model, "resume": True, **OPTIONS}
    first = facepcl.embed([tmp_path / "cut.tar", folder / "00.png"], tmp_path / "e.npz", **again)
    rows = facepcl.read_embeddings(tmp_path / "e.npz")
    assert rows.paths[-2] == str(tmp_path / "cut.tar")
    assert "breaks off" in rows.errors[-2]
    second = facepcl.embed([tmp_path / "cut.tar", folder / "00.png"], tmp_path / "e.npz", **again)
    assert (second.total, second.embedded) == (first.total, 0)


def test_auto_goes_on_in_the_dtype_it_was_begun_in(monkeypatch, model, folder, whole, tmp_path):
    """The timing that chooses it may turn out otherwise another day."""
    interrupted(monkeypatch, model, folder, tmp_path / "e.npz", 4)
    facepcl.embed(folder, tmp_path / "e.npz", model=model, resume=True, **{**OPTIONS, "dtype": "auto"})
    assert same(tmp_path / "e.npz", whole)


def test_files_that_come_and_go_meanwhile_do_not_move_the_rows(monkeypatch, model, folder, whole, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    interrupted(monkeypatch, model, photos, tmp_path / "e.npz", 4)
    shutil.copy(photos / "00.png", photos / "00-new.png")
    (photos / "01.png").unlink()  # done already
    (photos / "33.png").unlink()  # not yet
    facepcl.embed(photos, tmp_path / "e.npz", model=model, resume=True, **OPTIONS)
    found, wanted = facepcl.read_embeddings(tmp_path / "e.npz"), facepcl.read_embeddings(whole)
    assert [os.path.basename(p) for p in found.paths] == [os.path.basename(p) for p in wanted.paths]
    changed = [i for i, (a, b) in enumerate(zip(found.errors, wanted.errors, strict=True)) if a != b]
    assert changed == [33]
    assert found.errors[33] == "there is no such file"


def test_a_shard_that_was_changed_meanwhile_is_refused(monkeypatch, model, folder, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    interrupted(monkeypatch, model, photos, tmp_path / "e.npz", 4)
    with tarfile.open(photos / "shard.tar", "a") as tar:
        tar.add(photos / "00.png", "new.png")
    with pytest.raises(TableError, match=r"shard\.tar has changed"):
        facepcl.embed(photos, tmp_path / "e.npz", model=model, resume=True, **OPTIONS)
    assert len(Unfinished(tmp_path / "e.npz").parts) == 2


def test_a_second_job_on_the_same_table_is_refused(model, folder, tmp_path):
    with unfinished(tmp_path / "e.npz"), pytest.raises(OptionError, match="another process is writing it"):
        facepcl.embed(folder, tmp_path / "e.npz", model=model, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_on_error_raise_keeps_what_was_done(monkeypatch, model, folder, tmp_path):
    with pytest.raises(facepcl.FacepclError, match=r"07\.png: damaged"):
        facepcl.embed(folder, tmp_path / "e.npz", model=model, on_error="raise", **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_is_named(monkeypatch, model, folder, tmp_path):
    interrupted(monkeypatch, model, folder, tmp_path / "e.npz", 4)
    part = Unfinished(tmp_path / "e.npz").parts[0]
    part.write_bytes(part.read_bytes()[:5000])
    with pytest.raises(TableError, match="part-00000000"):
        facepcl.embed(folder, tmp_path / "e.npz", model=model, resume=True, **OPTIONS)


@pytest.mark.slow
def test_a_job_that_is_killed_five_times_loses_nothing(tmp_path):
    """SIGKILL at random moments, start-up and the last steps included; then rows equal to the bit."""
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(400):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(photos / f"{i:03d}.png")
    (photos / "200.png").write_bytes(b"no picture")
    script = f"""
import sys, facepcl
from facepcl.embedding import embedder, job, parquet_table, resume
for module in (parquet_table, embedder, job, resume):
    module.ROWS_A_GROUP = {PART}
embed = embedder.FaceEmbedder._embed
def slowly(self, *args):
    import time
    time.sleep(0.2)  # so that kills fall between start-up and end
    return embed(self, *args)
embedder.FaceEmbedder._embed = slowly
print("ready", flush=True)
facepcl.embed("photos", sys.argv[1], resume=True, dtype="float32", batch_size=8)
"""
    (tmp_path / "job.py").write_text(script)

    def start(out):
        return subprocess.Popen([sys.executable, "job.py", out], cwd=tmp_path, stdout=subprocess.PIPE)

    assert start("whole.npz").wait() == 0
    work = Unfinished(tmp_path / "e.npz")
    kills = parts = 0
    grown = set()
    while kills < 5 or not (tmp_path / "e.npz").exists():
        job = start("e.npz")
        job.stdout.readline()
        if kills < 5:
            if kills % 2:  # whatever the machine does, every second job gets past its start-up
                while job.poll() is None and len(work.parts) <= parts:
                    time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3) if kills % 2 else rng.uniform(0.3, 2.0))
            job.send_signal(signal.SIGKILL)
            kills += 1
        job.wait()
        now = len(work.parts)
        assert now >= parts or (tmp_path / "e.npz").exists()
        parts = now
        grown.add(parts)
    assert len(grown) > 2  # it was killed in its midst
    assert start("e.npz").wait() == 0  # the last kill may have come while it cleared up
    assert same(tmp_path / "e.npz", tmp_path / "whole.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npz", "job.py", "photos", "whole.npz"]


def test_the_parts_are_tables_and_say_what_they_are(monkeypatch, model, folder, whole, tmp_path):
    interrupted(monkeypatch, model, folder, tmp_path / "e.npz", 4)
    work = Unfinished(tmp_path / "e.npz")
    part, wanted = facepcl.read_embeddings(work.parts[1]), facepcl.read_embeddings(whole)
    assert part.paths == wanted.paths[PART : 2 * PART]
    assert np.array_equal(part.vectors, wanted.vectors[PART : 2 * PART], equal_nan=True)
    assert json.loads((work.folder / "job.json").read_text())["meta"] == wanted.meta


def test_a_job_killed_as_it_clears_up_is_whole(model, folder, whole, tmp_path):
    """job.json goes first; parts that outlive it are nobody's."""
    out = tmp_path / "e.npz"
    shutil.copy(whole, out)
    Unfinished(out).folder.mkdir()
    shutil.copy(whole, Unfinished(out).folder / "part-00000000.npz")
    summary = facepcl.embed(folder, out, model=model, resume=True, **OPTIONS)
    assert (summary.total, summary.embedded) == (70, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]


def test_a_shard_without_images_is_an_error_and_leaves_nothing(model, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w"):
        pass
    with pytest.raises(OptionError, match=r"no images in .*s\.tar"):
        facepcl.embed(tmp_path / "s.tar", tmp_path / "e.npz", model=model, **OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["s.tar"]
