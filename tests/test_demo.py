"""`facepcl demo`: what it computes, and its page in a browser that reaches this machine only."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from helpers.browser import Browser
from helpers.files import FACES, photo_of
from helpers.scripts import free_port
from PIL import Image

import facepcl
from facepcl import demo
from facepcl.analysis.analyzer import LIMITS
from facepcl.analysis.drawing import box_of
from facepcl.data.sources import list_entries
from facepcl.demo import compare, html
from facepcl.demo.compare import SHOWN, Comparer, Gallery, similarities
from facepcl.demo.page import SAMPLES
from facepcl.errors import ImageError, MissingPath, OptionError

HOSTILE = "<script>alert(1)</script>'\".jpg"


@pytest.fixture(scope="module")
def crops():
    with closing(Comparer(crops=True)) as comparer:
        yield comparer


@pytest.fixture(scope="module")
def finder(detector):
    with closing(Comparer(detector=detector)) as comparer:
        yield comparer


@pytest.fixture
def model_folder(encoders):
    """Weights without heads."""
    return f"local-dir:{encoders('pcl_facecycle')[1]}"


@pytest.fixture(scope="module")
def photographs(crops):
    return [crops.read(face, 10) for face in FACES[:3]]


@pytest.fixture(scope="module")
def faces(photographs):
    return [face for one in photographs for face in one.faces]


def test_codes_are_those_of_the_embedder(faces):
    for branch in faces[0].vectors:
        embedder = facepcl.FaceEmbedder(branch=branch, dtype="float32")
        found = np.stack([face.vectors[branch] for face in faces])
        np.testing.assert_allclose(found, embedder(FACES[:3]), rtol=1e-4, atol=1e-4)  # batches of 1 and of 3


def test_the_faces_of_a_photograph_are_found_and_marked(finder, tmp_path):
    wide = Image.new("RGB", (600, 300), "gray")
    for place, face in enumerate(FACES[:2]):
        wide.paste(Image.open(face).resize((200, 200)), (50 + 300 * place, 50))
    wide.save(tmp_path / "two.png")
    seen = finder.read(tmp_path / "two.png", 10)
    assert len(seen.faces) == 2
    assert max(seen.shown.picture.size) == SHOWN
    shown = sorted(place.face.box[0] + place.face.box[2] for place in seen.shown.faces)
    assert (shown[1] - shown[0]) / 2 == pytest.approx(300, abs=25)  # pixels of the photo, in which they are
    left, _, right, _ = box_of(max(seen.shown.faces, key=lambda place: place.face.box[0]).face)
    assert seen.shown.scale * (left + right) / 2 < seen.shown.picture.width


def test_what_faces_show_is_that_of_the_analyzer(attribute_weights, detector, tmp_path):
    photo_of(2).save(tmp_path / "two.png")
    with closing(Comparer(attribute_weights, detector=detector)) as comparer:
        seen = comparer.read(tmp_path / "two.png", 10)
    analyzer = facepcl.FaceAnalyzer(attribute_weights, dtype="float32", detector=detector)
    for shown, face, code in zip(seen.shown.faces, analyzer([tmp_path / "two.png"]), seen.faces, strict=True):
        assert shown.attributes["yaw"] == pytest.approx(face.yaw, abs=1e-3)
        assert shown.attributes[f"expression_{face.expression}"] == max(face.expressions.values())
        np.testing.assert_allclose(code.vectors["identity"], face.identity, atol=1e-5)


def test_the_page_says_what_a_face_shows_and_the_limits_of_it(attribute_weights):
    with closing(Comparer(attribute_weights, crops=True)) as comparer:
        photo = comparer.read(FACES[0], 10)
    shown = html.overview([photo], LIMITS)
    values = photo.shown.faces[0].attributes
    assert f"yaw {round(values['yaw']):+d}°" in shown
    assert f"{100 * values['expression_happy']:.0f} %" in shown
    assert "not calibrated" in shown


def test_weights_without_heads_show_faces_and_claim_nothing(model_folder):
    with closing(Comparer(model_folder, crops=True)) as comparer:
        photo = comparer.read(FACES[0], 10)
    assert list(photo.faces[0].vectors) == ["face", "pose"]
    shown = html.overview([photo], LIMITS)
    assert "°" not in shown
    assert "calibrated" not in shown


def test_the_sample_faces_are_found(finder):
    """Small files, which the wheel carries."""
    assert len(SAMPLES) == 10
    assert sum(sample.stat().st_size for sample in SAMPLES) < 150_000
    for sample in SAMPLES:
        assert len(finder.read(sample, 10).faces) == 1


def test_a_photograph_without_a_face_is_told(finder, tmp_path):
    Image.new("RGB", (300, 300), "gray").save(tmp_path / "gray.png")
    with pytest.raises(ImageError, match="no face found"):
        finder.read(tmp_path / "gray.png", 10)


def test_a_file_that_kills_its_reader_costs_the_page_nothing(crops, faces):
    crops.read(FACES[1], 10)  # starts it
    crops._faces._all[0].kill()
    np.testing.assert_array_equal(crops.read(FACES[0], 10).faces[0].pixels, faces[0].pixels)


def test_what_is_being_read_when_the_page_closes_is_given_up(tmp_path):
    comparer = Comparer(crops=True)
    comparer.read(FACES[0], 10)  # starts the reader
    for reader in comparer._faces._all:
        os.kill(reader._process.pid, signal.SIGSTOP)  # as one that hangs on a file
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(comparer.read, FACES[0], 10)
        time.sleep(0.2)
        comparer.close()
        with pytest.raises(OptionError, match="the page was closed"):
            waiting.result(10)


def test_a_folder_is_embedded_once_and_again_when_its_files_change(crops, tmp_path):
    told = []
    (tmp_path / "a.jpg").write_bytes(FACES[0].read_bytes())
    (tmp_path / "b.jpg").write_bytes(b"no image")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "nowhere.jpg")
    first = crops.gallery(tmp_path, lambda *count: told.append(count))
    assert ([face.path for face in first.faces], first.unread, told) == (["a.jpg"], 2, [(3, 3)])
    assert crops.gallery(tmp_path) is first
    (tmp_path / "b.jpg").write_bytes(FACES[1].read_bytes())
    os.utime(tmp_path / "b.jpg", (1, 1))
    assert len(crops.gallery(tmp_path).faces) == 2
    with pytest.raises(MissingPath, match="no such folder"):
        crops.gallery(tmp_path / "nowhere")


def test_a_file_that_is_deleted_meanwhile_costs_the_folder_nothing_else(crops, tmp_path, monkeypatch):
    for name, face in zip("ab", FACES[:2], strict=True):
        (tmp_path / f"{name}.jpg").write_bytes(face.read_bytes())

    def then_one_is_deleted(*given):
        entries = list(list_entries(*given))
        (tmp_path / "a.jpg").unlink(missing_ok=True)
        return iter(entries)

    monkeypatch.setattr(compare, "list_entries", then_one_is_deleted)
    gallery = crops.gallery(tmp_path)
    assert ([face.path for face in gallery.faces], gallery.unread) == (["b.jpg"], 1)


def test_names_of_files_are_text_on_the_page(photographs, faces):
    hostile = photographs[0]._replace(name=HOSTILE)
    gallery = Gallery([faces[0]._replace(path=HOSTILE)], 0, False)
    shown = html.overview([hostile], "") + html.notes([HOSTILE]) + html.neighbours(faces, gallery)
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") >= 3


def test_the_table_shows_the_cosine_of_every_two_faces(faces):
    found = html.similarity_tables(faces)
    for branch in faces[0].vectors:
        table = re.search(f'<table data-branch="{branch}">.*?</table>', found).group()
        numbers = [float(number) for number in re.findall(r">(-?\d\.\d\d)</td>", table)]
        cosines = similarities(faces, faces, branch)
        wanted = cosines[~np.eye(3, dtype=bool)]
        np.testing.assert_allclose(numbers, wanted, atol=0.0051)  # two decimals


def test_what_cannot_be_served_is_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OptionError, match=r"cannot listen on .*; choose another --port"):
            demo.run(port=taken.getsockname()[1])
    with pytest.raises(MissingPath, match="no such folder"):
        demo.run(folder=tmp_path / "nowhere")
    with pytest.raises(OptionError, match="leave out --crops or --detector"):
        Comparer(crops=True, detector="yunet.onnx")


@pytest.fixture
def served(tmp_path):
    """The address of the page with a folder for neighbours, and its process."""
    pytest.importorskip("gradio", reason="needs gradio (extra demo)")
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    port = free_port()
    options = ["--crops", "--port", str(port), "--max-mb", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "facepcl", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(uploads)},
    )
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port}" in line, process.communicate()
    yield f"http://127.0.0.1:{port}/", process, uploads
    if process.poll() is None:
        process.kill()
    process.communicate()


SET_FOLDER = """(() => {
const field = document.querySelector('#folder textarea, #folder input');
Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), 'value').set.call(field, 'FOLDER');
field.dispatchEvent(new Event('input', {bubbles: true}));
setTimeout(() => document.querySelector('#look').click(), 200) })()"""


@pytest.mark.slow
def test_a_visitor_drops_faces_and_sees_them_compared(served, tmp_path):
    """Upload, result, bad files, neighbours, nothing fetched from elsewhere, nothing kept, Ctrl-C."""
    address, process, uploads = served
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "big.jpg").write_bytes(bytes(1_200_000))
    browser = Browser(tmp_path / "user", 1280)
    try:
        browser.open(address)
        browser.upload(tmp_path / "big.jpg")
        assert "exceed" in browser.wait("/exceed.*big.jpg/.exec(document.body.innerText)?.[0]")
        browser.upload(*FACES[:2], tmp_path / "text.jpg")
        browser.wait("document.querySelectorAll('#alike table').length == 2")
        browser.wait("document.querySelector('#said').innerText.includes('text.jpg: not an image')")
        assert browser.js("document.querySelectorAll('#found .crop').length") == 2
        browser.js("document.querySelector('#samples button').click()")
        browser.wait("document.querySelectorAll('#found .crop').length == 3")
        browser.js(SET_FOLDER.replace("FOLDER", "/no/such/folder"))
        browser.wait("document.querySelector('#near').innerText.includes('there is no such folder')")
        browser.js(SET_FOLDER.replace("FOLDER", str(FACES[0].parent)))
        browser.wait("document.querySelectorAll('#near .near').length == 3")
        browser.wait("[...document.images].every(image => image.naturalWidth)")
        for width in (1280, 400):
            browser.resize(width)
            browser.wait(f"document.documentElement.scrollWidth <= {width}")
            picture = tmp_path / f"page{width}.png"
            browser.screenshot(picture)
            assert (
                len(np.unique(np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3), axis=0)) > 1000
            )
        assert browser.asked
        assert all(url.startswith((address, "data:", "blob:")) for url in browser.asked), browser.asked
        left = [path for path in uploads.rglob("*") if path.is_file() and path.stat().st_size > 1000]
        assert not [path for path in left if path.suffix in (".jpg", ".png", ".webp")]

        start = time.monotonic()
        process.send_signal(signal.SIGINT)  # with the page still open
        said = process.communicate(timeout=20)[1]
        assert process.returncode == 130
        took = time.monotonic() - start
        assert took < 15  # one or two on a machine that has nothing else to do
        assert said.splitlines()[-1] == "facepcl: the page is closed; nothing was kept"
        assert not list(uploads.glob("facepcl-demo-*"))
    finally:
        browser.close()
