"""Sources behind URLs: listed in the order of local ones, read ahead, and what the network does is no image's
fault."""

import functools
import http.server
import re
import shutil
import socket
import sys
import threading

import fsspec
import numpy as np
import pytest
from helpers.files import FACES, pack

import facepcl
from facepcl.alignment.face_table import CropNames
from facepcl.cli import main
from facepcl.data import remote, sources
from facepcl.data.file_types import Selection
from facepcl.data.remote import is_url, list_url
from facepcl.data.sources import list_entries, read_items, shard_of
from facepcl.embedding import writers
from facepcl.errors import MissingExtra, MissingPath, OptionError, RemoteError, TableError
from facepcl.images.face import LANDMARK_COLUMNS

OPTIONS = {"dtype": "float32", "batch_size": 4}
NAMES = ("b/2.jpg", "b/1.PNG", "a.webp", ".hidden.jpg", ".git/x.jpg", "notes.txt", "b/c/3.jpg", "b/d.jpg")


@pytest.fixture
def memory(monkeypatch):
    """fsspec's file system in this process."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    return fs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight crops, one of them broken, and a tar of four."""
    folder = tmp_path_factory.mktemp("data") / "crops"
    (folder / "more").mkdir(parents=True)
    for i, face in enumerate(FACES[:8]):
        shutil.copy(face, folder / ("more" if i % 2 else ".") / f"{i}.jpg")
    (folder / "more/3.jpg").write_bytes(b"no picture")
    pack(folder / "s.tar", {f"{i}.jpg": face.read_bytes() for i, face in enumerate(FACES[8:12])})
    return folder


@pytest.fixture(scope="module")
def whole(model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "e.npz"
    facepcl.embed(folder, out, model=model, **OPTIONS)
    return facepcl.read_embeddings(out)


def put(fs, folder, root):
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe(f"{root}/{path.relative_to(folder)}", path.read_bytes())


def same(found, wanted, url, folder):
    assert found.paths == [path.replace(str(folder), url) for path in wanted.paths]
    assert (found.errors, found.meta) == (wanted.errors, wanted.meta)
    return np.array_equal(found.vectors, wanted.vectors, equal_nan=True)


def paths(*given):
    return [item.path for item in read_items(list_entries(given))]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://bucket/x.jpg", True),
        ("memory://x", True),
        (r"C:\photos\x.jpg", False),
        ("c://x", False),
        ("photos/a://b", False),
        ("photos", False),
    ],
)
def test_what_is_a_url(path, expected):
    assert is_url(path) == expected


def test_a_folder_behind_a_url_is_listed_as_a_local_one(memory, tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    put(memory, tmp_path, "/p")
    local = [path.replace(str(tmp_path), "memory:///p") for path in paths(tmp_path)]
    assert paths("memory://p") == paths("memory://p/") == local
    assert len(local) == 5


def test_files_globs_and_manifests_name_urls_too(memory, tmp_path):
    for name in ("p/b/2.jpg", "p/a/1.jpg", "p/a/notes.txt", "p/a[1].jpg", "p/face.dat"):
        memory.pipe(f"/{name}", b"x")
    assert paths("memory://p/*/*") == ["memory:///p/a/1.jpg", "memory:///p/b/2.jpg"]
    assert paths("memory://p/face.dat", "memory://p/a[1].jpg") == [
        "memory:///p/face.dat",
        "memory:///p/a[1].jpg",
    ]
    (tmp_path / "list.csv").write_text("path\nmemory://p/b/2.jpg\nlocal.jpg\nmemory://p/none.jpg\n")
    (tmp_path / "local.jpg").write_bytes(b"y")
    items = list(read_items(list_entries([tmp_path / "list.csv"])))
    assert [item.data for item in items] == [b"x", None, None]
    assert items[2].error == "there is no such file"


def test_the_table_is_that_of_local_files(memory, model, folder, whole, tmp_path):
    put(memory, folder, "/crops")
    summary = facepcl.embed("memory://crops", tmp_path / "e.npz", model=model, **OPTIONS)
    assert (summary.total, summary.failed) == (12, 1)
    assert same(facepcl.read_embeddings(tmp_path / "e.npz"), whole, "memory:///crops", folder)


@pytest.mark.parametrize("work", ["embed", "align", "search"])
def test_what_is_behind_a_url_is_listed_once(memory, folder, tmp_path, monkeypatch, work):
    """Of a bucket of a million images that takes minutes."""
    put(memory, folder, "/crops")
    facepcl.embed(list(FACES[:2]), tmp_path / "t.npz", **OPTIONS)
    asked = []
    monkeypatch.setattr(sources, "list_url", lambda url, *rest: asked.append(url) or list_url(url, *rest))
    (tmp_path / "landmarks.csv").write_text(f"path,{','.join(LANDMARK_COLUMNS)}\n")
    {
        "embed": lambda: facepcl.embed("memory://crops", tmp_path / "e.npz", **OPTIONS),
        "align": lambda: facepcl.align(
            "memory://crops", tmp_path / "out", landmarks=tmp_path / "landmarks.csv", workers=0
        ),
        "search": lambda: facepcl.search("memory://crops", tmp_path / "t.npz"),
    }[work]()
    assert asked == ["memory://crops"]


def test_a_tar_that_is_cut_off_gives_what_is_whole_and_a_reason(memory, folder):
    memory.pipe("/s.tar", (folder / "s.tar").read_bytes()[:9000])
    first, *_, last = read_items(list_entries(["memory://s.tar"]))
    assert first.path == "memory:///s.tar/0.jpg"
    assert first.data == FACES[8].read_bytes()
    assert "cut off" in last.error


def test_an_image_that_is_too_large_is_never_fetched(memory, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    memory.pipe("/p/a.jpg", b"x" * 101)
    monkeypatch.setattr(type(memory), "cat_file", None)
    (item,) = read_items(list_entries(["memory://p"]))
    assert item.error == "cannot be read: 101 bytes are too many for an image"


def test_images_are_asked_for_ahead_and_come_in_order(memory, monkeypatch):
    """Not one by one: each takes as long as the way to the server and back."""
    for i in range(100):
        memory.pipe(f"/p/{i:03d}.jpg", b"%d" % i)
    together = threading.Barrier(sources.URLS_AHEAD)
    cat_file = type(memory).cat_file

    def slow(self, path, *args, **kwargs):
        if int(path[-7:-4]) < sources.URLS_AHEAD:
            together.wait(30)  # for all others of them to be asked for as well
        return cat_file(self, path, *args, **kwargs)

    monkeypatch.setattr(type(memory), "cat_file", slow)
    assert [int(item.data) for item in read_items(list_entries(["memory://p"]))] == list(range(100))


def test_a_url_that_was_missing_is_not_asked_for_again(memory, model, tmp_path):
    """Its row stays until its table is deleted; a file here would be tried again."""
    memory.pipe("/p/a.jpg", FACES[0].read_bytes())
    (tmp_path / "list.csv").write_text("path\nmemory://p/a.jpg\nmemory://p/none.jpg\n")
    facepcl.embed(tmp_path / "list.csv", tmp_path / "e.npz", model=model, **OPTIONS)
    memory.pipe("/p/none.jpg", FACES[1].read_bytes())
    facepcl.embed(tmp_path / "list.csv", tmp_path / "e.npz", model=model, resume=True, **OPTIONS)
    assert facepcl.read_embeddings(tmp_path / "e.npz").errors == [None, "there is no such file"]


def failing(monkeypatch, fs, times):
    """Reading fails so many times, as a network does."""
    cat_file, left = type(fs).cat_file, [times]

    def fail(self, *args, **kwargs):
        if left[0]:
            left[0] -= 1
            raise OSError("connection reset")
        return cat_file(self, *args, **kwargs)

    monkeypatch.setattr(type(fs), "cat_file", fail)


def test_a_read_that_fails_twice_is_tried_again(memory, monkeypatch):
    memory.pipe("/a.jpg", b"x")
    failing(monkeypatch, memory, 2)
    (item,) = read_items(list_entries(["memory://a.jpg"]))
    assert (item.data, item.error) == (b"x", None)


@pytest.mark.parametrize("status", [404, 410, 451])
def test_an_image_that_a_server_refuses_is_a_row_and_not_asked_for_again(memory, monkeypatch, status):
    asked = []

    def refuse(self, path, **_):
        asked.append(path)
        raise type("ClientResponseError", (Exception,), {"status": status})("Gone")

    memory.pipe("/p/a.jpg", b"x")
    monkeypatch.setattr(type(memory), "cat_file", refuse)
    (item,) = read_items(list_entries(["memory://p"]))
    assert item.error == "cannot be read: Gone"
    assert len(asked) == 1


@pytest.mark.parametrize("out", ["e.npz", "e"])
def test_a_network_that_is_gone_ends_the_job_and_makes_no_bad_rows(
    memory, monkeypatch, model, folder, whole, tmp_path, out
):
    put(memory, folder, "/crops")
    with monkeypatch.context() as patch:
        failing(patch, memory, 10_000)
        with pytest.raises(RemoteError, match=r"memory:///crops/\d\.jpg cannot be read: connection reset"):
            facepcl.embed("memory://crops", tmp_path / out, model=model, **OPTIONS)
    facepcl.embed("memory://crops", tmp_path / out, model=model, resume=True, **OPTIONS)
    assert same(facepcl.read_embeddings(tmp_path / out), whole, "memory:///crops", folder)


def test_a_tar_that_was_changed_meanwhile_is_refused(memory, model, folder, tmp_path):
    for name in ("a.tar", "b.tar"):
        memory.pipe(f"/t/{name}", (folder / "s.tar").read_bytes())
    share = {"model": model, "world_size": 2, **OPTIONS}
    facepcl.embed("memory://t", tmp_path / "e", rank=0, **share)
    memory.pipe("/t/b.tar", (folder / "s.tar").read_bytes() + bytes(512))
    with pytest.raises(TableError, match=r"memory:///t/b\.tar has changed"):
        facepcl.embed("memory://t", tmp_path / "e", rank=1, **share)


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("memory://nowhere", MissingPath, "memory://nowhere: there is no such file or folder"),
        ("nope://x/y", OptionError, "nope:// is not a protocol"),
        ("zip://*.jpg::memory://x.zip", OptionError, "chained URLs"),
        ("memory://x.csv", OptionError, "a manifest is read from the file system"),
        ("memory://p/*.jpg", OptionError, r"no images in memory://p/\*\.jpg"),
    ],
)
def test_what_cannot_be_listed_is_said_in_one_sentence(memory, source, error, said):
    memory.pipe("/p/notes.txt", b"x")
    with pytest.raises(error, match=said):
        list_entries([source])


def test_a_server_that_does_not_answer_is_no_missing_file():
    pytest.importorskip("aiohttp")
    with socket.socket() as held:  # a port that nobody listens at
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/x.jpg"
        with pytest.raises(RemoteError, match=r"x\.jpg cannot be read: Cannot connect to host"):
            list_entries([url])


@pytest.fixture
def web(folder):
    """The folder behind a server that ignores queries, as those of signed URLs."""
    pytest.importorskip("aiohttp")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *about):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_signed_urls_are_what_their_names_say_before_the_query(web, folder, tmp_path):
    sign = "X-Amz-Signature=ab.c&X-Amz-Credential=k%2Fs3"
    shard, image = f"{web}/s.tar?{sign}", f"{web}/0.jpg?{sign}"
    assert paths(shard) == [f"{web}/s.tar/{i}.jpg" for i in range(4)]
    (item,) = read_items(list_entries([image]))
    assert item.data == (folder / "0.jpg").read_bytes()
    (tmp_path / "list.csv").write_text(f"path\n{image}\n{shard}\n")
    assert len(paths(tmp_path / "list.csv")) == 5
    assert shard_of(f"{shard}/0.jpg") == shard
    for path in (f"{shard}/0.jpg", image):
        assert not set("?&=%") & set(CropNames([shard, image])(path))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/a.jpg?X-Amz-Credential=k%2Fs3&X-Amz-Expires=9&X-Amz-Signature=ab/c+=", "https://h/a.jpg"),
        ("https://h/s.tar?sv=2025&se=2026-01-01&sr=b&sp=r&sig=ab%3D", "https://h/s.tar"),
        ("https://h/a.jpg?Expires=1&Policy=p&Key-Pair-Id=K&Signature=ab", "https://h/a.jpg"),
        ("https://h/get?id=7&token=ab&size=large", "https://h/get?id=7&size=large"),
        ("ftp://me:password@h/a.jpg", "ftp://h/a.jpg"),
        ("https://h/get?id=7&se=1&u=http://me@h/", "https://h/get?id=7&se=1&u=http://me@h/"),
        ("hf://datasets/me/faces@main/a.jpg", "hf://datasets/me/faces@main/a.jpg"),
        ("photos/a.jpg?sig=1", "photos/a.jpg?sig=1"),
    ],
)
def test_a_url_is_shown_without_what_gives_access(url, shown):
    assert remote.without_secrets(url) == shown


@pytest.mark.parametrize("out", ["e.npz", "e"])
def test_tables_hold_no_signature_and_a_job_goes_on_with_a_new_one(model, web, tmp_path, out, monkeypatch):
    def embed(signature, **options):
        sources = [f"{web}/{name}?Expires=1&Signature={signature}" for name in ("0.jpg", "s.tar")]
        facepcl.embed(sources, tmp_path / out, model=model, **options, **OPTIONS)

    with monkeypatch.context() as patch:
        patch.setattr(writers.TableWriter, "finish", None)
        patch.setattr(writers.FolderWriter, "finish", None)
        with pytest.raises(TypeError):
            embed("OLD")
    for left in (tmp_path / out).glob("*s.parquet"):
        left.unlink()
    read, asked = remote.RemoteFile, []
    monkeypatch.setattr(sources, "RemoteFile", lambda url: asked.append(url) or read(url))
    embed("NEW", resume=True)
    assert all(url.endswith("Signature=NEW") for url in asked)
    embed("NEWER", resume=True)  # all is there
    table = facepcl.read_embeddings(tmp_path / out)
    assert table.paths == [f"{web}/0.jpg", *(f"{web}/s.tar/{i}.jpg" for i in range(4))]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"Signature" in data for data in written)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("none.jpg?sig=1", MissingPath, r"none\.jpg\?sig=1: there is no such file"),
        ("takeout.zip?sig=1", OptionError, r"takeout\.zip\?sig=1 is an archive, which is not read"),
        ("list.csv?sig=1", OptionError, "a manifest is read from the file system"),
        ("list.txt", OptionError, "a list of images is a .csv file"),
    ],
)
def test_a_signed_url_that_is_no_source_says_so(web, name, error, said):
    with pytest.raises(error, match=said):
        list_entries([f"{web}/{name}"])


def test_files_behind_urls_are_counted_if_they_are_skipped(memory):
    for name in ("a.jpg", "b.NEF", "sub/c.NEF", "sub/none", ".git/d.NEF"):
        memory.pipe(f"/p/{name}", b"x")
    for source in ("memory://p", "memory://p/**"):
        selection = Selection()
        assert len(list(list_entries([source], selection))) == 1
        assert selection.skipped[".NEF"] >= 2
        assert selection.skipped[""] == 1


def test_a_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtra, match=r"s3fs is not installed; type: pip install 'facepcl\[s3\]'"):
        list_entries(["s3://bucket/x"])
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtra, match=r"gs://x/y: gs:// needs a package that is not installed: .*gcsfs"):
        list_entries(["gs://x/y"])


def test_a_table_is_not_written_to_a_url(folder, capsys):
    assert main(["embed", str(folder), "-o", "s3://bucket/e/"]) == 2
    assert "s3://bucket/e/: tables cannot be written to a URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "path", "stem"),
    [
        ("s3://b/photos", "s3://b/photos/a/b.jpg", "a/b"),
        ("s3://b/s.tar", "s3://b/s.tar/q/x.jpg", "s/q/x"),
        ("memory://p", "memory:///p/0/a.jpg", "a"),
        ("s3://b/", "s3://b//etc/a.jpg", "etc/a"),
        ("https://b/?id=3", "https://b/?id=3", "face"),
    ],
)
def test_crops_of_photographs_behind_urls_stay_in_their_folder(source, path, stem):
    assert CropNames([source])(path) == stem


@pytest.fixture(scope="module")
def s3():
    """An S3 server on the loopback, with a bucket of its own."""
    pytest.importorskip("s3fs", reason="needs s3fs (extra s3)")
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    patch = pytest.MonkeyPatch()
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    host, port = s3.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.mkdir("bucket")
    yield fs
    type(fs).clear_instance_cache()
    s3.stop()
    patch.undo()


def test_s3_gives_the_rows_of_local_files_to_two_processes(s3, model, folder, whole, tmp_path):
    put(s3, folder, "bucket/crops")
    share = {"model": model, "world_size": 2, **OPTIONS}
    assert facepcl.embed("s3://bucket/crops/", tmp_path / "e", rank=0, **share).missing == 1
    assert facepcl.embed("s3://bucket/crops/", tmp_path / "e", rank=1, **share).missing == 0
    assert same(facepcl.read_embeddings(tmp_path / "e"), whole, "s3://bucket/crops", folder)
    assert paths("s3://bucket/crops/*.tar") == [f"s3://bucket/crops/s.tar/{i}.jpg" for i in range(4)]


def test_s3_says_what_is_not_there(s3):
    for url in ("s3://no-such-bucket/x", "s3://bucket/nothing"):
        with pytest.raises(MissingPath, match=f"{url}: there is no such file or folder"):
            list_entries([url])


@pytest.mark.parametrize("name", ["a.jpg", "", "*.jpg"])
def test_s3_says_what_may_not_be_read(s3, name, monkeypatch):
    """The server asks for a key that somebody has."""
    s3.pipe("bucket/p/a.jpg", b"x")
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    type(s3).clear_instance_cache()
    said = f"s3://bucket/p/{name}: these credentials do not allow reading it"
    with pytest.raises(RemoteError, match=re.escape(said)):
        list_entries([f"s3://bucket/p/{name}"])
