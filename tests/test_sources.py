"""Files, folders, globs, manifests and shards as one ordered stream."""

import builtins
import errno
import io
import os
import tracemalloc
from pathlib import Path

import pytest
from helpers.files import break_drive, jpeg, pack

from facepcl.data.file_types import ADVICE, Selection
from facepcl.data.sources import list_entries, read_items
from facepcl.errors import ImageError, MissingPath, OptionError, RemoteError
from facepcl.utils import storage


def items(*sources, start=0):
    return list(read_items(list_entries(sources), start))


def paths(*sources):
    return [item.path for item in items(*sources)]


def truncated(path, size):
    os.truncate(path, size)
    return path


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_a_folder_is_read_in_order_without_hidden_and_other_files(tmp_path):
    write_files(tmp_path, "b/2.jpg", "b/1.PNG", "a.webp", ".hidden.jpg", ".git/x.jpg", "notes.txt")
    found = [p.removeprefix(str(tmp_path) + "/") for p in paths(tmp_path)]
    assert found == ["a.webp", "b/1.PNG", "b/2.jpg"]


def test_linked_folders_are_read_and_make_no_loop(tmp_path):
    """One link back to itself, two that lead to each other, and one to a folder elsewhere."""
    write_files(tmp_path, "in/x/a.jpg", "in/y/a.jpg", "out/a.jpg")
    links = {"in/loop": "in", "in/x/to_y": "in/y", "in/y/to_x": "in/x", "in/linked": "out"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(tmp_path / target, target_is_directory=True)
    found = [p.removeprefix(f"{tmp_path}/in/") for p in paths(tmp_path / "in")]
    assert found == ["linked/a.jpg", "x/a.jpg", "x/to_y/a.jpg", "y/a.jpg", "y/to_x/a.jpg"]


def test_a_link_to_itself_hides_no_other_file_of_its_folder(tmp_path):
    write_files(tmp_path, "a.jpg")
    (tmp_path / "loop").symlink_to("loop")
    assert paths(tmp_path) == [f"{tmp_path}/a.jpg"]


def test_a_folder_that_vanishes_while_it_is_listed_is_a_reason(tmp_path):
    """So is one that may not be listed; no test can close a folder to root."""
    write_files(tmp_path, "a/1.jpg", "b/1.jpg")
    listing = list_entries([tmp_path])
    (tmp_path / "b/1.jpg").unlink()
    (tmp_path / "b").rmdir()
    *_, last = read_items(listing)
    assert last.path == str(tmp_path / "b")
    with pytest.raises(MissingPath):
        last.read()


def test_names_that_are_not_utf8_are_kept(tmp_path):
    for name in (b"\xff.jpg", b"a\n.jpg"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(name)
    assert [item.read() for item in items(tmp_path)] == [b"a\n.jpg", b"\xff.jpg"]


def test_sources_keep_their_order_and_a_named_file_is_always_tried(tmp_path):
    write_files(tmp_path, "z/1.jpg", "face.dat")
    found = paths(tmp_path / "face.dat", tmp_path / "z")
    assert found == [str(tmp_path / "face.dat"), str(tmp_path / "z/1.jpg")]


def test_a_glob_gives_images_and_shards_in_order(tmp_path):
    write_files(tmp_path, "p/b/2.jpg", "p/a/1.jpg", "p/a/notes.txt", "p/c.jpg/3.png")
    pack(tmp_path / "p/a/s.tar", {"m.jpg": b"1"})
    found = [p.removeprefix(f"{tmp_path}/p/") for p in paths(f"{tmp_path}/p/**/*")]
    assert found == ["a/1.jpg", "a/s.tar/m.jpg", "b/2.jpg", "c.jpg/3.png"]


def test_a_glob_follows_no_loop_and_tells_of_folders_it_leaves_out(tmp_path, caplog):
    write_files(tmp_path, "p/1.jpg", "p/in/2.jpg")
    (tmp_path / "p/in/loop").symlink_to(tmp_path / "p", target_is_directory=True)
    (tmp_path / "p/other").symlink_to(tmp_path / "p/in", target_is_directory=True)
    found = [p.removeprefix(f"{tmp_path}/p/") for p in paths(f"{tmp_path}/p/**/*.jpg")]
    assert found == ["1.jpg", "in/2.jpg", "other/2.jpg"]
    assert paths(f"{tmp_path}/?/**/2.jpg") == [f"{tmp_path}/p/{name}/2.jpg" for name in ("in", "other")]
    assert not caplog.text
    assert paths(f"{tmp_path}/p/*") == [f"{tmp_path}/p/1.jpg"]
    assert "skipped 2 matching folders; use ** to descend into them" in caplog.text


def test_an_empty_text_is_not_this_folder():
    with pytest.raises(OptionError, match="a source is an empty string"):
        list_entries([""])


def test_a_name_with_brackets_that_exists_is_no_glob(tmp_path):
    write_files(tmp_path, "a[1].jpg")
    assert paths(tmp_path / "a[1].jpg") == [str(tmp_path / "a[1].jpg")]


def test_a_manifest_names_files_relative_to_its_folder_in_its_order(tmp_path):
    lines = "\ufefflabel,path\r\n1,b.jpg\r\n\r\n2,sub/a.jpg\r\n3,/abs/c.jpg\n4\n"
    (tmp_path / "list.csv").write_text(lines, "utf-8", newline="")
    found = items(tmp_path / "list.csv")
    assert [i.path for i in found[:3]] == [f"{tmp_path}/b.jpg", f"{tmp_path}/sub/a.jpg", "/abs/c.jpg"]
    assert found[3].error == "line 6 of the manifest names no path"


@pytest.mark.parametrize("absolute", [False, True])
def test_a_manifest_names_files_of_the_working_folder_if_they_are_only_there(tmp_path, monkeypatch, absolute):
    """As the tables do that facepcl writes. One folder holds for all, whatever is missing in it."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, "photos/a.jpg", "photos/b.jpg", "lists/photos/c.jpg")
    (tmp_path / "lists/list.csv").write_text(
        "path\nphotos/none.jpg\nphotos/a.jpg\nphotos\\b.jpg\nphotos/c.jpg\n"
    )
    root = f"{tmp_path}/" if absolute else ""
    names = ("none.jpg", "a.jpg", "b.jpg", "c.jpg")
    assert paths(f"{root}lists/list.csv") == [f"{root}photos/{name}" for name in names]


def test_the_folder_of_a_manifest_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, "a.jpg", "lists/a.jpg")
    (tmp_path / "lists/list.csv").write_text("path\na.jpg\n")
    assert paths("lists/list.csv") == ["lists/a.jpg"]


def test_an_image_that_a_manifest_names_in_no_folder_is_read_once_it_is_there(tmp_path):
    (tmp_path / "list.csv").write_text("path\nsub/a.jpg\nb.jpg\n")
    listing = list(list_entries([tmp_path / "list.csv"]))
    assert [entry.error for entry in listing] == ["there is no such file, and none beside it", None]
    write_files(tmp_path, "sub/a.jpg")
    assert [item.error for item in read_items(listing)] == [None, None]


def test_a_manifest_without_paths_says_what_it_has(tmp_path):
    (tmp_path / "list.csv").write_text("file,label\na.jpg,1\n")
    with pytest.raises(OptionError, match=r"no column 'path'.*file,label"):
        list_entries([tmp_path / "list.csv"])


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("list.csv", "label;path\n1,5;a.jpg\n", "utf-8-sig"),
        ("list.csv", "label\tpath\n1\ta.jpg\n", "utf-16"),
        ("list.tsv", "path\tlabel\na.jpg\t1\n", "utf-8"),
        ("metadata.csv", "file_name,text\na.jpg,smiling\n", "utf-8"),
        ("LIST.CSV", "Label, Path\n1,a.jpg\n", "utf-8"),
        ("list.csv", "path\n.\\a.jpg\n", "utf-8"),
    ],
    ids=["semicolons", "UTF-16", "tabs", "imagefolder", "capitals", "backslashes"],
)
def test_manifests_are_read_as_other_programs_write_them(tmp_path, name, text, encoding):
    write_files(tmp_path, "a.jpg")
    (tmp_path / name).write_text(text, encoding)
    (item,) = items(tmp_path / name)
    assert item.read() == b"x"


def test_a_backslash_in_a_name_is_kept(tmp_path):
    write_files(tmp_path, "a\\b.jpg", "a/b.jpg")
    (tmp_path / "list.csv").write_text("path\na\\b.jpg\n")
    assert paths(tmp_path / "list.csv") == [f"{tmp_path}/a\\b.jpg"]


def test_any_kinds_may_be_mixed_and_begun_anywhere(tmp_path):
    tar = pack(tmp_path / "s.tar", {"1.jpg": b"1", "2.jpg": b"2", "3.jpg": b"3"})
    write_files(tmp_path, "f/a.jpg", "f/b.jpg")
    (tmp_path / "list.csv").write_text("path\nf/b.jpg\ns.tar\n")
    sources = (tmp_path / "f", tar, tmp_path / "list.csv", f"{tmp_path}/f/[a]*")
    whole = items(*sources)
    assert len(whole) == 2 + 3 + (1 + 3) + 1
    for start in range(len(whole) + 2):
        assert items(*sources, start=start) == whole[start:]


def test_a_shard_gives_its_image_members_in_their_order(tmp_path):
    tar = pack(tmp_path / "s.tar", {"b.jpg": b"1", "b.json": b"{}", "a.png": b"2"})
    assert [(i.path, i.data) for i in items(tar)] == [(f"{tar}/b.jpg", b"1"), (f"{tar}/a.png", b"2")]


def test_a_shard_cut_off_gives_what_is_whole_and_a_reason(tmp_path):
    tar = truncated(pack(tmp_path / "s.tar", {"a.jpg": b"1" * 600, "b.jpg": b"2" * 5000}), 3000)
    good, cut_off, last = items(tar)
    assert (good.path, good.error) == (f"{tar}/a.jpg", None)
    assert cut_off.path == f"{tar}/b.jpg"
    assert cut_off.error == "cannot be read: unexpected end of data"
    with pytest.raises(ImageError, match="cut off"):
        last.read()
    assert items(tar, start=1) == [cut_off, last]


@pytest.mark.parametrize("cut", [1024, 1024 + 100])
def test_a_shard_cut_off_between_or_inside_headers_says_so(tmp_path, cut):
    """tarfile alone takes both for the end, and a third of the images would be missing without a word."""
    tar = truncated(pack(tmp_path / "s.tar", {"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"}), cut)
    *good, last = items(tar)
    assert [item.path for item in good] == [f"{tar}/a.jpg"]
    assert "cut off" in last.error


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_shards_are_read_and_their_end_is_checked(tmp_path, kind):
    path = tmp_path / f"s.tar.{kind}"
    pack(path, {f"{i}.jpg": os.urandom(3000) for i in range(20)}, f"w:{kind}")
    assert len(items(path)) == 20
    path.write_bytes(path.read_bytes()[:-20_000])
    *good, last = items(path)
    assert len(good) < 20
    assert "cut off" in last.error


def test_an_empty_shard_that_is_whole_gives_nothing(tmp_path):
    assert paths(pack(tmp_path / "s.tar", {})) == []


@pytest.mark.slow
def test_a_shard_of_very_many_members_takes_no_memory(tmp_path):
    pack(tmp_path / "s.tar", {f"{i}.jpg": b"x" for i in range(20_000)})
    tracemalloc.start()
    count = sum(1 for _ in read_items(list_entries([tmp_path / "s.tar"])))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 8e6  # with all headers kept it is 28 MB


def test_what_is_no_tar_is_one_row_with_a_reason(tmp_path):
    (tmp_path / "s.tar").write_bytes(b"this is no tar")
    (item,) = items(tmp_path / "s.tar")
    assert "not a tar file" in item.error


def test_a_file_that_vanishes_is_a_reason(tmp_path):
    write_files(tmp_path, "a.jpg")
    (item,) = items(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(MissingPath, match=r"a\.jpg: there is no such file"):
        item.read()


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.jpg", "nowhere.csv"])
def test_a_missing_source_is_named(tmp_path, source):
    with pytest.raises((MissingPath, OptionError), match="nowhere"):
        list_entries([tmp_path / source])


def test_a_folder_without_images_is_an_error_that_says_what_it_holds(tmp_path):
    with pytest.raises(OptionError, match=r"no images in [^:]*$"):
        list_entries([tmp_path])
    write_files(tmp_path, "a.NEF", "b.NEF", "none")
    skipped = "skipped 3 files: 2 .NEF, 1 without extension"
    with pytest.raises(OptionError, match=rf"no images in .*: {skipped}; use --all-files to read them"):
        list_entries([tmp_path])
    write_files(tmp_path, "train.rec")
    with pytest.raises(OptionError, match=r"; \.rec is an MXNet record file.*write its images to folders"):
        list_entries([tmp_path])


# -- what is skipped


def test_a_selection_counts_what_it_skips_by_extension_but_nothing_hidden():
    selection = Selection(labels=[".json"])
    names = ["a.jpg", "b.NEF", "c/d.NEF", "none", "e.JPG_large", ".DS_Store", "c/._a.jpg", "Thumbs.db"]
    assert [name for name in [*names, "a.json", "s.tar.gz"] if selection.takes(name)] == ["a.jpg", "s.tar.gz"]
    assert str(selection) == "skipped 4 files: 2 .NEF, 1 without extension, 1 .JPG_large"
    assert str(Selection()) == ""


def test_a_message_of_very_many_extensions_stays_short():
    selection = Selection()
    for i in range(1000):
        selection.takes(f"a.{i:03d}{'x' * 300}")
    assert len(str(selection)) < 300
    assert str(selection).endswith("992 others")


@pytest.mark.parametrize("glob", ["", "/**/*", "/*"])
def test_folders_globs_and_shards_count_what_they_skip(tmp_path, glob):
    write_files(tmp_path, "a.jpg", "b.NEF", ".hidden.NEF", "none")
    pack(tmp_path / "s.tar", {"1.jpg": b"1", "1.json": b"{}", ".x": b"", "c.NEF": b"2"})
    selection = Selection()
    found = list(read_items(list_entries([f"{tmp_path}{glob}"], selection), selection=selection))
    assert len(found) == 2
    assert selection.skipped == {".NEF": 2, "": 1, ".json": 1}


@pytest.mark.parametrize("cell", [" lead.jpg", "end ", "  plain.jpg "])
def test_a_name_in_a_manifest_keeps_the_spaces_that_it_has_on_disk(tmp_path, cell):
    write_files(tmp_path, " lead.jpg", "end ", "plain.jpg")
    (tmp_path / "list.csv").write_text(f"path\n{cell}\n")
    [entry] = list_entries([tmp_path / "list.csv"])
    assert entry.error is None
    assert Path(entry.path).is_file()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.NEF", "b"], "; use --all-files to read them"),
        (
            ["list.csv"],
            "; .csv is a list or a table; if its column path names images, name the file itself to read them",
        ),
        (
            ["a.txt", "b.json", "c.mp4"],
            "; .txt is not an image; a list of images is a .csv file with a column path; .json is a label "
            "file, which facepcl pretrain and probe read; lists of images are .csv files with a column path; "
            ".mp4 is a video, which only facepcl analyze reads; extract its frames as images first",
        ),
        (
            ["a.NEF", "x.zip"],
            "; .zip is an archive, which is not read; unpack it and name the folder; use --all-files to read "
            "the others",
        ),
    ],
)
def test_what_is_skipped_is_told_with_what_reads_it(caplog, names, said):
    selection = Selection()
    assert not any(map(selection.takes, names))
    selection.tell(ADVICE)
    (message,) = caplog.messages
    assert message == f"{selection}{said}"


def test_a_shard_in_a_shard_is_skipped_with_the_advice_to_unpack_it():
    selection = Selection()
    assert not selection.takes_member("part.tar")
    assert selection.explain(ADVICE).endswith(
        "; .tar is a shard in a shard, which is not read; unpack it first"
    )


def test_the_table_that_align_writes_beside_its_crops_is_not_counted(tmp_path):
    write_files(tmp_path, "a_0.jpg", "faces.csv", "faces.csv.meta.json")
    selection = Selection()
    assert len(list(list_entries([tmp_path], selection))) == 1
    assert not selection.skipped


def test_all_files_are_read_if_that_is_asked_for_but_hidden_ones(tmp_path):
    write_files(tmp_path, "a.jpg", "b.NEF", ".hidden", "none")
    pack(tmp_path / "s.tar", {"c": b"1", ".d": b"2"})
    selection = Selection(all_files=True)
    found = read_items(list_entries([tmp_path], selection), selection=selection)
    assert [os.path.basename(item.path) for item in found] == ["a.jpg", "b.NEF", "none", "c"]
    assert not selection.skipped


def test_images_are_what_the_installed_decoders_read(tmp_path):
    names = "a.hif a.heics a.jxl a.jpe a.jfif a.MPO a.j2k a.psd a.ico a.pcx a.qoi a.avif a.tiff"
    write_files(tmp_path, *names.split(), "a.eps", "a.pdf", "a.mpg", "a.h5", "a.txt")
    assert len(paths(tmp_path)) == len(names.split())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("takeout.zip", b"PK\3\4...", "is an archive, which is not read; unpack it"),
        ("takeout", b"PK\3\4...", "is an archive"),
        ("photos.rar", b"?", "is an archive"),
        ("train.rec", b"\x0a\x23\xd7\xce...", "is an MXNet record file"),
        ("train.rec", b"?", "is an MXNet record file"),
        ("faces.parquet", b"PAR1", "is a table, not images"),
        ("list.txt", b"a.jpg\n", "is not an image; a list of images is a .csv file with a column path"),
        (
            "film.mp4",
            b"\0\0\0\x18ftypmp42",
            "is a video, which only facepcl analyze reads; extract its frames",
        ),
        ("lfw.bin", b"\x80\x04", "is not an image; pairs of insightface are for facepcl probe verification"),
    ],
)
def test_a_file_that_cannot_hold_images_is_refused_with_what_to_do(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(OptionError, match=rf"{name} {said}"):
        list_entries([tmp_path / name])


def test_a_tar_under_another_name_says_so(tmp_path):
    pack(tmp_path / "shard", {"a.jpg": b"1"})
    with pytest.raises(OptionError, match=r"shard is a tar, and the names of shards end in .*rename it"):
        list_entries([tmp_path / "shard"])


@pytest.mark.parametrize("name", ["image.txt", "image.zip", "image", "image.rec"])
def test_an_image_that_is_named_is_taken_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(jpeg())
    assert paths(tmp_path / name) == [str(tmp_path / name)]


def test_a_message_does_not_repeat_an_item_of_megabytes():
    for source in ("data:image/jpeg;base64," + "A" * 3_000_000, "a" * 3_000_000):
        with pytest.raises((OptionError, MissingPath)) as error:
            list_entries([source])
        assert len(str(error.value)) < 400


def test_a_link_in_a_shard_is_named_and_not_left_out(tmp_path):
    tar = pack(tmp_path / "s.tar", {"a.jpg": b"1", "link.jpg": None})
    first, second = items(tar)
    assert first.data == b"1"
    assert (second.path, second.data) == (f"{tar}/link.jpg", None)
    assert second.error == "cannot be read: it is a link to /etc/hostname, which a stream cannot follow"


def test_shards_that_were_joined_say_so_and_lose_nothing_silently(tmp_path):
    one, two = (pack(tmp_path / f"{n}.tar", {f"{n}.jpg": b"1"}) for n in "ab")
    joined = tmp_path / "joined.tar"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    first, second = items(joined)
    assert first.data == b"1"
    assert "another archive follows its end mark; keep them in two files" in second.error


def test_an_unclosed_quote_in_a_manifest_is_an_error(tmp_path):
    (tmp_path / "list.csv").write_text('path,note\na.jpg,"unclosed\nb.jpg,1\n')
    with pytest.raises(OptionError, match=r"list\.csv, line \d: unexpected end of data"):
        items(tmp_path / "list.csv")


# -- drives that fail


def failing(times, code):
    """Wraps a function so that it fails so many times."""

    def wrap(function):
        def wrapped(path, *args, **kwargs):
            nonlocal times
            if times and "drive" in os.fspath(path):
                times -= 1
                raise OSError(code, os.strerror(code))
            return function(path, *args, **kwargs)

        return wrapped

    return wrap


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    "name", ["EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "ENODEV", "EREMOTEIO"]
)
@pytest.mark.parametrize("function", ["os.stat", "builtins.open", "os.scandir"])
def test_a_drive_that_fails_is_asked_again_and_then_an_error(tmp_path, monkeypatch, function, name):
    write_files(tmp_path, "drive/a.jpg")
    module, _, attribute = function.rpartition(".")
    real = getattr({"os": os, "builtins": builtins}[module], attribute)
    code = getattr(errno, name)
    for times in (2, 10_000):
        with monkeypatch.context() as patch:
            patch.setattr(function, failing(times, code)(real))
            if times == 2:
                assert [item.read() for item in items(tmp_path / "drive")] == [b"x"]
            else:
                with pytest.raises(
                    RemoteError, match=f"cannot be read: {os.strerror(code)}, 3 times in a row"
                ):
                    [item.read() for item in items(tmp_path / "drive")]


@pytest.mark.parametrize("name", ["EACCES", "ENOENT", "ELOOP", "ENAMETOOLONG"])
def test_what_is_wrong_with_one_file_stays_its_reason(tmp_path, monkeypatch, name):
    write_files(tmp_path, "drive/a.jpg")
    (item,) = items(tmp_path / "drive")
    monkeypatch.setattr("builtins.open", failing(1, getattr(errno, name))(open))
    with pytest.raises((ImageError, MissingPath)):
        item.read()


def test_a_shard_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    pack(tmp_path / "drive.tar", {"a.jpg": b"x"})
    monkeypatch.setattr("builtins.open", failing(100, errno.EACCES)(open))
    assert [item.error for item in items(tmp_path)] == ["cannot be read: Permission denied"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows")
def test_a_pipe_that_is_called_a_shard_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "s.tar")
    [item] = items(tmp_path)
    assert item.error == "cannot be read: it is a folder, pipe or device, not a file"


@pytest.mark.usefixtures("no_waits")
def test_a_drive_that_gives_fewer_bytes_than_a_file_has_is_no_bad_image(tmp_path, monkeypatch):
    write_files(tmp_path, "drive/a.jpg")
    (item,) = items(tmp_path / "drive")
    monkeypatch.setattr("builtins.open", lambda *about: io.BytesIO(b""))
    with pytest.raises(RemoteError, match="the drive gives fewer bytes than the file has, 3 times in a row"):
        item.read()


@pytest.mark.usefixtures("no_waits")
def test_a_glob_leaves_out_no_folder_that_a_drive_fails_to_list(tmp_path, monkeypatch):
    write_files(tmp_path, "drive/a/1.jpg", "drive/b/2.jpg", "drive/b/.hidden.jpg", "drive/c.jpg")
    real = os.listdir
    for times in (2, 10_000):
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", failing(times, errno.EIO)(real))
            if times == 2:
                assert paths(f"{tmp_path}/drive/*/*") == [f"{tmp_path}/drive/{n}.jpg" for n in ("a/1", "b/2")]
            else:
                with pytest.raises(RemoteError, match="cannot be read: Input/output error"):
                    paths(f"{tmp_path}/drive/*/*")


@pytest.mark.usefixtures("no_waits")
def test_a_list_of_images_is_asked_for_again_and_then_an_error(tmp_path, monkeypatch):
    write_files(tmp_path, "a.jpg", "drive/list.csv")
    (tmp_path / "drive/list.csv").write_text("path\n../a.jpg\n")
    for times in (2, 10_000):
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", failing(times, errno.ESTALE)(open))
            if times == 2:
                assert paths(tmp_path / "drive/list.csv") == [f"{tmp_path}/drive/../a.jpg"]
            else:
                with pytest.raises(
                    RemoteError, match=r"list\.csv cannot be read: Stale file handle, 3 times"
                ):
                    paths(tmp_path / "drive/list.csv")


@pytest.mark.usefixtures("no_waits")
def test_a_shard_goes_on_where_its_drive_failed(tmp_path, monkeypatch):
    """With a new handle: a stale one stays stale."""
    members = {f"{i}.jpg": os.urandom(3000) for i in range(20)}
    tar = pack(tmp_path / "s.tar", members)
    real, reads = storage.RetriedFile._read, 0

    def read(self, size):
        nonlocal reads
        reads += 1
        if reads in (3, 5, 6):
            self._file.close()
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(self, size)

    monkeypatch.setattr(storage.RetriedFile, "_read", read)
    assert [item.data for item in items(tar)] == list(members.values())


@pytest.mark.usefixtures("no_waits")
def test_a_shard_of_which_a_drive_gives_a_part_is_not_taken_for_one_that_is_cut_off(tmp_path):
    tar = pack(tmp_path / "s.tar", {"a.jpg": b"1", "b.jpg": b"2" * 50_000})
    found = read_items(list_entries([tar]))
    next(found)
    os.truncate(tar, 15_000)
    with pytest.raises(RemoteError, match="the drive gives fewer bytes than the file has"):
        list(found)


@pytest.mark.usefixtures("no_waits")
def test_a_shard_on_a_drive_that_is_gone_is_no_bad_row(tmp_path):
    tar = pack(tmp_path / "s.tar", {"a.jpg": b"1"})
    break_drive(tar)
    with pytest.raises(RemoteError, match=r"s\.tar cannot be read: Input/output error"):
        items(tar)
