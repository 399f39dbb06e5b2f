"""Files, folders and shards as one ordered stream."""

import io
import tarfile

import pytest

from facepcl.errors import ImageError, MissingPath, OptionError
from facepcl.sources import check, list_files, read_items


def paths(*sources):
    return [item.path for item in read_items(list_files(sources))]


def write_tar(path, members, cut=None):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    path.write_bytes(file.getvalue()[:cut])
    return path


def test_a_folder_is_read_in_order_without_hidden_and_other_files(tmp_path):
    for name in ("b/2.jpg", "b/1.PNG", "a.webp", ".hidden.jpg", ".git/x.jpg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    found = [p.removeprefix(str(tmp_path) + "/") for p in paths(tmp_path)]
    assert found == ["a.webp", "b/1.PNG", "b/2.jpg"]


def test_a_linked_folder_makes_no_loop(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(paths(tmp_path)) == 1


def test_sources_keep_their_order_and_a_named_file_is_always_tried(tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "z/1.jpg").write_bytes(b"x")
    (tmp_path / "face.dat").write_bytes(b"x")
    assert paths(tmp_path / "face.dat", tmp_path / "z") == [
        str(tmp_path / "face.dat"),
        str(tmp_path / "z/1.jpg"),
    ]


def test_a_shard_gives_its_image_members_in_their_order(tmp_path):
    tar = write_tar(tmp_path / "s.tar", {"b.jpg": b"1", "b.json": b"{}", "a.png": b"2", "link.jpg": None})
    items = list(read_items(list_files([tar])))
    assert [(i.path, i.data) for i in items] == [(f"{tar}/b.jpg", b"1"), (f"{tar}/a.png", b"2")]


def test_a_shard_in_a_folder_is_read_too(tmp_path):
    write_tar(tmp_path / "s.tar", {"a.jpg": b"1"})
    assert paths(tmp_path) == [f"{tmp_path}/s.tar/a.jpg"]


def test_a_shard_cut_off_gives_what_is_whole_and_a_reason(tmp_path):
    tar = write_tar(tmp_path / "s.tar", {"a.jpg": b"1" * 600, "b.jpg": b"2" * 5000}, cut=3000)
    *good, last = read_items(list_files([tar]))
    assert [item.path for item in good] == [f"{tar}/a.jpg"]
    with pytest.raises(ImageError, match="breaks off"):
        check(last)


def test_a_file_that_vanishes_is_a_reason(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    files = list_files([path])
    path.unlink()
    (item,) = read_items(files)
    with pytest.raises(ImageError, match="cannot be read"):
        check(item)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(MissingPath, match="nowhere"):
        list_files([tmp_path / "nowhere"])


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(OptionError, match="no images"):
        list_files([tmp_path])


@pytest.mark.parametrize("cut", [1024, 1024 + 100])
def test_a_shard_cut_off_between_or_inside_headers_says_so(tmp_path, cut):
    """tarfile alone takes both for the end, and a third of the images would be missing without a word."""
    tar = write_tar(tmp_path / "s.tar", {"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"}, cut=cut)
    *good, last = read_items(list_files([tar]))
    assert [item.path for item in good] == [f"{tar}/a.jpg"]
    with pytest.raises(ImageError, match="breaks off"):
        check(last)


def test_an_empty_shard_that_is_whole_gives_nothing(tmp_path):
    assert paths(write_tar(tmp_path / "s.tar", {})) == []
