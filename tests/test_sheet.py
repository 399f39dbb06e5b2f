"""The contact sheet of `facepcl embed`: who is shown beside whom, under which name and number."""

import numpy as np
import pytest
from helpers.files import FACES
from PIL import Image, ImageDraw, PngImagePlugin

import facepcl
from facepcl.cli import main
from facepcl.embedding import contact_sheet
from facepcl.embedding.contact_sheet import CENTRE_FROM, NEIGHBOURS, Sample, nearest
from facepcl.errors import OptionError
from facepcl.images.sheet import check_sheet, end_of, font, lines_of, save_sheet


@pytest.fixture
def written(monkeypatch):
    """The texts of the sheets that are drawn."""
    texts = []
    text = ImageDraw.ImageDraw.text

    def noted(self, at, words, *args, **options):
        texts.append(words)
        return text(self, at, words, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    return texts


def embed(folder, tmp_path, model, **options):
    return facepcl.embed(
        folder, tmp_path / "e.npz", model=model, dtype="float32", sheet=tmp_path / "s.png", **options
    )


def pictures(count, side=64):
    """Crops of coarse random patterns, no two alike."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return coarse.repeat(side // 8, 1).repeat(side // 8, 2)


def test_the_number_on_the_sheet_is_similarity_of_the_two_identities(attribute_weights, tmp_path, written):
    query, *others = FACES[:9]
    embed(FACES[:9], tmp_path, attribute_weights, queries=[query.name])
    embedder = facepcl.FaceEmbedder(attribute_weights, branch="identity", dtype="float32")
    cosines = np.sort(facepcl.similarity(embedder([query]), embedder(others))[0])[::-1]
    shown = [text for text in written if text.lstrip("-").replace(".", "").isdigit()]
    assert shown[: len(others)] == [f"{cosine:.2f}" for cosine in cosines]


def test_rows_are_identity_and_pose_of_weights_attribute_weights(attribute_weights, model, tmp_path, written):
    embed(FACES[:3], tmp_path, attribute_weights)
    assert "Nearest neighbours by identity and by pose code" in written
    written.clear()
    embed(FACES[:3], tmp_path, model)
    assert "Nearest neighbours by face code and by pose code" in written


def test_many_codes_are_compared_about_their_mean_and_two_as_they_are():
    random = np.random.default_rng(0)
    group = np.arange(CENTRE_FROM) % 2
    codes = 5 + random.normal(size=(2, 16))[group] + 0.1 * random.normal(size=(CENTRE_FROM, 16))
    assert ((contact_sheet._cosine(codes) > 0) == (group[:, None] == group)).all()
    assert contact_sheet._cosine(np.stack([codes[0], 1.1 * codes[0]]))[0, 1] == pytest.approx(1)


def test_copies_of_a_picture_are_shown_once_and_not_beside_it():
    """Of nine copies of the query and two of its neighbours that differ in brightness and noise."""
    random = np.random.default_rng(1)
    crops = pictures(4)
    order = [0] * 9 + [1] * 2 + [2, 3]
    noisy = (0.8 * crops[order] + random.normal(10, 4, (len(order), 64, 64, 3))).clip(0, 255).astype(np.uint8)
    codes = np.eye(4)[order] + 0.5 + random.normal(0, 0.01, (len(order), 4))
    samples = [
        Sample(f"{i}.jpg", pixels, {"identity": code})
        for i, (pixels, code) in enumerate(zip(noisy, codes, strict=True))
    ]
    [found] = nearest(samples, [0], "identity")
    assert sorted(order[int(near.sample.path.removesuffix(".jpg"))] for near in found) == [1, 2, 3]


def test_pictures_that_differ_are_all_shown():
    samples = [Sample(f"{i}.jpg", pixels, {"pose": np.ones(4)}) for i, pixels in enumerate(pictures(12))]
    [found] = nearest(samples, [5], "pose")
    assert len(found) == NEIGHBOURS
    assert "5.jpg" not in [near.sample.path for near in found]


def test_a_crop_of_one_colour_is_not_its_own_neighbour():
    blank = Sample("blank.jpg", np.zeros((64, 64, 3), np.uint8), {"pose": np.ones(4)})
    other = Sample("other.jpg", pictures(1)[0], {"pose": np.ones(4)})
    [found] = nearest([blank, other], [0], "pose")
    assert [near.sample for near in found] == [other]


def test_queries_are_shown_in_the_order_in_which_they_are_named(model, tmp_path, monkeypatch):
    drawn = []
    draw = contact_sheet._draw_query
    monkeypatch.setattr(
        contact_sheet, "_draw_query", lambda query, found: drawn.append(query.path) or draw(query, found)
    )
    names = [FACES[4].name, FACES[1].stem, str(FACES[2])]
    embed(FACES[:6], tmp_path, model, queries=names)
    assert drawn == [str(FACES[4]), str(FACES[1]), str(FACES[2])]
    drawn.clear()
    embed(FACES[:6], tmp_path, model, queries=2)
    assert drawn == [str(FACES[0]), str(FACES[5])]


def test_a_query_outside_the_sample_of_a_large_table_is_compared_too(model, tmp_path, written, monkeypatch):
    monkeypatch.setattr(contact_sheet, "LIMIT", 3)
    for face in FACES[:8:3]:
        embed(FACES[:8], tmp_path, model, queries=[face.name])
        assert any(face.stem.startswith(text) for text in written if text)
        written.clear()


def test_a_query_that_is_not_there_says_how_to_go_on(model, tmp_path):
    with pytest.raises(OptionError, match=r"is called nobody\.jpg; .*with --resume the same command"):
        embed(FACES[:3], tmp_path, model, queries=["nobody.jpg"])
    assert len(facepcl.read_embeddings(tmp_path / "e.npz")) == 3  # nothing is lost
    embed(FACES[:3], tmp_path, model, queries=[FACES[0].name], resume=True)
    assert (tmp_path / "s.png").is_file()


@pytest.mark.parametrize("queries", [0, 101, [], "a.jpg", [3], 8.0])
def test_queries_that_cannot_be_are_refused_before_the_work(model, tmp_path, queries):
    with pytest.raises(OptionError, match="queries"):
        embed(FACES[:3], tmp_path, model, queries=queries)
    assert not (tmp_path / "e.npz").exists()


def test_the_command_takes_names_or_a_number_of_queries(tmp_path, capsys, written):
    out = ["-o", str(tmp_path / "e.npz")]
    sheet = [*out, "--sheet", str(tmp_path / "s.jpg"), "--queries", f"{FACES[0].name},{FACES[2].name}"]
    assert main(["embed", *map(str, FACES[:3]), *sheet]) == 0
    with Image.open(tmp_path / "s.jpg") as drawn:
        assert drawn.format == "JPEG"
    assert main(["embed", str(FACES[0]), *out, "--queries", "3"]) == 2
    assert "--queries needs a sheet: add --sheet sheet.jpg" in capsys.readouterr().err


def test_a_long_name_is_whole_and_broken_behind_its_words():
    name = "two_people-at.the_sea_in_the_morning" + "x" * 60
    lines = lines_of(name, 10, 100)
    assert "".join(lines) == name
    assert all(font(10, name).getlength(line) <= 100 for line in lines)
    assert all(line[-1] in "_-." for line in lines[:2])


@pytest.mark.parametrize("name", ["plain", "Ünïcode näme", "Łukasz", "Αθήνα", "Жанна", "…café"])
def test_every_letter_of_a_name_is_drawn(name):
    """And not the box that stands for a letter that a font lacks."""
    used = font(20, name)
    box = bytes(used.getmask("\uffff"))
    assert all(bytes(used.getmask(letter)) != box for letter in name)


def test_of_a_name_that_is_too_long_the_end_is_kept():
    assert end_of("short", 10, 100) == "short"
    shown = end_of("wide" * 20 + "_0", 10, 100)
    assert shown[0] == "…"
    assert shown.endswith("wide_0")
    assert font(10, shown).getlength(shown) <= 100


def test_a_sheet_too_tall_for_a_jpeg_is_cut_off_with_a_warning(tmp_path, caplog):
    for name, height in (("sheet.jpg", 65_500), ("sheet.png", 65_600)):
        save_sheet(Image.new("RGB", (8, 65_600)), tmp_path / name)
        with Image.open(tmp_path / name) as sheet:
            assert sheet.size == (8, height)
    assert caplog.messages == [
        f"{tmp_path}/sheet.jpg ends after 65500 pixels, the most of a JPEG; a .png has room for all"
    ]


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_sheet_replaces_a_sheet_and_never_a_photo(tmp_path, ending):
    path = tmp_path / f"sheet.{ending}"
    for colour in ("red", "blue"):
        check_sheet(path)
        save_sheet(Image.new("RGB", (8, 8), colour), path)
    Image.new("RGB", (8, 8)).save(path)
    photo = path.read_bytes()
    with pytest.raises(OptionError, match="exists and is not a sheet of facepcl"):
        check_sheet(path)
    assert path.read_bytes() == photo


@pytest.mark.parametrize("key", ["Comment", "comment"])
def test_a_photo_with_a_comment_of_its_own_is_never_replaced(tmp_path, key):
    """Pillow gives the comment of a JPEG as bytes, and a text of any name in a PNG as str."""
    text = PngImagePlugin.PngInfo()
    text.add_text(key, "my holidays")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png", pnginfo=text)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg", comment=b"holidays \xff")
    for name in ("photo.png", "photo.jpg"):
        with pytest.raises(OptionError, match="exists and is not a sheet of facepcl"):
            check_sheet(tmp_path / name)
