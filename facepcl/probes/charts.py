"""Charts of a report as SVG that lies within a page: its ink is the page's, so it reads on light and dark."""

import html
import io
import re
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from facepcl.errors import require
from facepcl.probes.result import Bars, Confusion, Curve, Map, Scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn = Confusion | Curve | Bars | Scatter | Map

WIDTH = 5.2  # inches; a point of it is about a pixel on a phone
RASTER_FROM = 500  # points that as shapes would make the page heavy
DPI = 200
INK, FAINT = "#010203", "#040506"  # stand for the page's own colours, which replace them in the SVG
BLUE = "#2f7fc1"
# Paul Tol's bright scheme, which colour-blind people can tell apart, and orange; each also has its mark.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#999999")
MARKS = "os^DvPX*"
CLASSES = 16  # of a map that have a colour and mark of their own
MAPPED, COMPONENTS, FEW = 1500, 50, 10
SEED = 0
STYLE = {
    "svg.hashsalt": "facepcl",
    "svg.fonttype": "none",  # text stays text: any script, searchable, in the page's font
    "text.parse_math": False,  # a class may be called $x$
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "savefig.dpi": DPI,
}


class Drawing(NamedTuple):
    """A chart as an SVG element, and what it shows in words."""

    svg: str
    note: str


def draw(chart: Drawn, name: str) -> Drawing:
    """The chart as SVG, the same for the same chart; `name` keeps its ids apart from other charts' on the
    page. Raises MissingExtra without matplotlib, or scikit-learn for a Map."""
    matplotlib = require("matplotlib", "probe")
    figure_of = require("matplotlib.figure", "probe").Figure
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="matplotlib")  # of letters that its own font lacks
        figure = figure_of(figsize=(WIDTH, 3.6), layout="constrained")
        note = _HANDS[type(chart)](figure, chart)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Drawing(_element(file.getvalue(), name, f"{chart.title}. {note}"), note)


def _element(svg: str, name: str, label: str) -> str:
    """An SVG file as an element that fills its place on a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub("<[^>]+>", lambda tag: _tag(tag.group(), name), svg)  # not the text between
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg role="img" aria-label="{html.escape(label)}" {box.group() if box else ""}>'
    return head + svg.partition(">")[2]


def _tag(tag: str, name: str) -> str:
    """A tag in the page's ink and font, with its ids apart from those of other charts."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", tag)
    return tag.replace(INK, "currentColor").replace(FAINT, "var(--faint)")


def _confusion(figure: "Figure", chart: Confusion) -> str:
    colours = require("matplotlib.colors", "probe")
    counts, classes = np.asarray(chart.matrix), len(chart.classes)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure.set_size_inches(WIDTH, WIDTH)
    axes = figure.add_subplot(aspect="equal")
    shades = colours.LinearSegmentedColormap.from_list(
        "shades", [(*colours.to_rgb(BLUE), a) for a in (0, 0.85)]
    )
    axes.pcolormesh(share, cmap=shades, vmin=0, vmax=1, edgecolor=FAINT, linewidth=0.4)
    large = min(11.0, 84 / classes)
    for row, column in np.ndindex(*counts.shape):
        bold = "bold" if row == column else "normal"
        middle = {"x": column + 0.5, "ha": "center", "va": "center"}
        axes.text(y=row + 0.38, s=f"{share[row, column]:.0%}", fontsize=large, weight=bold, **middle)
        axes.text(y=row + 0.72, s=f"{counts[row, column]:,}", fontsize=0.72 * large, **middle)
    names = [_short(name) for name in chart.classes]
    axes.set_xticks(np.arange(classes) + 0.5, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(classes) + 0.5, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set(xlabel="taken for", ylabel="truth")
    return f"{counts.sum():,} images; per cent of each row, and below it how many."


def _curve(figure: "Figure", chart: Curve) -> str:
    axes = figure.add_subplot()
    x, y = np.asarray(chart.x, float), np.asarray(chart.y, float)
    if chart.log_x and (x > 0).any():
        x = np.maximum(x, x[x > 0].min())  # a logarithm has no zero: the line begins at the first step
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.plot(x, y, color=BLUE, linewidth=2)
    if len(y) and y.min() >= 0 and y.max() <= 1:
        axes.set_ylim(-0.02, 1.02)
    axes.grid()
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    return f"{chart.y_label} against {chart.x_label}" + (", logarithmic." if chart.log_x else ".")


def _bars(figure: "Figure", chart: Bars) -> str:
    count = len(chart.names)
    figure.set_size_inches(WIDTH, 0.8 + 0.3 * max(count, 2))
    axes = figure.add_subplot()
    values = np.asarray(chart.values, float)
    axes.barh(np.arange(count), np.nan_to_num(values), height=0.66, color=BLUE)
    ends = np.maximum(np.nan_to_num(values), 0)
    known = chart.low is not None and chart.high is not None
    if known:
        low, high = np.asarray(chart.low, float), np.asarray(chart.high, float)
        axes.hlines(np.arange(count), low, high, color=INK, linewidth=1.4)
        ends = np.fmax(ends, high)
    digits = 3 if np.abs(np.nan_to_num(values)).max(initial=0) < 10 else 2
    for place, (end, value) in enumerate(zip(ends, values, strict=True)):
        text = "none" if np.isnan(value) else f"{value:.{digits}f}"
        axes.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=9.5)
    axes.set_yticks(np.arange(count), [_short(name) for name in chart.names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(count - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_xlabel(chart.y_label)
    return "Thin lines: 95 % confidence." if known else ""


def _scatter(figure: "Figure", chart: Scatter) -> str:
    truth, predicted = np.asarray(chart.truth, float), np.asarray(chart.predicted, float)
    figure.set_size_inches(WIDTH, WIDTH)
    axes = figure.add_subplot(aspect="equal")
    both = np.concatenate([truth, predicted])
    both = both[np.isfinite(both)]
    low, high = (both.min(), both.max()) if len(both) else (0.0, 1.0)
    room = 0.04 * (high - low) or 0.5
    ends = (low - room, high + room)
    axes.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.scatter(
        truth, predicted, s=12, color=BLUE, alpha=0.55, linewidths=0, rasterized=len(truth) > RASTER_FROM
    )
    axes.set(xlim=ends, ylim=ends, xlabel=f"truth ({chart.unit})", ylabel=f"predicted ({chart.unit})")
    axes.yaxis.set_major_locator(axes.xaxis.get_major_locator())
    axes.grid()
    return f"{len(truth):,} images; on the line the prediction is right."


def _map(figure: "Figure", chart: Map) -> str:
    count = len(chart.vectors)
    shown = np.unique(np.linspace(0, count - 1, min(count, MAPPED)).round().astype(int))
    places, method = lay_out(np.asarray(chart.vectors, np.float64)[shown])
    figure.set_size_inches(WIDTH, WIDTH)
    axes = figure.add_subplot()
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    labels = np.asarray(chart.labels)[shown]
    points = {
        "s": min(40.0, max(14.0, 8000 / count)),
        "alpha": 0.85,
        "linewidths": 0,
        "rasterized": len(shown) > RASTER_FROM,
    }
    if labels.dtype.kind in "fiu":
        _by_number(figure, axes, places, labels, points)
    else:
        _by_class(figure, axes, places, [str(label) for label in labels], points)
    return f"{method} of {len(shown):,} embeddings."


def lay_out(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """A place in the plane `[N, 2]` for each vector `[N, D]`, and the name of the method: t-SNE, or of few or
    equal vectors their first two principal components. Raises MissingExtra without scikit-learn."""
    parts = min(COMPONENTS, *vectors.shape)
    pca = require("sklearn.decomposition", "probe").PCA(parts, svd_solver="full")
    # more threads add in another order, and t-SNE makes another picture of the last digit
    with require("threadpoolctl", "probe").threadpool_limits(1):
        main = pca.fit_transform(vectors) if np.ptp(vectors) else np.zeros((len(vectors), 2))
        if len(vectors) < FEW or not np.ptp(main[:, 0]):
            return np.pad(main, ((0, 0), (0, 2)))[:, :2], "Principal components"
        tsne = require("sklearn.manifold", "probe").TSNE
        near = min(30.0, (len(main) - 1) / 3)
        start = np.pad(main, ((0, 0), (0, 1)))[:, :2] / main[:, 0].std() * 1e-4
        return tsne(perplexity=near, init=start, random_state=SEED).fit_transform(main), "t-SNE"


def _by_number(figure: "Figure", axes: "Axes", places: np.ndarray, labels: np.ndarray, points: dict) -> None:
    colours = require("matplotlib.colors", "probe")
    viridis = require("matplotlib", "probe").colormaps["viridis"]
    # without the ends, which vanish on a dark or on a white page
    middle = colours.ListedColormap(viridis(np.linspace(0.25, 0.92, 256)))
    drawn = axes.scatter(places[:, 0], places[:, 1], c=labels.astype(float), cmap=middle, **points)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", aspect=40, pad=0.02)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(alpha=1, edgecolor="face")


def _by_class(figure: "Figure", axes: "Axes", places: np.ndarray, labels: list[str], points: dict) -> None:
    counts = Counter(labels)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    own = sorted(names if len(names) <= CLASSES else names[: CLASSES - 1])
    of = np.array([own.index(label) if label in set(own) else -1 for label in labels])
    if (of < 0).any():
        axes.scatter(*places[of < 0].T, color="#999999", marker=".", label=" other", **points)
    # labels begin with a space: those that begin with _ are left out of legends
    for number, name in enumerate(own):
        mark = MARKS[(number + number // len(COLOURS)) % len(MARKS)]
        colour = COLOURS[number % len(COLOURS)]
        axes.scatter(*places[of == number].T, color=colour, marker=mark, label=f" {_short(name)}", **points)
    figure.legend(loc="outside lower center", ncols=4, markerscale=1.5, handletextpad=0.2, columnspacing=1.2)


def _short(text: str, letters: int = 22) -> str:
    """A name as a chart takes it: one line of text that can be written."""
    text = " ".join(str(text).encode("utf-8", "replace").decode().split())
    text = "".join(letter for letter in text if letter.isprintable())
    return text if len(text) <= letters else text[: letters - 1] + "…"


_HANDS: dict[type, Any] = {
    Confusion: _confusion,
    Curve: _curve,
    Bars: _bars,
    Scatter: _scatter,
    Map: _map,
}
