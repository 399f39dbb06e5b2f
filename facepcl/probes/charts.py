"""Charts of a report, as inline SVG in the colours of the page, which suit light and dark mode."""

import html
import io
import re
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from facepcl.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.2  # inches; one point is about a pixel on a phone
RASTER_FROM = 500  # points; as many vector shapes would make the page heavy
DPI = 200
INK, FAINT = "#010203", "#040506"  # placeholders for the page's colours, which replace them in the SVG
BLUE = "#2f7fc1"
# Paul Tol's bright scheme, which colour-blind people can tell apart, and orange; each has its own marker.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#999999")
MARKERS = "os^DvPX*"
CLASSES = 16  # of a map that have a colour and marker of their own
COMPONENTS, FEW = 50, 10
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


@dataclass
class Chart:
    title: str


class Plot(Chart, ABC):
    """A chart that is drawn."""

    @abstractmethod
    def plot(self, figure: "Figure") -> str:
        """Draw into `figure`; return a note that says what is shown."""


@dataclass
class Faces(Chart):
    """Images by their index in the data set, with short captions, `columns` per row."""

    images: list[int]
    captions: list[str]
    columns: int = 8


@dataclass
class Confusion(Plot):
    """Counts `[K, K]` of true (row) against predicted (column) classes."""

    matrix: np.ndarray
    classes: tuple[str, ...]

    def plot(self, figure: "Figure") -> str:
        colors = require("matplotlib.colors", "probe")
        counts, classes = self.matrix, len(self.classes)
        fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        figure.set_size_inches(WIDTH, WIDTH)
        axes = figure.add_subplot(aspect="equal")
        shades = [(*colors.to_rgb(BLUE), alpha) for alpha in (0, 0.85)]
        colormap = colors.LinearSegmentedColormap.from_list("shades", shades)
        axes.pcolormesh(fractions, cmap=colormap, vmin=0, vmax=1, edgecolor=FAINT, linewidth=0.4)
        size = min(11.0, 84 / classes)
        for row, column in np.ndindex(*counts.shape):
            weight = "bold" if row == column else "normal"
            middle = {"x": column + 0.5, "ha": "center", "va": "center"}
            axes.text(y=row + 0.38, s=f"{fractions[row, column]:.0%}", fontsize=size, weight=weight, **middle)
            axes.text(y=row + 0.72, s=f"{counts[row, column]:,}", fontsize=0.72 * size, **middle)
        names = [_one_line(name) for name in self.classes]
        axes.set_xticks(np.arange(classes) + 0.5, names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(classes) + 0.5, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.invert_yaxis()
        axes.set(xlabel="predicted", ylabel="truth")
        return f"{counts.sum():,} images; percentage of each row, and below it the count."


@dataclass
class Curve(Plot):
    """A line through points, `x` and `y` `[N]`, such as a ROC curve."""

    x: np.ndarray
    y: np.ndarray
    x_label: str
    y_label: str
    log_x: bool = False

    def plot(self, figure: "Figure") -> str:
        axes = figure.add_subplot()
        x, y = self.x, self.y
        if self.log_x and (x > 0).any():
            x = np.maximum(x, x[x > 0].min())  # zero has no logarithm: the line begins at the first step
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.plot(x, y, color=BLUE, linewidth=2)
        if len(y) and y.min() >= 0 and y.max() <= 1:
            axes.set_ylim(-0.02, 1.02)
        axes.grid()
        axes.set(xlabel=self.x_label, ylabel=self.y_label)
        scale = " (logarithmic axis)." if self.log_x else "."
        return f"{self.y_label.capitalize()} against {self.x_label}{scale}"


@dataclass
class Bars(Plot):
    """One value per name, with the bounds `[N]` of its confidence interval if they are known."""

    names: tuple[str, ...]
    values: np.ndarray
    y_label: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def plot(self, figure: "Figure") -> str:
        count = len(self.names)
        figure.set_size_inches(WIDTH, 0.8 + 0.3 * max(count, 2))
        axes = figure.add_subplot()
        values = np.asarray(self.values, float)
        axes.barh(np.arange(count), np.nan_to_num(values), height=0.66, color=BLUE)
        ends = np.maximum(np.nan_to_num(values), 0)
        if self.low is not None and self.high is not None:
            axes.hlines(np.arange(count), self.low, self.high, color=INK, linewidth=1.4)
            ends = np.fmax(ends, self.high)
        digits = 3 if np.abs(np.nan_to_num(values)).max(initial=0) < 10 else 2
        for place, (end, value) in enumerate(zip(ends, values, strict=True)):
            text = "none" if np.isnan(value) else f"{value:.{digits}f}"
            axes.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=9.5)
        axes.set_yticks(np.arange(count), [_one_line(name) for name in self.names])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(count - 0.4, -0.6)
        axes.grid(axis="x")
        axes.set_xlabel(self.y_label)
        return "" if self.high is None else "Thin lines: 95 % confidence intervals."


@dataclass
class Scatter(Plot):
    """Predicted against true values `[N]`."""

    truth: np.ndarray
    predicted: np.ndarray
    unit: str

    def plot(self, figure: "Figure") -> str:
        figure.set_size_inches(WIDTH, WIDTH)
        axes = figure.add_subplot(aspect="equal")
        values = np.concatenate([self.truth, self.predicted]).astype(float)
        low, high = values.min(), values.max()
        margin = 0.04 * (high - low) or 0.5
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        raster = len(self.truth) > RASTER_FROM
        points: dict[str, Any] = {"s": 12, "alpha": 0.55, "linewidths": 0, "rasterized": raster}
        axes.scatter(self.truth, self.predicted, color=BLUE, **points)
        axes.set(xlim=ends, ylim=ends)
        axes.set(xlabel=f"truth ({self.unit})", ylabel=f"predicted ({self.unit})")
        axes.yaxis.set_major_locator(axes.xaxis.get_major_locator())
        axes.grid()
        return f"{len(self.truth):,} images; on the line the prediction is right."


@dataclass
class Map(Plot):
    """Embeddings `[N, D]` laid out in the plane, coloured by class or by number."""

    vectors: np.ndarray
    labels: list[str] | np.ndarray

    def plot(self, figure: "Figure") -> str:
        count = len(self.vectors)
        places, method = lay_out(self.vectors.astype(np.float64))
        figure.set_size_inches(WIDTH, WIDTH)
        axes = figure.add_subplot()
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        labels = np.asarray(self.labels)
        size = min(40.0, max(14.0, 8000 / count))
        points = {"s": size, "alpha": 0.85, "linewidths": 0, "rasterized": count > RASTER_FROM}
        colour = _colour_by_number if labels.dtype.kind in "fiu" else _colour_by_class
        colour(figure, axes, places, labels, points)
        return f"{method} of {count:,} embeddings."


def lay_out(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """Place vectors `[N, D]` in the plane `[N, 2]`, and name the method: t-SNE, or the first two principal
    components for few or equal vectors. Raises MissingExtra without scikit-learn."""
    components = min(COMPONENTS, *vectors.shape)
    pca = require("sklearn.decomposition", "probe").PCA(components, svd_solver="full")
    # more threads add in another order, which changes the last digits and with them the t-SNE
    with require("threadpoolctl", "probe").threadpool_limits(1):
        main = pca.fit_transform(vectors) if np.ptp(vectors) else np.zeros((len(vectors), 2))
        if len(vectors) < FEW or not np.ptp(main[:, 0]):
            return np.pad(main, ((0, 0), (0, 2)))[:, :2], "Principal components"
        perplexity = min(30.0, (len(main) - 1) / 3)
        start = np.pad(main, ((0, 0), (0, 1)))[:, :2] / main[:, 0].std() * 1e-4
        tsne = require("sklearn.manifold", "probe").TSNE(perplexity=perplexity, init=start, random_state=SEED)
        return tsne.fit_transform(main), "t-SNE"


def _colour_by_number(
    figure: "Figure", axes: "Axes", places: np.ndarray, labels: np.ndarray, points: dict[str, Any]
) -> None:
    viridis = require("matplotlib", "probe").colormaps["viridis"]
    # without its ends, which vanish on a dark or on a white page
    colormap = require("matplotlib.colors", "probe").ListedColormap(viridis(np.linspace(0.25, 0.92, 256)))
    drawn = axes.scatter(places[:, 0], places[:, 1], c=labels.astype(float), cmap=colormap, **points)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", aspect=40, pad=0.02)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(alpha=1, edgecolor="face")


def _colour_by_class(
    figure: "Figure", axes: "Axes", places: np.ndarray, labels: np.ndarray, points: dict[str, Any]
) -> None:
    counts = Counter(labels.tolist())
    names = sorted(counts, key=lambda name: (-counts[name], name))
    named = sorted(names if len(names) <= CLASSES else names[: CLASSES - 1])
    others = ~np.isin(labels, named)
    if others.any():
        axes.scatter(*places[others].T, color="#999999", marker=".", label=" other", **points)
    # labels begin with a space: those that begin with _ are left out of legends
    for i, name in enumerate(named):
        marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        colour, label = COLOURS[i % len(COLOURS)], f" {_one_line(name)}"
        axes.scatter(*places[labels == name].T, color=colour, marker=marker, label=label, **points)
    figure.legend(loc="outside lower center", ncols=4, markerscale=1.5, handletextpad=0.2, columnspacing=1.2)


def _one_line(name: str, letters: int = 22) -> str:
    """A name as a short line of printable text."""
    text = " ".join(name.encode("utf-8", "replace").decode().split())
    text = "".join(letter for letter in text if letter.isprintable())
    return text if len(text) <= letters else text[: letters - 1] + "…"


def draw(chart: Plot, name: str) -> tuple[str, str]:
    """Draw a chart as an SVG element, and note what it shows; the same chart gives the same SVG. `name` makes
    its ids unique on the page.

    Raises MissingExtra without matplotlib, or without scikit-learn for a Map.
    """
    matplotlib = require("matplotlib", "probe")
    new_figure = require("matplotlib.figure", "probe").Figure
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # whatever a matplotlibrc says, perhaps one in the working folder
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", module="matplotlib")  # of letters that its own font lacks
        figure = new_figure(figsize=(WIDTH, 3.6), layout="constrained")
        note = chart.plot(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub("<[^>]+>", lambda tag: _on_page(tag.group(), name), svg)  # not the text between
    box = re.search(r'viewBox="[^"]*"', svg)
    label = html.escape(f"{chart.title}. {note}")
    head = f'<svg role="img" aria-label="{label}" {box.group() if box else ""}>'
    return head + svg[svg.index("<svg") :].partition(">")[2], note


def _on_page(tag: str, name: str) -> str:
    """A tag in the page's colours and font, with unique ids."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", tag)
    return tag.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
