"""The page of `facepcl analyze --html`: what it says is what the table says, and it opens no address."""

import re
from contextlib import closing

import numpy as np
import pytest
from helpers.browser import Browser
from helpers.files import FACES, photo_of, put_face
from PIL import Image

import facepcl
from facepcl.analysis import page as pages
from facepcl.analysis.curves import POINTS, pose_curve
from facepcl.analysis.drawing import DrawnFace, box_of
from facepcl.analysis.photos import ShownPhoto, closer
from facepcl.analysis.words import UNIT_NAMES
from facepcl.cli import main
from facepcl.errors import OptionError
from facepcl.images.face import ANGLES, Face

HOSTILE = "<script>alert(1)</script>'&.jpg".replace("/", "")


def analyze(source, tmp_path, model, name="page.html", **options):
    """The table and the text of the page of an analysis of crops."""
    options = {"crops": True, "dtype": "float32", "workers": 0, **options}
    facepcl.analyze(source, tmp_path / "a.npz", model=model, html=tmp_path / name, **options)
    return facepcl.read_embeddings(tmp_path / "a.npz"), (tmp_path / name).read_text("utf-8")


def words_of(html):
    """The text of a page, without its style."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html.partition("</style>")[2]))


@pytest.fixture(scope="module")
def faces(attribute_weights, tmp_path_factory):
    """Table and page of three faces."""
    return analyze(FACES[:3], tmp_path_factory.mktemp("page"), attribute_weights)


@pytest.fixture(scope="module")
def video(attribute_weights, tmp_path_factory):
    """Table and page of a video of a head that turns."""
    pytest.importorskip("av", reason="needs PyAV (extra video)")
    pytest.importorskip("numba", reason="needs the extra synth")
    from helpers.video import write_turning_head

    folder = tmp_path_factory.mktemp("video")
    write_turning_head(folder / "head.mp4", fps=5, seconds=3)
    return analyze([folder / "head.mp4"], folder, attribute_weights)


def test_each_face_has_the_pose_and_probabilities_of_its_row(faces):
    table, html = faces
    cards = [words_of(f"</style>{card}") for card in html.split("<article")[1:]]
    for row, card in zip(table.rows(), cards, strict=True):
        values = row.attributes
        assert all(f"{angle} {round(values[angle]):+d}°" in card for angle in ANGLES)
        assert all(
            f"{name} {100 * values[f'expression_{name}']:.0f} %" in card for name in ("angry", "happy", "sad")
        )


def test_the_strongest_units_have_their_names_and_values(faces):
    table, html = faces
    units = [name for name in table.meta["attributes"] if name.startswith("AU")]
    shown = 0
    for row, card in zip(table.rows(), html.split("<article")[1:], strict=True):
        for name in units:
            told = f"{name} {UNIT_NAMES[name]} {row.attributes[name]:.2f}" in words_of(f"</style>{card}")
            assert told == (row.attributes[name] >= 0.15)
            shown += told
    assert shown  # of random heads some


def test_the_page_says_what_its_numbers_are_not(faces):
    assert "Expression probabilities are not calibrated; action units" in words_of(faces[1])


def test_the_page_runs_no_script_and_opens_no_address(faces, video):
    for _, html in (faces, video):
        assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
        assert "<script" not in html
        assert "://" not in html
        assert all(
            source.startswith("data:image/jpeg;base64,") for source in re.findall('src="([^"]*)', html)
        )


def test_names_of_files_are_text(attribute_weights, tmp_path):
    put_face(tmp_path / "faces" / HOSTILE)
    _, html = analyze(tmp_path / "faces", tmp_path, attribute_weights)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;script&gt;" in html


def test_many_photos_are_spread_over_the_table(attribute_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PHOTOS", 3)
    _, html = analyze(FACES[:9], tmp_path, attribute_weights)
    assert [name for name in (face.name for face in FACES[:9]) if f">{name}<" in html] == [
        FACES[i].name for i in (0, 4, 8)
    ]
    assert "9 faces in 9 photos" in html
    assert "Shown: 3 of the photos, spread evenly." in html


def test_photos_without_a_face_and_errors_are_counted(attribute_weights, detector, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo_of(2).save(folder / "two.png")
    Image.new("RGB", (300, 300)).save(folder / "black.png")
    (folder / "text.png").write_text("no picture")
    _, html = analyze(folder, tmp_path, attribute_weights, crops=False, detector=detector)
    words = words_of(html)
    assert "2 faces in 1 photo" in words
    assert "1 photo without a face." in words
    assert "1 could not be read" in words
    assert len(re.findall('<div class="face">', html)) == 2


def test_a_photo_is_shown_close_to_its_faces():
    """A photo of 4000 pixels, reduced by 4, whose face is a red square: so is the box in what is shown."""
    pixels = np.zeros((1000, 1000, 3), np.uint8)
    pixels[500:600, 700:800] = (255, 0, 0)
    face = Face((2800, 2000, 3200, 2400), ((3000, 2200),) * 5, 0.9)
    near = closer(ShownPhoto("a.jpg", Image.fromarray(pixels), 0.25, [DrawnFace(face, {})]), 150)
    assert max(near.picture.size) == 150  # 100 pixels of a face and as many on each side, halved
    left, top, right, bottom = (round(near.scale * edge) for edge in box_of(near.faces[0].face))
    red = np.asarray(near.picture)[..., 0] > 128
    assert red[top + 1 : bottom - 1, left + 1 : right - 1].all()
    assert red.sum() == pytest.approx(50 * 50, rel=0.05)


def test_a_video_has_a_curve_for_each_track_and_a_few_frames(video):
    table, html = video
    tracks = {int(row.attributes["track"]) for row in table.rows()}
    assert html.count('<svg class="curve"') == len(tracks)
    assert len(re.findall('alt="frame at', html)) == pages.FRAMES
    first = pages.tracks_of(table, table.paths[0].rpartition("/")[0])[0]
    assert f"Track {first.number}: 0 s to " in html


def points_of(svg):
    """The lines of yaw, pitch and roll as arrays of places."""
    return [np.array(line.split(), float).reshape(-1, 2) for line in re.findall('points="([^"]*)"', svg)]


def test_the_curve_goes_through_its_values():
    times = np.arange(0, 10, 0.2)
    poses = np.stack([40 * np.sin(times), times, -10 + 0 * times], 1)
    svg = pose_curve(times, poses, "a head")
    zero, thirty = (
        float(re.search(rf'y="([\d.]+)" text-anchor="end">{angle}°', svg)[1]) for angle in ("0", "30")
    )
    for values, places in zip(poses.T, points_of(svg), strict=True):
        found = 30 * (places[:, 1] - (zero - 4)) / (thirty - zero)
        np.testing.assert_allclose(found, values, atol=0.2)  # places have one decimal, 0.6 degrees each
        assert np.ptp(np.diff(places[:, 0])) < 0.3


def test_the_curve_is_interrupted_where_the_face_was_gone():
    times = np.r_[0:2:0.2, 6:8:0.2]
    lines = points_of(pose_curve(times, np.zeros((20, 3)), "a head"))
    assert [len(line) for line in lines] == [10] * 6  # each of three lines in two pieces


def test_the_curve_of_a_long_track_is_thinned_and_keeps_its_gap():
    times = np.r_[0:1000:0.1, 1500:2000:0.1]
    lines = points_of(pose_curve(times, np.zeros((len(times), 3)), "a head"))
    assert len(lines) == 6
    assert POINTS <= sum(map(len, lines[:2])) <= POINTS + 2


def test_a_face_of_one_frame_is_a_dot():
    lines = points_of(pose_curve(np.zeros(1), np.zeros((1, 3)), "a head"))
    assert [len(line) for line in lines] == [2, 2, 2]


@pytest.mark.parametrize(
    ("out", "page", "said"),
    [
        ("a.npz", "page.txt", "the name of a page must end in .html"),
        ("tables", "page.html", "page.html belongs to one"),
        ("a.npz", "{source}", "is one of the sources"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    attribute_weights, tmp_path, out, page, said
):
    source = tmp_path / "a.html"
    source.write_bytes(FACES[0].read_bytes())
    with pytest.raises(OptionError, match=said):
        facepcl.analyze(
            [source],
            tmp_path / out,
            model=attribute_weights,
            crops=True,
            html=tmp_path / page.format(source=source),
        )
    assert not (tmp_path / out).exists()


def test_the_command_writes_a_page_with_and_without_a_table(attribute_weights, tmp_path, capsys):
    command = ["analyze", str(FACES[0]), "--crops", "--model", attribute_weights, "--html"]
    assert main([*command, str(tmp_path / "a.html")]) == 0
    assert main([*command, str(tmp_path / "b.html"), "-o", str(tmp_path / "b.npz")]) == 0
    assert f"page {tmp_path / 'b.html'}" in capsys.readouterr().out
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_sheet_names_the_video_and_the_time_of_a_frame():
    from facepcl.embedding.contact_sheet import stem

    assert stem("clips/head.mp4/2.400s") == "head.mp4, 2.4 s"
    assert stem("clips/head.mp4/10812.400s") == "head.mp4, 180:12"
    assert stem("photos/a.b.jpg") == "a.b"


@pytest.mark.slow
def test_a_browser_shows_the_page_on_a_desk_and_on_a_phone(faces, video, tmp_path):
    for name, (_, html) in {"faces": faces, "video": video}.items():
        (tmp_path / f"{name}.html").write_text(html, "utf-8")
        for width in (1280, 400):
            with closing(Browser(tmp_path / f"{name}{width}", width)) as browser:
                browser.open(f"file://{tmp_path}/{name}.html")
                browser.wait("document.images.length && [...document.images].every(i => i.naturalWidth)")
                assert browser.js("document.documentElement.scrollWidth") <= width
                assert all(url.startswith(("file:", "data:")) for url in browser.asked)


def test_a_page_of_somebody_else_is_not_replaced(attribute_weights, tmp_path):
    page = tmp_path / "index.html"
    page.write_text("<!DOCTYPE html><p>mine</p>")
    with pytest.raises(OptionError, match=r"index\.html exists and is not a page of facepcl; choose another"):
        facepcl.analyze(FACES[0], tmp_path / "a.npz", model=attribute_weights, crops=True, html=page)
    page.unlink()
    for _ in range(2):
        facepcl.analyze(FACES[0], tmp_path / "a.npz", model=attribute_weights, crops=True, html=page)
