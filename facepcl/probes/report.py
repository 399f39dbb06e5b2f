"""A result as one self-contained HTML page: numbers, charts, faces."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from facepcl.data.sources import Item
from facepcl.errors import ImageError, MissingPath, OptionError, require
from facepcl.images.decode import decode, quiet_pillow
from facepcl.images.geometry import cut_square
from facepcl.images.html import check_page, escaped, inline_image, save_page
from facepcl.probes.charts import Chart, Faces, Plot, draw
from facepcl.probes.manifest import DRAWN_PAIRS, Labelled, Manifest
from facepcl.probes.result import Result
from facepcl.probes.table import FIGURES

TILE = 72  # pixels
TITLES = {
    "expression": "Expression",
    "verification": "Verification",
    DRAWN_PAIRS: "Verification (drawn pairs)",
    "action-units": "Action units",
    "head-pose": "Head pose",
    "disentangle": "Disentanglement",
}
BRANCHES = {"concat": "all codes joined", "all": "each code"}
_STYLE = """
.main { display: flex; flex-wrap: wrap; gap: 8px 32px; padding: 0; margin: 0 0 16px; }
.main div { display: flex; flex-direction: column; }
.main dd { margin: 0; font-size: 26px; line-height: 1.2; font-weight: 600; order: -1; }
.main small { font-size: 14px; font-weight: 400; color: var(--soft); white-space: nowrap; }
.main dt { color: var(--soft); font-size: 13px; }
.card svg { display: block; width: 100%; max-width: 560px; height: auto; margin: 8px auto 0; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { text-align: left; font-weight: 400; padding: 3px 0; border-top: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); padding-right: 12px; width: 40%; }
td { font-variant-numeric: tabular-nums; }
.faces { display: grid; gap: 12px 8px; margin-top: 10px; padding: 0; list-style: none;
  max-width: calc(150px * var(--columns)); grid-template-columns: repeat(auto-fill,
  minmax(max(72px, (100% - 8px * (var(--columns) - 1)) / var(--columns)), 1fr)); }
.faces li { font-size: 12px; line-height: 1.25; text-align: center; color: var(--soft); }
.faces img, .faces .empty { display: block; width: 72px; height: 72px; margin: 0 auto 3px;
  border-radius: 4px; object-fit: contain; background: var(--line); }
.faces .empty { padding: 3px; font-size: 9px; overflow: hidden; text-align: left; }
"""


def check_report(path: str | Path) -> None:
    """Raise OptionError, MissingPath, WriteError or MissingExtra if no report can be written there."""
    check_page(path, "report")
    try:
        for package in ("matplotlib", "sklearn"):
            require(package, "probe")
    except ValueError as error:  # a backend that is not installed, of a notebook's environment
        raise OptionError(f"matplotlib does not start ({error}); unset MPLBACKEND") from error


def write_report(result: Result, path: str | Path) -> None:
    """Write numbers, charts and faces of a result as one HTML page, the same for the same result.

    Raises what `check_report` does. An image that cannot be read is an empty tile with the reason.
    """
    check_report(path)
    save_page(path, _title(result.numbers), _STYLE, _body(result))


def _body(result: Result) -> Iterator[str]:
    yield from _main_figures(result.numbers)
    yield from (f'<p class="soft">{escaped(note)}</p>' for note in result.notes)
    yield '<div class="cards">'
    tiles = _tiles(result)
    for number, chart in enumerate(result.charts):
        yield from _card(chart, f"c{number}", result.manifest, tiles)
    yield from _tables(result.numbers)  # last: with many action units they are long
    yield "</div>"


def _title(numbers: dict[str, Any]) -> str:
    """Expression: FER-2013, pcl_facecycle, shared code."""
    task, data, model, branch = (numbers.get(key) for key in ("task", "data", "model", "branch"))
    if numbers.get("test"):
        data = f"{data}, scored on {numbers['test']}"
    code = BRANCHES.get(str(branch), f"{branch} code") if branch else None
    parts = ", ".join(str(part) for part in (data, model, code) if part)
    heading = TITLES.get(str(task), str(task))
    return f"{heading}: {parts}" if parts else heading


def _main_figures(numbers: dict[str, Any]) -> Iterator[str]:
    figures = FIGURES.get(str(numbers.get("task")), ())
    shown = [(f, value) for f in figures if (value := f.text(numbers.get(f.key)))]
    if not shown:
        return
    yield '<dl class="main">'
    for figure, value in shown:
        unit = f" {figure.unit}" if figure.unit == "%" else figure.unit
        spread = f" <small>{escaped(figure.spread(numbers))}</small>"
        yield f"<div><dt>{escaped(figure.name.rstrip(','))}</dt><dd>{value}{unit}{spread}</dd></div>"
    yield "</dl>"
    if any(f"{figure.key}_low" in numbers for figure, _ in shown):
        yield '<p class="soft">In brackets: 95 % confidence intervals.</p>'


def _tables(numbers: dict[str, Any]) -> Iterator[str]:
    """All numbers but lists: scores, then how they were measured."""
    rows = {key: value for key, value in numbers.items() if not isinstance(value, (list, dict))}
    bounds = {f"{key}_{end}" for key in rows for end in ("low", "high", "std")}
    scores = [key for key in rows if isinstance(rows[key], float) and not key.startswith("strength")]
    for title, keys in (("Scores", scores), ("Setting", [key for key in rows if key not in scores])):
        if keys := [key for key in keys if key not in bounds]:
            yield f'<section class="card"><h2>{title}</h2><table>'
            for key in keys:
                name = escaped(key).replace("_", "_<wbr>")  # it may wrap after each word
                yield f'<tr><th scope="row">{name}</th><td>{_cell(key, rows)}</td></tr>'
            yield "</table></section>"


def _cell(key: str, numbers: dict[str, Any]) -> str:
    """A value with its deviation and bounds: 0.481 ± 0.012 (0.464 to 0.497)."""
    low, high, deviation = (numbers.get(f"{key}_{end}") for end in ("low", "high", "std"))
    text = str(numbers[key]) if key == "seed" else _format(numbers[key])
    if deviation is not None:
        text += f" ± {_format(deviation)}"
    if low is not None and high is not None:
        text += f" ({_format(low)} to {_format(high)})"
    return escaped(text)


def _format(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}" if 0.001 <= abs(value) < 1000 else f"{value:.3g}"
    return str(value)


def _card(chart: Chart, name: str, manifest: Manifest, tiles: dict[int, str]) -> Iterator[str]:
    wide = " wide" if isinstance(chart, Faces) else ""
    yield f'<figure class="card{wide}"><figcaption><h2>{escaped(chart.title)}</h2>'
    if isinstance(chart, Faces):
        yield "</figcaption>" if chart.images else '<p class="soft">None.</p></figcaption>'
        yield f'<ul class="faces" style="--columns: {chart.columns}">'
        for image, caption in zip(chart.images, chart.captions, strict=True):
            title = escaped(manifest.images[image].name)
            yield f'<li title="{title}">{tiles[image]}{escaped(caption)}</li>'
        yield "</ul>"
    elif isinstance(chart, Plot):
        svg, note = draw(chart, name)
        yield f'<p class="soft">{escaped(note)}</p></figcaption>{svg}'
    yield "</figure>"


def _tiles(result: Result) -> dict[int, str]:
    """An HTML element for each image that the charts show, read in one pass over the data."""
    wanted = {i for chart in result.charts if isinstance(chart, Faces) for i in chart.images}
    tiles = dict.fromkeys(wanted, _empty("it has vanished from the data"))
    for i, item in enumerate(islice(result.manifest.items(), max(wanted, default=-1) + 1)):
        if i in wanted:
            tiles[i] = _tile(item, result.manifest.images[i])
    return tiles


def _tile(item: Item, labelled: Labelled) -> str:
    try:
        with quiet_pillow():
            image = decode(item.read())
            if labelled.square is not None:
                image = cut_square(image, labelled.square)
            image.thumbnail((TILE, TILE), Image.Resampling.BICUBIC)
    except (ImageError, MissingPath) as error:
        return _empty(str(error))
    return inline_image(image, labelled.name)


def _empty(reason: str) -> str:
    return f'<span class="empty">{escaped(reason)}</span>'
