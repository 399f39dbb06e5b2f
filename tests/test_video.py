"""Videos as sources: which frames, when, in which colours and which way up; damage; which videos are read."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.files import break_drive, jpeg, pack
from helpers.forked_jobs import stopping_after

import facepcl
from facepcl.data import video
from facepcl.data.file_types import ADVICE, Selection
from facepcl.data.sources import is_table_of, list_entries, no_images, read_items, shard_of, stamp
from facepcl.data.video import frame_path, time_of
from facepcl.embedding.writers import TableWriter
from facepcl.errors import MissingExtra, OptionError, RemoteError, TableError
from facepcl.images.decode import PIXELS_VARIABLE, decode
from facepcl.jobs.state import Job
from facepcl.utils import storage

pytest.importorskip("av", reason="needs PyAV (extra video)")
from helpers.video import greys, write_sound, write_turning_head, write_video

FILM = {"mp4": "libx264", "mov": "libx264", "m4v": "libx264", "mkv": "libx264", "webm": "libvpx-vp9"}
FILM["avi"] = "mpeg4"  # whose B-frames have no times of their own
CODED = 4  # levels of grey by which a coded frame may differ from what was written


def items(source, fps=100.0, start=0):
    selection = Selection(fps=fps)
    return list(read_items(list_entries([source], selection), start, selection))


def times(source, fps=100.0):
    return [time_of(item.path) for item in items(source, fps)]


def pixels(item):
    return np.asarray(decode(item.data)).astype(int)


@pytest.fixture
def no_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    video.can_read_videos.cache_clear()
    yield
    video.can_read_videos.cache_clear()


# -- frames


@pytest.mark.parametrize("kind", FILM)
def test_the_frames_of_a_video_come_in_their_order_with_their_times(tmp_path, kind):
    path = write_video(tmp_path / f"clip.{kind}", greys(12), codec=FILM[kind])
    found = items(path)
    assert [item.path for item in found] == [f"{path}/{n // 10}.{n % 10}00s" for n in range(12)]
    for item, written in zip(found, greys(12), strict=True):
        assert np.abs(pixels(item) - written).max() <= CODED


def test_of_each_sample_time_the_first_frame_at_or_after_it_is_taken(tmp_path):
    path = write_video(tmp_path / "clip.mp4", greys(26), fps=25)
    assert times(path, 10) == [0, 0.12, 0.2, 0.32, 0.4, 0.52, 0.6, 0.72, 0.8, 0.92, 1.0]
    assert times(path, 0.5) == [0]


def test_a_video_of_uneven_times_gives_each_frame_once(tmp_path):
    path = write_video(tmp_path / "clip.mp4", greys(6), times=[0, 0.1, 0.15, 0.5, 1.0, 1.04])
    assert times(path) == [0, 0.1, 0.15, 0.5, 1.0, 1.04]
    assert times(path, 10) == [0, 0.1, 0.5, 1.0]


def test_times_that_are_rounded_to_milliseconds_lose_no_frame(tmp_path):
    path = write_video(tmp_path / "clip.mkv", greys(30), fps=30)
    assert len(times(path, 30)) == 30


def test_times_count_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "clip.mkv", greys(4), times=[7.0, 7.1, 7.2, 7.3])
    assert times(path) == [0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("levels", [220, 256])
@pytest.mark.parametrize("colours", ["bt601", "bt709"])
def test_colours_are_those_of_the_standard_that_the_video_names(tmp_path, colours, levels):
    """The other matrix is wrong by 20 levels, the other range by 15."""
    written = np.full((48, 64, 3), (200, 60, 30), np.uint8)
    path = write_video(tmp_path / "clip.mp4", [written] * 2, colours=colours, levels=levels)
    assert np.abs(pixels(items(path)[0]) - written).max() <= CODED


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
@pytest.mark.parametrize("kind", ["mp4", "mov"])
def test_a_video_of_a_phone_that_was_turned_is_upright(tmp_path, kind, turned):
    corners = np.zeros((48, 64, 3), np.uint8)
    corners[:24, :32, 0] = corners[:24, 32:, 1] = corners[24:, :32, 2] = 255
    (frame,) = items(write_video(tmp_path / f"clip.{kind}", [corners], turned=turned))
    # in the middle of the four corners, where colours of half resolution do not bleed
    shown = np.rot90(corners, -turned // 90).astype(int)
    assert pixels(frame).shape == shown.shape
    assert np.abs(pixels(frame) - shown)[8::16, 8::16].max() <= CODED


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    assert pixels(items(write_video(tmp_path / "clip.mp4", greys(1), aspect=2))[0]).shape == (48, 128, 3)


def test_a_video_of_too_many_pixels_is_a_row_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv(PIXELS_VARIABLE, "4000")
    (row,) = items(write_video(tmp_path / "large.mp4", greys(2, (128, 48))))
    assert "too many pixels: 128 x 48 are more than 4,000; set FACEPCL_MAX_PIXELS" in row.error
    wide = items(write_video(tmp_path / "wide.mp4", greys(2), aspect=2))
    assert [item.error.partition(":")[0] for item in wide] == ["too many pixels"] * 2


def test_the_path_of_a_frame_tells_its_time_and_its_video():
    path = frame_path("day.1/Clip.MP4", 3725.4)
    assert path == "day.1/Clip.MP4/3725.400s"
    assert time_of(path) == 3725.4
    assert shard_of(path) == "day.1/Clip.MP4"
    for other in ("clip.mp4", "clip.mp4/1.jpg", "photo.jpg", "s.tar/1.400s", "clip.mp4/1.400s/a.jpg"):
        assert time_of(other) is None
    assert shard_of("clip.mp4/1.jpg") is None


# -- going on in the middle


def test_frames_are_the_same_wherever_reading_begins(tmp_path):
    pack(tmp_path / "a.tar", {"1.jpg": jpeg(), "2.jpg": jpeg()})
    write_video(tmp_path / "b.mp4", greys(9), fps=9)
    (tmp_path / "c.jpg").write_bytes(jpeg())
    every = items(tmp_path, 5)
    assert len(every) == 2 + 5 + 1
    for start in range(len(every) + 1):
        assert items(tmp_path, 5, start) == every[start:]


def test_what_is_skipped_is_not_converted(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", greys(9))
    converted = []
    encoded = video._encoded
    monkeypatch.setattr(video, "_encoded", lambda *frame: converted.append(1) or encoded(*frame))
    assert len(items(path, start=7)) == 2
    assert len(converted) == 2


# -- damage


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi"])
def test_a_video_that_is_cut_off_gives_what_is_there_and_a_reason(tmp_path, kind):
    path = write_video(tmp_path / f"clip.{kind}", noise(40), codec=FILM[kind])
    whole = items(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    *frames, last = items(path)
    assert 10 < len(frames) < 30
    # but the last one or two, of which bytes are missing
    assert frames[:-2] == whole[: len(frames) - 2]
    assert last.path == str(path)
    assert last.error.startswith("not a whole video: it is cut off after ")


def test_a_video_that_lacks_its_last_byte_lacks_one_frame(tmp_path):
    path = write_video(tmp_path / "clip.mp4", noise(40))
    whole = items(path)
    path.write_bytes(path.read_bytes()[:-1])
    *frames, last = items(path)
    assert frames == whole[:39]
    assert "it is cut off after 4.0 of 4.0 s" in last.error


def test_frames_behind_a_damaged_part_are_read(tmp_path):
    path = write_video(tmp_path / "clip.mp4", noise(40))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(20_000) + data[len(data) // 2 + 20_000 :])
    *frames, last = items(path)
    assert 30 < len(frames) < 40
    assert time_of(frames[-1].path) == 3.9
    assert "damaged packets: " in last.error


def noise(count):
    """Frames that take thousands of bytes each, so that a file can be cut between them."""
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 1000, jpeg()],
    ids=["empty", "noise", "photo"],
)
def test_what_is_no_video_is_one_row_with_a_reason(tmp_path, data):
    (tmp_path / "clip.mp4").write_bytes(data)
    (row,) = items(tmp_path / "clip.mp4")
    assert row.path == str(tmp_path / "clip.mp4")
    assert row.error.startswith("not a whole video: ")


def test_a_list_of_other_files_is_no_video(tmp_path, monkeypatch):
    """FFmpeg by itself would open what it names."""
    write_video(tmp_path / "other.mp4", greys(3))
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    monkeypatch.chdir(tmp_path)
    (row,) = items("clip.mp4")
    assert row.error == "not a whole video: it is in another format"
    monkeypatch.setattr(video, "_FORMATS", "concat,mov")
    assert len(items("clip.mp4")) == 3


def test_a_video_without_pictures_says_so(tmp_path):
    (row,) = items(write_sound(tmp_path / "clip.m4v"))
    assert row.error == "not a whole video: it has no video stream"


def test_a_video_of_an_unknown_codec_says_so(tmp_path):
    path = write_video(tmp_path / "clip.mkv", greys(2))
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_NEW/2030/CODE"))
    (row,) = items(path)
    assert row.error == "not a whole video: FFmpeg does not support its codec"


def test_a_video_that_vanishes_is_a_reason(tmp_path):
    selection = Selection(fps=1)
    listing = list_entries([write_video(tmp_path / "clip.mp4", greys(1))], selection)
    (tmp_path / "clip.mp4").unlink()
    (row,) = read_items(listing, selection=selection)
    assert row.error == "there is no such file"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux has a file that cannot be read")
@pytest.mark.usefixtures("no_waits")
def test_a_video_on_a_drive_that_fails_is_no_bad_row(tmp_path):
    path = write_video(tmp_path / "clip.mp4", greys(3))
    mend = break_drive(path)
    with pytest.raises(RemoteError, match=r"clip\.mp4 cannot be read: .* 3 times in a row"):
        items(path)
    mend()
    assert len(items(path)) == 3


@pytest.mark.usefixtures("no_waits")
def test_a_video_goes_on_where_its_drive_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_BUFFER", 4096)
    path = write_video(tmp_path / "clip.mp4", noise(10))
    whole, read, reads = items(path), storage.RetriedFile._read, []

    def failing(file, size):
        reads.append(size)
        if len(reads) % 3 == 0:
            file._file.close()
            raise OSError(5, "Input/output error")
        return read(file, size)

    monkeypatch.setattr(storage.RetriedFile, "_read", failing)
    assert items(path) == whole
    assert len(reads) > 10


# -- which videos are read


def test_videos_of_folders_globs_and_lists_are_read_if_frames_are_asked_for(tmp_path):
    for name in ("a.mp4", "b.MOV", ".hidden.mp4", "._b.MOV"):
        write_video(tmp_path / name, greys(2))
    (tmp_path / "list.csv").write_text("path\na.mp4\n")
    for source in (tmp_path, f"{tmp_path}/*", f"{tmp_path}/**/*"):
        found = items(source)
        assert [item.path.removeprefix(f"{tmp_path}/") for item in found if not item.error] == [
            *(f"a.mp4/{t}s" for t in ("0.000", "0.100")),
            *(f"b.MOV/{t}s" for t in ("0.000", "0.100")),
        ]
    assert times(tmp_path / "list.csv") == [0, 0.1]


def test_without_frames_videos_are_skipped_and_counted(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", greys(2))
    (tmp_path / "b.jpg").write_bytes(jpeg())
    selection = Selection()
    found = list(read_items(list_entries([tmp_path], selection), selection=selection))
    selection.tell(ADVICE)
    assert [item.path for item in found] == [str(tmp_path / "b.jpg")]
    assert "skipped 1 file: 1 .mp4; .mp4 is a video, which only facepcl analyze reads; extract" in caplog.text
    with pytest.raises(OptionError, match=r"a\.mp4 is a video, which only facepcl analyze reads; extract"):
        list_entries([tmp_path / "a.mp4"])


def test_a_folder_that_is_called_as_a_video_is_a_folder(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    (tmp_path / "a.mp4/1.200s").write_bytes(jpeg())
    selection = Selection(all_files=True, fps=5)
    (item,) = read_items(list_entries([tmp_path], selection), selection=selection)
    assert item.read() == jpeg()
    assert shard_of(item.path) is None


@pytest.mark.usefixtures("no_pyav")
def test_without_pyav_a_video_that_is_named_is_refused_before_any_work(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("path\na.mp4\n")
    for source in ("a.mp4", "list.csv"):
        with pytest.raises(MissingExtra, match=r"av .*facepcl\[video\]"):
            list_entries([tmp_path / source], Selection(fps=5))


@pytest.mark.usefixtures("no_pyav")
def test_without_pyav_videos_among_photos_are_skipped_with_what_to_type(tmp_path, caplog):
    (tmp_path / "a.mov").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(jpeg())
    selection = Selection(fps=5)
    assert [entry.path for entry in list_entries([tmp_path], selection)] == [str(tmp_path / "b.jpg")]
    selection.tell(ADVICE)
    said = "skipped 1 file: 1 .mov; .mov is a video; to read videos, type: pip install 'facepcl[video]'"
    assert said in caplog.text
    assert said in str(no_images([tmp_path], selection))


@pytest.mark.parametrize("fps", [0, 5])
def test_a_video_in_a_shard_is_skipped_with_the_advice_to_unpack_it(tmp_path, caplog, fps):
    pack(tmp_path / "s.tar", {"a.jpg": jpeg(), "clip.MP4": b"x"})
    selection = Selection(fps=fps)
    assert len(list(read_items(list_entries([tmp_path], selection), selection=selection))) == 1
    selection.tell(ADVICE)
    assert caplog.messages == [
        "skipped 1 file: 1 .MP4; .mp4 is a video in a shard, which is not read; unpack it first"
    ]


def test_videos_behind_urls_are_refused_with_what_to_do(tmp_path):
    import fsspec

    fsspec.filesystem("memory").pipe("/folder/clip.mp4", b"x")
    sentence = "a video behind a URL, which is not read; download it first"
    with pytest.raises(OptionError, match=rf"clip\.mp4 is {sentence}"):
        list_entries(["memory://folder/clip.mp4"], Selection(fps=5))
    (tmp_path / "list.csv").write_text("path\nmemory://folder/clip.mp4\n")
    for source in ("memory://folder", tmp_path / "list.csv"):
        (row,) = items(source)
        assert Path(row.path).name == "clip.mp4"
        assert row.error == sentence


@pytest.mark.parametrize("fps", [-1.0, 241.0, float("nan")])
def test_a_number_of_frames_that_cannot_be_is_refused(fps):
    with pytest.raises(OptionError, match=f"must be between 0 .* and 240, not {fps}"):
        Selection(fps=fps)


# -- jobs


def test_a_video_is_a_shard_of_a_job_and_a_change_to_it_ends_the_job(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in/b.mp4", greys(3))
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / "in" / name).write_bytes(jpeg())
    job = Job(tmp_path / "out.parquet", fps=5)
    with job.claimed():
        job.begin("analyze", {}, list_entries([tmp_path / "in"], job.selection))
        listed = [[Path(entry.path).name for entry in shard.entries] for shard in job.shards()]
        assert listed == [["a.jpg"], ["b.mp4"], ["c.jpg"]]
        assert job.image_count() is None
        assert len(list(job.unchanged(job.shards()))) == 3
        write_video(tmp_path / "in/b.mp4", greys(4))
        with pytest.raises(TableError, match=r"b\.mp4 has changed since the work"):
            list(job.unchanged(job.shards()))


def test_a_table_is_known_to_be_that_of_a_video(tmp_path):
    path, table = write_video(tmp_path / "a.mp4", greys(3)), tmp_path / "t.csv"
    selection = Selection(fps=5)
    entries = list(list_entries([path], selection))
    paths = [item.path for item in items(path, 5)]
    table.touch()
    assert is_table_of(paths, entries, table, selection)
    assert not is_table_of([*paths, "b.jpg"], entries, table, selection)
    assert stamp(entries[0], selection) == [path.stat().st_size, path.stat().st_mtime_ns]
    assert stamp(entries[0], Selection()) is None


def test_the_frames_of_a_video_are_embedded(model, tmp_path):
    """By processes that decode: the same numbers as from the frame as an array."""
    path = write_video(tmp_path / "a.mp4", noise(5))
    embedder = facepcl.FaceEmbedder(model, dtype="float32")
    (batch,) = embedder.batches(items(path), workers=1)
    assert batch.rows.paths == [frame_path(str(path), n / 10) for n in range(5)]
    frames = [pixels(item).astype(np.uint8) for item in items(path)]
    np.testing.assert_array_equal(batch.rows.vectors, embedder(frames))


def analyzed(source, out, **options):
    options |= {"crops": True, "fps": 100, "dtype": "float32", "batch_size": 8, "workers": 1}
    facepcl.analyze(source, out, **options)
    return facepcl.read_embeddings(out)


@pytest.mark.usefixtures("small_parts")
def test_a_job_that_stopped_in_the_middle_of_a_video_goes_on_to_the_same_table(tmp_path):
    path, out = write_video(tmp_path / "a.mp4", noise(40)), tmp_path / "e.npz"
    whole = analyzed(path, tmp_path / "whole.npz")
    with stopping_after(TableWriter, 3):  # of 8 frames: a part is written
        analyzed(path, out)
    assert Job(out, fps=100).parts()
    table = analyzed(path, out, resume=True)
    assert table.paths == whole.paths == [item.path for item in items(path)]
    assert table.vectors.tobytes() == whole.vectors.tobytes()


def test_a_folder_of_tables_has_one_for_each_video(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "in" / name, noise(3))
    (tmp_path / "in/c.jpg").write_bytes(jpeg())
    assert len(analyzed(tmp_path / "in", tmp_path / "out")) == 3 + 3 + 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00000000-a.mp4.parquet",
        "00000001-b.mp4.parquet",
        "00000002-files.parquet",
    ]


@pytest.mark.slow
def test_a_rendered_head_turns_from_one_side_to_the_other_and_back(tmp_path):
    pytest.importorskip("numba", reason="needs numba (extra synth)")
    yaws = write_turning_head(tmp_path / "head.mp4")
    frames = items(tmp_path / "head.mp4", 10)
    assert len(frames) == len(yaws) == 100
    assert (yaws[0], max(yaws)) == (-45, pytest.approx(45))
    assert pixels(frames[0]).shape == (96, 96, 3)
    there, back = pixels(frames[20]), pixels(frames[80])  # the same yaw
    assert np.abs(there - back).mean() < 2 < np.abs(there - pixels(frames[50])).mean()
