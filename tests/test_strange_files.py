"""Nothing that lies in a folder stops an embedding: every file is a row, fine or with its reason."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image

import facepcl


def encoded(kind, size=(90, 80), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, kind, **options)
    return file.getvalue()


def png_claiming(width, height):
    """A tiny PNG whose header speaks of a huge picture."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )  # fmt: skip

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def fill(folder):
    """Good and bad files of many kinds in turn; returns the names and whether each is good."""
    jpeg, png = encoded("JPEG"), encoded("PNG")
    files = {
        b"a.jpg": (jpeg, True),
        b"cut.jpg": (jpeg[:-300], False),
        b"cut.png": (png[:60], False),
        b"bomb.png": (png_claiming(60_000, 60_000), False),
        b"empty.jpg": (b"", False),
        b"eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n", False),
        b"html.jpg": (b"<html>404</html>", False),
        b"png-called.jpg": (png, True),
        b"gray16.png": (encoded("PNG"), True),
        b"zeros.webp": (bytes(5000), False),
        "名前 😀.jpg".encode(): (jpeg, True),
        b"\xff\xfe.jpg": (jpeg, True),
        b"new\nline.jpg": (jpeg, True),
        b"UPPER.JPG": (jpeg, True),
        b"one.png": (encoded("PNG", (1, 1)), True),
        b"strip.png": (encoded("PNG", (3000, 2)), True),
        b"sub/b.webp": (encoded("WEBP"), True),
    }
    for name, (data, _) in files.items():
        path = os.fsencode(folder) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name, data in {"../up.jpg": jpeg, "/abs.jpg": jpeg, "bad.jpg": jpeg[:200]}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        device = tarfile.TarInfo("device.jpg")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    good = {os.fsdecode(name) for name, (_, fine) in files.items() if fine}
    bad = {os.fsdecode(name) for name, (_, fine) in files.items() if not fine}
    return good | {"shard.tar/../up.jpg", "shard.tar//abs.jpg"}, bad | {
        "pipe.jpg",
        "dangling.jpg",
        "shard.tar/bad.jpg",
    }


def test_a_folder_of_strange_files_is_a_row_for_each(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    good, bad = fill(folder)
    rows = list(facepcl.FaceEmbedder(dtype="float32").stream(folder))
    found = {row.path.removeprefix(f"{folder}/"): row for row in rows}
    assert len(found) == len(rows)
    assert {name for name, row in found.items() if not row.error} == good
    assert {name for name, row in found.items() if row.error} == bad
    assert all(np.isfinite(found[name].vector).all() for name in good)
    assert not (tmp_path / "up.jpg").exists()  # nothing of a shard is ever unpacked


@pytest.fixture
def pillow_images(request):
    """The test images of the installed Pillow's source distribution, fetched once."""
    cache = request.config.cache.mkdir("pillow")
    name = f"pillow-{PIL.__version__}"
    if not (cache / f"{name}.tar.gz").is_file():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "pillow"]
        fetched = subprocess.run(
            [*command, "-d", cache, f"pillow=={PIL.__version__}"], capture_output=True, text=True
        )
        if fetched.returncode:
            last = (fetched.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"needs Pillow's source distribution, which could not be fetched: {last}")
    if not (cache / name).is_dir():
        with tarfile.open(cache / f"{name}.tar.gz") as tar:
            members = [m for m in tar.getmembers() if m.name.startswith(f"{name}/Tests/images/")]
            tar.extractall(cache, members, filter="data")
    return cache / name / "Tests/images"


@pytest.mark.slow
def test_all_of_pillows_own_test_images_go_through(pillow_images, tmp_path):
    """Damaged, odd and hostile files of forty formats; those that once crashed a decoder are among them."""
    files = sorted(path for path in pillow_images.rglob("*") if path.is_file())
    assert len(files) > 1000
    summary = facepcl.embed(pillow_images, tmp_path / "e.npz", all_files=True, dtype="float32", workers=2)
    table = facepcl.read_embeddings(tmp_path / "e.npz")
    assert summary.total == len(table)
    shown = [os.fspath(f) for f in files if not f.name.startswith(".")]
    assert set(shown) <= {p.replace(".tar/", ".tar\0").split("\0")[0] for p in table.paths}
    good = np.array([error is None for error in table.errors])
    assert good.sum() > 750  # of 1,060 in Pillow 13.0: 849
    assert np.isfinite(table.vectors[good]).all()
    assert np.isnan(table.vectors[~good]).all()
    assert not [error for error in table.errors if error and ("died" in error or "prepared" in error)]
