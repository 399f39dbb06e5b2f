"""A result as one page: whole without a network, safe whatever files are called, the same each time."""

import base64
import io
import re
import sys
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.browser import Browser
from helpers.files import FACES
from PIL import Image

from facepcl.data.sources import Item
from facepcl.errors import MissingExtra
from facepcl.images.geometry import Square
from facepcl.probes import charts
from facepcl.probes.charts import Bars, Confusion, Curve, Faces, Map, Scatter
from facepcl.probes.common import evenly
from facepcl.probes.manifest import Labelled, Manifest
from facepcl.probes.report import write_report
from facepcl.probes.result import Result

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
HOSTILE = "<script>alert(1)</script>\"'&$x_{$.jpg"
# What a browser makes of a page.
LOOK = """(() => {
const images = [...document.images], charts = [...document.querySelectorAll("svg")];
const right = element => element.getBoundingClientRect().right;
return {
images: images.length,
broken: images.filter(image => !image.naturalWidth).length,
charts: charts.filter(chart => right(chart) > 350).length,
cut: charts.flatMap(chart =>
  [...chart.querySelectorAll("text")].filter(text => right(text) > right(chart) + 2)).length,
widest: Math.max(...[...document.body.querySelectorAll("*:not(svg *)")].map(right)),
} })()"""


class Page(HTMLParser):
    """What a page says and is made of, as a browser would take it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def data_set(extra=()):
    items = [Item(str(face)) for face in FACES] + [item for _, item in extra]
    images = [Labelled(face.name) for face in FACES] + [image for image, _ in extra]
    return Manifest("folder", images, lambda: iter(items), FACES)


def chart_of_each_kind():
    random = np.random.default_rng(0)
    labels = random.integers(0, 7, 60)
    vectors = random.normal(size=(7, 16))[labels] + random.normal(size=(60, 16))
    yaw = random.uniform(-90, 90, 600)
    f1 = np.array([0.2, 0.5, np.nan])
    return [
        Confusion("Confusion", random.integers(0, 600, (7, 7)), CLASSES),
        Curve("ROC", np.linspace(0, 1, 50), np.linspace(0, 1, 50) ** 0.3, "false", "true", log_x=True),
        Bars("F1 of each unit", ("AU1", "AU2", "AU4"), f1, "F1", f1 - 0.1, f1 + 0.1),
        Scatter("Yaw", yaw, yaw * 0.8, "degrees"),
        Map("By class", vectors, [CLASSES[i] for i in labels]),
        Map("By number", vectors, labels.astype(float)),
        Faces("Mistakes", [0, 5, 5, 23], ["sad, taken for fear", "one", "twice", "last"]),
    ]


NUMBERS = {
    "task": "expression",
    "data": "FER-2013",
    "model": "pcl_facecycle",
    "branch": "shared",
    "seed": 20240101,
    "n_test": 3589,
    "classes": list(CLASSES),
    "strength": 1e-06,
    "accuracy": 0.4812,
    "accuracy_low": 0.4641,
    "accuracy_high": 0.4973,
    "macro_f1": None,
    "balanced_accuracy": 0.44,
    "balanced_accuracy_std": 0.012,
    "confusion": [[1, 2], [3, 4]],
}


def page_of(tmp_path, result):
    write_report(result, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The text of a page with a chart of each kind."""
    result = Result(NUMBERS, chart_of_each_kind(), data_set(), ("seven images show no face",))
    return page_of(tmp_path_factory.mktemp("report"), result)


def test_the_head_says_what_was_measured(whole):
    text = Page(whole).text
    assert "Expression: FER-2013, pcl_facecycle, shared code" in text
    assert "48.1 % (46.4-49.7)" in text
    assert "seven images show no face" in text


def test_the_tables_hold_every_number_but_lists(whole):
    text = Page(whole).text
    for words in (
        "accuracy0.481 (0.464 to 0.497)",
        "balanced_accuracy0.440 ± 0.012",
        "strength1e-06",
        "n_test3,589",
        "seed20240101",
        "macro_f1none",
    ):
        assert words in text
    assert "accuracy_low" not in text
    assert "classes" not in text.split("Setting")[1].split("Confusion")[0]


def test_every_chart_has_a_title_and_words_for_those_who_do_not_see_it(whole):
    page = Page(whole)
    drawn = [attributes["aria-label"] for attributes in page.all("svg")]
    titles = [chart.title for chart in chart_of_each_kind()]
    assert [label.split(". ")[0] for label in drawn] == titles[:-1]
    assert all(title in page.text for title in titles)
    assert [image["alt"] for image in page.all("img")] == [FACES[i].name for i in (0, 5, 5, 23)]


def test_the_page_asks_for_nothing_from_outside_and_is_small(whole):
    addresses = set(re.findall(r"\w+://[^\"'<>\s]*", whole))
    assert not addresses
    assert not {"script", "link", "iframe"} & {tag for tag, _ in Page(whole).tags}
    assert "@import" not in whole
    assert len(whole) < 3_000_000


def test_ids_and_what_points_to_them_belong_to_one_chart(whole):
    ids = Page(whole).ids
    assert len(ids) == len(set(ids))
    pointed = re.findall(r'(?:href="#|url\(#)([^")]+)', whole)
    assert pointed
    assert set(pointed) <= set(ids)


def test_ink_is_the_page_s_own(whole):
    assert "currentColor" in whole
    assert charts.INK not in whole
    assert charts.FAINT not in whole
    assert "prefers-color-scheme: dark" in whole


def test_the_same_result_gives_the_same_bytes(tmp_path, whole):
    assert (
        page_of(tmp_path, Result(NUMBERS, chart_of_each_kind(), data_set(), ("seven images show no face",)))
        == whole
    )


def test_global_settings_of_matplotlib_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # it cannot be imported
    matplotlib = pytest.importorskip("matplotlib")
    before = matplotlib.rcParams.copy()
    page_of(tmp_path, Result(NUMBERS, chart_of_each_kind()[:4], data_set()))
    assert dict(matplotlib.rcParams.copy()) == dict(before)


def test_hostile_names_stay_words(tmp_path):
    names = (HOSTILE, "_hidden", "\udcff\n\x00 \\frac{")
    manifest = data_set([(Labelled(name), Item(name, b"none")) for name in names])
    images = [len(FACES) + i for i in range(3)]
    x = np.random.default_rng(0).normal(size=(6, 3))
    numbers = {"task": HOSTILE, "data": HOSTILE, "model": HOSTILE, "branch": HOSTILE, HOSTILE: HOSTILE}
    result = Result(
        numbers,
        [
            Confusion(HOSTILE, np.eye(3, dtype=int), names),
            Bars(HOSTILE, names, np.ones(3), HOSTILE),
            Scatter(HOSTILE, x[:, 0], x[:, 1], HOSTILE),
            Curve(HOSTILE, x[:, 0], x[:, 1], HOSTILE, HOSTILE),
            Map(HOSTILE, x, [*names, *names]),
            Faces(HOSTILE, images, list(names)),
        ],
        manifest,
        (HOSTILE,),
    )
    page = Page(page_of(tmp_path, result))
    assert not page.all("script")
    assert page.text.count(HOSTILE) >= 12
    assert "_hidden" in page.text.split("Principal components")[1].split("<li")[0]  # in the legend too


def test_an_image_that_cannot_be_read_is_an_empty_tile_with_the_reason(tmp_path):
    bad = [(Labelled("a"), Item("a", b"text")), (Labelled("b"), Item(str(tmp_path / "gone.jpg")))]
    manifest = data_set(bad)
    manifest.images.append(Labelled("c"))  # and one that is no longer there at all
    page = Page(page_of(tmp_path, Result(NUMBERS, [Faces("f", [24, 25, 26, 0], list("abcd"))], manifest)))
    assert len(page.all("img")) == 1
    for reason in ("not an image in a format", "there is no such file", "it has vanished"):
        assert reason in page.text


def test_images_are_read_once_and_no_further_than_the_last_wanted(tmp_path):
    read = []

    def items():
        for face in FACES:
            read.append(face)
            yield Item(str(face))

    manifest = replace(data_set(), items=items)
    page_of(tmp_path, Result(NUMBERS, [Faces("a", [4, 2], ["", ""]), Faces("b", [2], [""])], manifest))
    assert read == FACES[:5]


def test_the_square_of_a_photograph_is_cut_out(tmp_path):
    Image.new("RGB", (400, 300), "blue").save(tmp_path / "photo.png")
    photo = Image.open(tmp_path / "photo.png")
    photo.paste("red", (200, 100, 300, 200))
    photo.save(tmp_path / "photo.png")
    labelled = Labelled("photo", square=Square(250, 150, 40))
    manifest = Manifest("m", [labelled], lambda: iter([Item(str(tmp_path / "photo.png"))]), [])
    page = Page(page_of(tmp_path, Result(NUMBERS, [Faces("f", [0], [""])], manifest)))
    encoded = page.all("img")[0]["src"].removeprefix("data:image/jpeg;base64,")
    tile = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert tile.size == (72, 72)
    red, _, blue = np.asarray(tile, int).reshape(-1, 3).mean(0)
    assert red > 240
    assert blue < 15


@pytest.mark.parametrize(
    "chart",
    [
        Confusion("c", np.zeros((2, 2), int), ("a", "b")),
        Curve("c", np.zeros(2), np.ones(2), "x", "y", log_x=True),
        Bars("c", ("a",), np.array([np.nan]), "y", np.array([np.nan]), np.array([np.nan])),
        Bars("c", tuple(f"a long name, number {i}" for i in range(40)), -np.arange(40.0), "y"),
        Scatter("c", np.ones(3), np.ones(3), "degrees"),
        Map("c", np.ones((30, 8)), ["a"] * 30),
        Map("c", np.ones((1, 8)), np.ones(1)),
        Map("c", np.arange(40.0).reshape(40, 1), [str(i) for i in range(40)]),
        Faces("c", [], []),
    ],
    ids=[
        "no images",
        "no steps",
        "no value",
        "many bars",
        "one point",
        "one vector",
        "one",
        "many classes",
        "none",
    ],
)
def test_poor_data_still_makes_a_page(tmp_path, chart):
    page = Page(page_of(tmp_path, Result({"task": "new"}, [chart], data_set())))
    assert len(page.all("svg")) == (not isinstance(chart, Faces))
    assert "nan" not in page.text.lower()


def test_the_name_of_a_figure_on_a_page_ends_without_the_comma_of_a_column(tmp_path):
    numbers = {"task": "verification", "data": "LFW", "model": "m", "branch": "face", "tar_at_far_1e-2": 0.5}
    assert "<dt>TAR at FAR 0.01</dt>" in page_of(tmp_path, Result(numbers, [], data_set()))


def test_a_map_shows_no_more_points_than_it_can():
    shown = evenly(np.arange(50), 20)
    _, note = charts.draw(Map("m", np.random.default_rng(0).normal(size=(50, 5))[shown], shown), "c")
    assert note == "t-SNE of 20 embeddings."


def test_clusters_stay_apart_on_a_map():
    random = np.random.default_rng(0)
    of = np.repeat([0, 1], 40)
    places, method = charts.lay_out(10.0 * of[:, None] + random.normal(size=(80, 100)))
    assert method == "t-SNE"
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (of[distance.argmin(1)] == of).all()


@pytest.mark.parametrize("package", ["matplotlib", "sklearn"])
def test_a_missing_package_is_one_sentence_with_what_to_type(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtra, match=rf"{package} is not installed; type: pip install 'facepcl\[probe\]'"
    ):
        write_report(Result(NUMBERS, [], data_set()), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_browser_shows_all_of_it_within_the_width_of_a_phone(tmp_path, whole):
    (tmp_path / "page.html").write_text(whole, "utf-8")
    with closing(Browser(tmp_path / "user", 400)) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.wait("document.readyState == 'complete' && document.images.length")
        found = browser.js(LOOK)
        browser.screenshot(tmp_path / "page.png")
    assert (found["images"], found["broken"], found["charts"]) == (4, 0, 6)
    assert found["cut"] == 0  # letters that stand out of their chart
    assert found["widest"] <= 400
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
