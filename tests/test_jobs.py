"""A job of `embed` or `align` can be interrupted at any moment: nothing is lost, doubled or changed.

What holds for every kind of output is tested for each: a table, a folder of tables, a folder of crops.
"""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.files import break_drive, pack
from helpers.forked_jobs import forked_jobs, stopping_after
from PIL import Image

import facepcl
from facepcl.alignment import align_photos
from facepcl.alignment.align_photos import CropWriter
from facepcl.alignment.face_table import Photo
from facepcl.embedding import writers
from facepcl.embedding.tables import write_table
from facepcl.embedding.writers import FolderWriter, TableWriter
from facepcl.errors import FacepclError, ImageError, OptionError, RemoteError, TableError
from facepcl.images.face import FACE_COLUMNS, LANDMARK_COLUMNS
from facepcl.images.geometry import ARCFACE_POINTS
from facepcl.jobs.state import Job
from facepcl.utils import storage
from facepcl.utils.launch import Share
from facepcl.utils.storage import MISSING

pytestmark = pytest.mark.usefixtures("small_parts")
PART = 16  # images, of `small_parts`
PHOTOS, FAILED = 70, 7
SOURCE = "photos"  # relative: jobs run in a folder of their own


class TableJob:
    """`embed` into one table."""

    out, writer = "e.npz", TableWriter
    per_part = PART // 8  # results of 8 images
    workers = 0

    @staticmethod
    def run(model, source=SOURCE, out="e.npz", resume=False, **options):
        options = {"dtype": "float32", "batch_size": 8, "workers": TableJob.workers, **options}
        return facepcl.embed(source, out, model=model, resume=resume, **options)

    @staticmethod
    def output(out):
        table = facepcl.read_embeddings(out)
        return table.paths, table.errors, table.sizes.tolist(), table.meta, table.vectors.tobytes()

    @staticmethod
    def done(out):
        return len(Job(Path(out)).parts()) * PART


class FolderJob(TableJob):
    """`embed` into a folder with a table for each shard: three of files, one of a tar."""

    out, writer = "e", FolderWriter

    @staticmethod
    def run(model, source=SOURCE, out="e", resume=False, **options):
        return TableJob.run(model, source, out, resume, **options)

    @staticmethod
    def done(out):
        tables = sorted(Path(out).glob("*.parquet"))
        return sum(len(facepcl.read_embeddings(table)) for table in tables)


class CropJob:
    """`align` with landmarks that are known."""

    out, writer = "crops", CropWriter
    per_part = PART // 4
    workers = 0

    @staticmethod
    def run(model, source=SOURCE, out="crops", resume=False, **options):
        del model, resume  # an interrupted `align` continues by itself
        options = {"landmarks": "landmarks.csv", "size": 32, "workers": CropJob.workers, **options}
        return facepcl.align(source, out, **options)

    @staticmethod
    def output(out):
        files = {p.relative_to(out).as_posix(): p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}
        description = json.loads(files["faces.csv.meta.json"])
        del description["folder"]  # where it ran
        return files | {"faces.csv.meta.json": description}

    @staticmethod
    def done(out):
        return len(Job(Path(out)).parts()) * PART


EMBED = [TableJob, FolderJob]
KINDS = [*EMBED, CropJob]
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """48 files and a tar with 22 more, a damaged one among each ten, and landmarks of all of them."""
    place = tmp_path_factory.mktemp("data")
    folder = place / SOURCE
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{i:02d}.png" for i in range(PHOTOS)]
    for i, name in enumerate(names):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 66), Image.Resampling.BICUBIC).save(folder / name)
        if i % 10 == 7:
            (folder / name).write_bytes((folder / name).read_bytes()[:200])
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name in names[48:]:
            tar.add(folder / name, name)
            (folder / name).unlink()
    with (place / "landmarks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", *LANDMARK_COLUMNS])
        paths = [f"{SOURCE}/{'' if i < 48 else 'shard.tar/'}{name}" for i, name in enumerate(names)]
        rows.writerows([path, *(ARCFACE_POINTS / 2 + 5).ravel()] for path in paths)
    return place


@pytest.fixture(scope="module")
def whole(model, place, small_parts):
    """whole(kind) -> what a job that nobody interrupts writes."""
    made = {}

    def output(kind):
        if kind not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                kind.run(model, out=f"whole-{kind.out}")
                made[kind] = kind.output(f"whole-{kind.out}")
        return made[kind]

    return output


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A working folder with the photos and their landmarks."""
    subprocess.run(["cp", "-rp", place / SOURCE, place / "landmarks.csv", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


def interrupted(kind, model, after, error=KeyboardInterrupt, **options):
    """Run a job until so many results are there, then Ctrl-C."""
    with stopping_after(kind.writer, after, error):
        kind.run(model, **options)


@pytest.fixture
def begun(kind, model, here):
    """An interrupted job with two parts done."""
    interrupted(kind, model, 2 * kind.per_part)
    assert kind.done(kind.out) == 2 * PART


@pytest.mark.parametrize("share", [0.5, 1, 1.5, 3.5])
@every_kind
def test_an_interrupted_job_continues_to_the_same_bits(kind, model, here, whole, share, caplog):
    interrupted(kind, model, round(share * kind.per_part), workers=1)
    done = int(share) * PART
    assert kind.done(kind.out) == done
    if done:
        assert any("are done and kept in" in message for message in caplog.messages)
    summary = kind.run(model, resume=True, workers=1)
    assert (summary.aligned if kind is CropJob else summary.embedded) == PHOTOS - done
    assert summary.failed == FAILED
    assert kind.output(kind.out) == whole(kind)
    assert names() == sorted([kind.out, "landmarks.csv", SOURCE])


def replaced_error(table, reason):
    """The rows of a table, the third with another reason."""
    errors = [reason if row == 2 else error for row, error in enumerate(table.errors)]
    return replace(table, errors=errors)


@pytest.mark.slow
@every_kind
def test_a_drive_that_fails_ends_the_job_and_makes_no_bad_rows(kind, model, here, whole):
    mend = break_drive(here / SOURCE / "20.png")
    with pytest.raises(RemoteError, match=r"20\.png cannot be read: Input/output error, 3 times in a row"):
        kind.run(model, workers=1)
    assert kind.done(kind.out) == PART
    mend()
    kind.run(model, resume=True, workers=1)
    assert kind.output(kind.out) == whole(kind)


@pytest.mark.slow
@every_kind
def test_a_drive_that_fails_again_and_again_costs_no_row(kind, model, here, whole):
    files = sorted((here / SOURCE).glob("*.png"))
    places = np.random.default_rng(0).choice(len(files), 4, replace=False)
    broken = {files[place].name: break_drive(files[place]) for place in places}
    resume = False
    while broken:
        with pytest.raises(RemoteError, match="Input/output error") as error:
            kind.run(model, resume=resume, workers=1)
        mend = broken.pop(next(name for name in broken if f"{name} cannot be read" in str(error.value)))
        mend()
        resume = True
    kind.run(model, resume=True, workers=1)
    assert kind.output(kind.out) == whole(kind)


@every_kind
@pytest.mark.usefixtures("no_waits")
def test_a_drive_that_fails_within_a_shard_does_so_too(kind, model, here, whole, monkeypatch):
    read = storage.RetriedFile._read

    def fail(self, size):
        if self._path.endswith(".tar"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(self, size)

    with monkeypatch.context() as patch:
        patch.setattr(storage.RetriedFile, "_read", fail)
        with pytest.raises(RemoteError, match=r"shard\.tar cannot be read: Stale file handle, 3 times in"):
            kind.run(model)
    assert kind.done(kind.out) == 48
    kind.run(model, resume=True)
    assert kind.output(kind.out) == whole(kind)


@every_kind
def test_a_photo_that_was_missing_is_tried_again_once_it_is_there(kind, model, here, whole):
    """Its drive may not have been mounted."""
    photo, elsewhere = here / SOURCE / "20.png", here / "20.png"
    photo.rename(elsewhere)
    photo.symlink_to("nowhere.png")
    kind.run(model, workers=1)
    assert kind.output(kind.out) != whole(kind)
    elsewhere.rename(photo)
    kind.run(model, resume=True, workers=1)
    assert kind.output(kind.out) == whole(kind)


@every_kind
def test_sources_that_vanish_end_the_job_and_make_no_bad_rows(kind, model, here, whole, monkeypatch):
    """As with a drive that is unmounted while the job runs."""
    take = kind.writer.take

    def unmount_first(self, result):
        if os.path.exists(SOURCE):
            os.rename(SOURCE, "elsewhere")
        return take(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(kind.writer, "take", unmount_first)
        with pytest.raises(RemoteError, match=r"photos\S* cannot be read: .*; check the drive or network"):
            kind.run(model, workers=1)
    os.rename("elsewhere", SOURCE)
    kind.run(model, resume=True, workers=1)
    assert kind.output(kind.out) == whole(kind)


@pytest.mark.parametrize("kind", EMBED)
def test_a_shard_that_vanishes_ends_the_job_too(kind, model, here, whole):
    interrupted(kind, model, 2 * kind.per_part)
    os.rename(f"{SOURCE}/shard.tar", "elsewhere.tar")
    with pytest.raises(
        RemoteError, match=r"shard\.tar cannot be read: there is no such file; check the drive"
    ):
        kind.run(model, resume=True, workers=1)
    os.rename("elsewhere.tar", f"{SOURCE}/shard.tar")
    kind.run(model, resume=True)
    assert kind.output(kind.out) == whole(kind)


@pytest.mark.parametrize("kind", EMBED)
def test_files_that_were_missing_and_are_there_are_tried_again(kind, model, here, whole):
    kind.run(model)
    table = next(Path("e").glob("00000000-*")) if kind is FolderJob else Path("e.npz")
    rows = facepcl.read_embeddings(table)
    write_table(table, rows.meta, [replaced_error(rows, MISSING)], len(rows))
    kind.run(model, resume=True)
    assert kind.output(kind.out) == whole(kind)


def test_parts_with_files_that_were_missing_are_made_again(model, here, whole):
    interrupted(TableJob, model, 2 * TableJob.per_part)
    part = Job(Path("e.npz")).parts()[0]
    rows = facepcl.read_embeddings(part)
    write_table(part, rows.meta, [replaced_error(rows, MISSING)], len(rows))
    assert TableJob.run(model, resume=True).embedded == PHOTOS
    assert TableJob.output("e.npz") == whole(TableJob)


def test_photos_that_were_missing_are_aligned_again(model, here, whole):
    interrupted(CropJob, model, 2 * CropJob.per_part)
    part = Job(Path("crops")).parts()[0]
    photos = list(map(Photo.from_line, part.read_bytes().splitlines()))
    photos[2] = photos[2]._replace(error=MISSING, faces=(), crops=())
    part.write_text("".join(photo.to_line() for photo in photos), "ascii")
    assert CropJob.run(model).aligned == PHOTOS
    table = Path("crops/faces.csv")
    table.write_text(re.sub("damaged: [^,]*", MISSING, table.read_text("utf-8")), "utf-8")
    assert CropJob.run(model).aligned == PHOTOS
    assert CropJob.output("crops") == whole(CropJob)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_every_format_of_a_table_is_resumed(model, here, whole, suffix):
    interrupted(TableJob, model, 4, out=f"e.{suffix}")
    TableJob.run(model, out=f"e.{suffix}", resume=True)
    assert TableJob.output(f"e.{suffix}") == whole(TableJob)


@pytest.mark.parametrize("kind", [TableJob, CropJob])
def test_an_interruption_while_the_parts_are_put_together_loses_nothing(
    kind, model, here, whole, monkeypatch
):
    """All images are done then, also those of the last part, which is not full."""

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kind.writer, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            kind.run(model)
    summary = kind.run(model, resume=True)
    assert (summary.aligned if kind is CropJob else summary.embedded) == 0
    assert kind.output(kind.out) == whole(kind)


@pytest.mark.parametrize("kind", EMBED)
@pytest.mark.usefixtures("begun")
def test_unfinished_work_is_not_thrown_away_unasked(kind, model):
    with pytest.raises(OptionError, match=r"unfinished work on .*: add --resume .* or delete e\S*\.parts"):
        kind.run(model)
    assert kind.done(kind.out) == 2 * PART


@every_kind
def test_a_job_that_was_killed_before_its_first_part_says_so(kind, model, here):
    """Its listing is there, which may have taken an hour."""
    job = Job(Path(kind.out))
    job.folder.mkdir()
    job.begin("embed", {"sources": [SOURCE], "dtype": "float32"}, [])
    with pytest.raises(OptionError, match=r"unfinished work|made with command embed, not align"):
        kind.run(model)


@pytest.mark.parametrize("kind", EMBED)
def test_resume_begins_where_nothing_was_begun(kind, model, here, whole):
    kind.run(model, resume=True)
    assert kind.output(kind.out) == whole(kind)


@every_kind
def test_a_finished_output_is_counted_and_left_as_it_is(kind, model, here):
    first = kind.run(model)
    before = {path: path.stat().st_mtime_ns for path in Path(kind.out).parent.rglob("*")}
    again = kind.run(model, resume=True)
    assert (again.aligned if kind is CropJob else again.embedded) == 0
    assert again.failed == first.failed == FAILED
    after = {path: path.stat().st_mtime_ns for path in Path(kind.out).parent.rglob("*")}
    assert {path: after[path] for path in before if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


@every_kind
def test_a_finished_output_of_other_images_is_refused(kind, model, here):
    kind.run(model)
    before = kind.output(kind.out)
    shutil.copy("photos/00.png", "photos/000.png")
    refusal = "other (images|photos)|is not of these sources|made from"
    with pytest.raises(OptionError, match=refusal):
        kind.run(model, resume=True)
    os.unlink("photos/000.png")
    for source in ("photos/shard.tar", "photos/00.png", [SOURCE, "photos/00.png"]):
        with pytest.raises(OptionError, match=refusal):
            kind.run(model, source, resume=True)
    assert kind.output(kind.out) == before


OTHERWISE = [
    (TableJob, {"branch": "pose"}, r"space pcl_facecycle shared/code \(\w+\), not pcl_facecycle pose/code"),
    (TableJob, {"pool": "avg"}, "shared/avg"),
    (FolderJob, {"branch": "pose"}, r"space pcl_facecycle shared/code \(\w+\), not pcl_facecycle pose/code"),
    (TableJob, {"dtype": "bfloat16"}, "made with dtype float32, not bfloat16"),
    (FolderJob, {"dtype": "bfloat16"}, "made with dtype float32, not bfloat16"),
    (CropJob, {"template": "arcface"}, "made with template face, not arcface"),
    (CropJob, {"format": "png"}, "made with format jpg, not png"),
    *[(kind, {"source": "photos/shard.tar"}, r"made from photos, not .*shard\.tar") for kind in KINDS],
]


@pytest.mark.parametrize(("kind", "change", "said"), OTHERWISE)
@pytest.mark.usefixtures("begun")
def test_another_job_in_place_of_an_unfinished_one_is_refused_with_both_named(kind, model, change, said):
    with pytest.raises(OptionError, match=said):
        kind.run(model, resume=True, **change)
    assert kind.done(kind.out) == 2 * PART


@pytest.mark.parametrize("kind", EMBED)
@pytest.mark.usefixtures("begun")
def test_auto_continues_in_the_dtype_of_the_job(kind, model, whole):
    """The timing that chooses it may turn out otherwise another day."""
    kind.run(model, resume=True, dtype="auto")
    assert kind.output(kind.out) == whole(kind)


@pytest.mark.parametrize("kind", [TableJob, CropJob])
@pytest.mark.usefixtures("begun")
def test_files_that_come_and_go_meanwhile_do_not_move_the_rows(kind, model):
    shutil.copy("photos/00.png", "photos/00-new.png")
    os.unlink("photos/01.png")  # done already
    os.unlink("photos/33.png")  # not yet
    summary = kind.run(model, resume=True)
    assert summary.failed == FAILED + 1
    if kind is TableJob:
        table = facepcl.read_embeddings(kind.out)
        assert len(table) == PHOTOS
        assert table.errors[33] == "there is no such file"


@every_kind
@pytest.mark.usefixtures("begun")
def test_a_tar_that_has_changed_meanwhile_is_refused(kind, model):
    with tarfile.open("photos/shard.tar", "a") as tar:
        tar.add("photos/00.png", "new.png")
    with pytest.raises(TableError, match=r"shard\.tar has changed since"):
        kind.run(model, resume=True)
    assert kind.done(kind.out) >= 2 * PART


def test_where_a_job_runs_matters_to_relative_sources_only(here):
    for source, folder in ((str(here / SOURCE), ""), (SOURCE, str(here))):
        job = Job(Path("e"), sources=["s3://bucket/photos", source])
        assert job.describe_sources()["folder"] == folder


@every_kind
def test_a_second_process_on_the_same_output_is_refused(kind, model, here):
    with Job(Path(kind.out)).claimed(), pytest.raises(OptionError, match="another process is writing it"):
        kind.run(model)
    assert names() == ["landmarks.csv", SOURCE]


def test_processes_with_another_world_size_are_refused_while_a_job_is_at_work(model, here):
    """They would delete each other's temporary files."""
    with (
        Job(Path("e"), Share(0, 1)).claimed(),
        pytest.raises(OptionError, match="processes with another world size are writing it; wait for them"),
    ):
        FolderJob.run(model, rank=0, world_size=2, resume=True)
    FolderJob.run(model, rank=0, world_size=2, resume=True)


@pytest.mark.parametrize("kind", ["parquet", "npz", "csv"])
def test_data_of_somebody_else_are_not_replaced_by_a_table(kind, model, here):
    theirs = Path(f"labels.{kind}")
    theirs.write_text("id,label\n1,smile\n")
    with pytest.raises(OptionError, match=rf"labels\.{kind} exists and is not a table of facepcl; choose"):
        TableJob.run(model, out=theirs)
    assert theirs.read_text() == "id,label\n1,smile\n"
    theirs.unlink()
    for _ in range(2):
        TableJob.run(model, out=theirs)  # its own it replaces


def test_the_table_of_crops_is_not_replaced_by_one_of_embeddings(model, here):
    CropJob.run(model)
    with pytest.raises(OptionError, match=r"faces\.csv exists and is not a table of facepcl"):
        TableJob.run(model, "crops", out="crops/faces.csv", resume=True)


@every_kind
def test_a_job_that_fails_before_anything_is_done_leaves_nothing(kind, model, here):
    interrupted(kind, model, 0, error=RuntimeError)
    assert names() == ["landmarks.csv", SOURCE]


def test_on_error_raise_ends_a_job_with_the_name_of_the_image(model, here):
    with pytest.raises(ImageError, match=r"07\.png: damaged"):
        TableJob.run(model, on_error="raise")
    assert names() == ["landmarks.csv", SOURCE]


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("kind", [TableJob])
def test_a_damaged_part_or_listing_is_named(kind, model):
    job = Job(Path(kind.out))
    part = job.parts()[0]
    part.write_bytes(part.read_bytes()[:5000])
    with pytest.raises(TableError, match="part-00000000"):
        kind.run(model, resume=True)
    (job.folder / "job.jsonl").write_text('{"sources"')
    with pytest.raises(TableError, match=r"job\.jsonl is damaged; delete e\.npz\.parts to start over"):
        kind.run(model, resume=True)


@pytest.mark.parametrize("kind", [TableJob])
@pytest.mark.usefixtures("begun")
def test_parts_are_tables_and_the_listing_says_what_they_are(kind, whole):
    job = Job(Path(kind.out))
    part, (paths, *_) = facepcl.read_embeddings(job.parts()[1]), whole(kind)
    assert part.paths == paths[PART : 2 * PART]
    described, *shards, last = map(json.loads, (job.folder / "job.jsonl").read_text().splitlines())
    assert described["sources"] == [SOURCE]
    assert [len(shard) for shard in shards] == [16, 16, 16, 1]
    assert last == {"skipped": {}}


@every_kind
def test_a_job_that_was_killed_while_its_state_was_removed_is_whole(kind, model, here):
    """The listing goes first; parts that outlive it are nobody's."""
    kind.run(model)
    Job(Path(kind.out)).folder.mkdir()
    Job(Path(kind.out)).part(0, ".npz").write_bytes(b"nobody's")
    kind.run(model, resume=True)
    assert names() == sorted([kind.out, "landmarks.csv", SOURCE])


def test_unfinished_jobs_of_the_earlier_version_are_said_to_be_that(model, here):
    Path("e.npz.parts").mkdir()
    Path("e.npz.parts/job.json").write_text("{}")
    Path("crops").mkdir()
    Path("crops/faces.csv.partial").write_text("{}\n")
    for kind in (TableJob, CropJob):
        with pytest.raises(FacepclError, match="was started by an earlier version of facepcl; delete it"):
            kind.run(model, resume=True)


def test_a_folder_of_the_earlier_version_is_read_and_resumed(model, here, whole):
    """Its listing lay in a hidden folder among the tables, which did not say how many there are."""
    FolderJob.run(model)
    for table in Path("e").glob("*.parquet"):
        rows = facepcl.read_embeddings(table)
        rows.meta.pop("shards")
        writers.write_table(table, rows.meta, [rows])
    Path("e/.facepcl").mkdir()
    Path("e/.facepcl/job.jsonl").write_text("{}\n" * 5)
    assert FolderJob.output("e") == whole(FolderJob)
    last = sorted(Path("e").glob("*.parquet"))[-1]
    last.unlink()
    with pytest.raises(TableError, match="lacks 1 of its 4 shards"):
        facepcl.read_embeddings("e")
    assert FolderJob.run(model, resume=True).embedded == 22
    assert not Path("e/.facepcl").exists()  # polars takes it for data
    assert FolderJob.output("e") == whole(FolderJob)


@every_kind
def test_a_tar_that_has_grown_is_not_taken_for_the_finished_one(kind, model, here):
    kind.run(model, "photos/shard.tar")
    with tarfile.open("photos/shard.tar", "a") as tar:
        tar.add("photos/00.png", "new.png")
    with pytest.raises(OptionError, match=r"other (images|photos)"):
        kind.run(model, "photos/shard.tar", resume=True)


def test_a_finished_folder_is_not_continued_with_another_dtype_or_without_alignment(model, here):
    """Its state is gone, but each of its tables says how it was made."""
    FolderJob.run(model)
    sorted(Path("e").glob("*.parquet"))[0].unlink()
    with pytest.raises(OptionError, match="made with dtype float32, not bfloat16"):
        FolderJob.run(model, resume=True, dtype="bfloat16")
    for table in Path("e").glob("*.parquet"):
        rows = facepcl.read_embeddings(table)
        rows.faces = np.full((len(rows), len(FACE_COLUMNS)), np.nan, np.float32)
        writers.write_table(table, rows.meta | {"align": {"one": True}}, [rows])
    with pytest.raises(OptionError, match=r"made with align {'one': True}, not None"):
        FolderJob.run(model, resume=True)
    assert names() == ["e", "landmarks.csv", SOURCE]


def test_a_complete_table_is_not_taken_for_one_of_another_dtype(model, here):
    TableJob.run(model)
    with pytest.raises(OptionError, match="made with dtype float32, not bfloat16"):
        TableJob.run(model, resume=True, dtype="bfloat16")
    TableJob.run(model, resume=True, dtype="auto")


def test_a_failure_at_the_first_crop_leaves_a_job_that_continues(model, here, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(align_photos, "_write_crop", fail := mock.Mock(side_effect=OSError("no room")))
        with pytest.raises(OSError, match="no room"):
            CropJob.run(model)
    assert fail.called
    assert CropJob.run(model).aligned == PHOTOS


def test_what_to_delete_is_named(model, here):
    interrupted(CropJob, model, 2 * CropJob.per_part)
    with pytest.raises(OptionError, match=r"or delete crops\.parts and crops$"):
        CropJob.run(model, one=True)
    interrupted(FolderJob, model, 2 * FolderJob.per_part)
    with pytest.raises(OptionError, match="command embed, not align"):
        CropJob.run(model, out="e")


@every_kind
def test_files_that_are_skipped_are_counted_in_one_line_also_by_a_job_that_continues(
    kind, model, here, caplog
):
    for name in ("raw.NEF", "b.nef", "none", ".hidden", "Thumbs.db"):
        (here / SOURCE / name).write_bytes(b"x")
    with tarfile.open(here / SOURCE / "shard.tar", "a") as tar:
        tar.add(here / SOURCE / "raw.NEF", "a/member.NEF")
    interrupted(kind, model, 2 * kind.per_part)
    caplog.clear()
    kind.run(model, resume=True)
    said = [message for message in caplog.messages if message.startswith("skipped")]
    assert said == ["skipped 4 files: 2 .NEF, 1 .nef, 1 without extension; use --all-files to read them"]


@every_kind
def test_all_files_are_rows_if_that_is_asked_for(kind, model, here, caplog):
    shutil.copy(here / SOURCE / "00.png", here / SOURCE / "none")
    with tarfile.open(here / SOURCE / "shard.tar", "a") as tar:
        tar.add(here / SOURCE / "00.png", "member.dat")
    summary = kind.run(model, all_files=True)
    assert "skipped" not in caplog.text
    assert (summary.photographs if kind is CropJob else summary.total) == PHOTOS + 2
    interrupted(kind, model, 2 * kind.per_part, out=f"part-{kind.out}", all_files=True)
    with pytest.raises(OptionError, match="was made with --all-files; repeat"):
        kind.run(model, out=f"part-{kind.out}", resume=True)


def test_a_tar_without_images_is_an_error_and_leaves_nothing(model, tmp_path):
    with pytest.raises(OptionError, match=r"no images in .*s\.tar"):
        TableJob.run(model, pack(tmp_path / "s.tar", {}), tmp_path / "e.npz")
    assert names(tmp_path) == ["s.tar"]


def test_a_table_of_a_tar_that_breaks_off_is_of_that_tar(model, here):
    data = Path("photos/shard.tar").read_bytes()
    Path("cut.tar").write_bytes(data[: len(data) // 2])
    sources = ["cut.tar", "photos/00.png"]
    first = TableJob.run(model, sources)
    rows = facepcl.read_embeddings("e.npz")
    assert rows.paths[-2] == "cut.tar"
    assert "cut off" in rows.errors[-2]
    second = TableJob.run(model, sources, resume=True)
    assert (second.total, second.embedded) == (first.total, 0)


# the sheet


def test_the_sheet_of_a_finished_table_is_that_of_the_job(model, here):
    TableJob.run(model, sheet="first.png")
    TableJob.run(model, sheet="again.png", resume=True)
    assert Path("first.png").read_bytes() == Path("again.png").read_bytes()
    assert names() == ["again.png", "e.npz", "first.png", "landmarks.csv", SOURCE]


def test_images_that_are_gone_are_left_out_of_the_sheet(model, here):
    TableJob.run(model, "photos/0*.png")
    for path in sorted(Path(SOURCE).glob("*.png"))[2:]:
        path.unlink()
    facepcl.embedding.contact_sheet.draw_sheet(
        facepcl.read_embeddings("e.npz"), facepcl.FaceEmbedder(model, dtype="float32"), [SOURCE], "s.png"
    )
    assert Image.open("s.png").height == 62 + 2 * 296  # two queries


# kills

SETUP = f"""
import sys, time
sys.path.append({str(Path(__file__).parent)!r})
import torch
torch.set_num_threads(1)
import test_jobs as jobs
jobs.TableJob.workers = jobs.CropJob.workers = 1
for writer in (jobs.TableWriter, jobs.CropWriter):
    writer.part_images = jobs.PART
    def slowly(self, result, take=writer.take):
        time.sleep(0.02)  # so that kills fall between start-up and end
        return take(self, result)
    writer.take = slowly
from facepcl.jobs import state
state.FILES_PER_SHARD = jobs.PART
torch.manual_seed(0)
model = jobs.facepcl.create_model("pcl_facecycle")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.soak)])
@every_kind
def test_a_job_that_is_killed_loses_nothing(kind, here, kills):
    """SIGKILL at random moments, start-up and the last steps included; then the same to the bit."""
    rng = np.random.default_rng(kills)
    with forked_jobs(SETUP, f"jobs.{kind.__name__}.run(model, out=words[0], resume=True)", here) as jobs:
        assert jobs.run("whole") == 0
        done, grown = 0, set()
        for kill in range(kills):
            pid = jobs.start(kind.out)
            deadline = time.monotonic() + 30
            while kill % 2 and kind.done(kind.out) <= done and time.monotonic() < deadline:
                if Path(kind.out).is_file() or Path(f"{kind.out}/faces.csv").exists():
                    break  # every second time it gets past its start-up, whatever the machine does
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.4))
            os.kill(pid, signal.SIGKILL)
            jobs.wait(pid)
            now = kind.done(kind.out)
            assert now >= done or Path(kind.out).exists()
            done = now
            grown.add(done)
        assert len(grown) > 1  # it was killed in its midst
        for _ in range(2):  # the last kill may have come while it cleared up
            assert jobs.run(kind.out) == 0
    assert kind.output(kind.out) == kind.output("whole")
    assert f"{kind.out}.parts" not in names()
