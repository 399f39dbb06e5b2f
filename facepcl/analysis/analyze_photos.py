"""Whole folders and videos to what their faces show: `analyze`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from facepcl.analysis.analyzer import AttributeEmbedder
from facepcl.analysis.contact_sheet import draw_sheet
from facepcl.analysis.page import write_page
from facepcl.analysis.tracks import with_tracks
from facepcl.data.sources import as_sources
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.encoder import MODEL
from facepcl.embedding.job import check_drawings, fill_table
from facepcl.embedding.tables import read_table
from facepcl.embedding.writers import Summary
from facepcl.images.html import check_page
from facepcl.images.sheet import check_sheet

COMMAND, FPS = "analyze", 5.0


def analyze(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | nn.Module = MODEL,
    crops: bool = False,
    one: bool = False,
    fps: float = FPS,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    resume: bool = False,
    on_error: str = "record",
    sheet: str | Path | None = None,
    html: str | Path | None = None,
    detector: str | Path | None = None,
    all_files: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = False,
) -> Summary:
    """Write head pose, expression, action units and identity of the faces in photos and videos to a table, a
    row a face.

    The table is one of `embed` with `branch="identity"` and the further columns `yaw`, `pitch`, `roll`
    (degrees), `expression` (the most likely one), `expression_NAME` (probabilities, not calibrated) and
    `AU1`, `AU2`, ... (0 to 1, not validated on photos); of a video `time` (seconds) and `track` (the number
    of a face that is followed through the video).

    Args:
        source: Photos, videos (needs `facepcl[video]`), folders, globs, `.csv` manifests with a column
            `path`, `.tar` shards.
        out: A .parquet, .npz or .csv file, or a folder that gets a Parquet file per shard.
        model: Weights with heads, as for `FaceAnalyzer`.
        crops: The sources are face crops, and no detector is needed.
        one: Only the most prominent face of each photo or frame.
        fps: Maximum frames per second of a video.
        batch_size: As for `embed`, like `workers`, `device`, `dtype`, `resume`, `on_error`, `all_files`,
            `rank`, `world_size` and `progress`.
        sheet: A .png or .jpg of some photos with what was found in them.
        html: A self-contained .html page of photos with their analysis, and curves of head pose for videos;
            it loads nothing from the network.
        detector: YuNet's ONNX file; None downloads it once from the Hub.

    Returns:
        A summary: path, counts of rows, photos without a face and errors, seconds.

    Raises:
        OptionError: An argument is wrong, or the weights have no heads.
        MissingPath: A source does not exist.
        WeightsError: There are no weights or no detector.
    """
    sources = as_sources(source)
    fps = fps.item() if isinstance(fps, np.generic) else fps  # which does not go into JSON

    def load(device: str, dtype: str) -> AttributeEmbedder:
        return AttributeEmbedder(
            model,
            align=not crops,
            one=one,
            fps=fps,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            detector=detector,
        )

    check_drawings(sources, out, (sheet, check_sheet), (html, check_page))
    summary, _ = fill_table(
        COMMAND,
        sources,
        out,
        load,
        device=device,
        dtype=dtype,
        workers=workers,
        resume=resume,
        on_error=on_error,
        all_files=all_files,
        rank=rank,
        world_size=world_size,
        progress=progress,
        fps=fps,
        complete=with_tracks,
    )
    if sheet is not None or html is not None:
        draw(read_table(summary.path, vectors=False), sources, sheet, html, workers)
    return summary


def draw(
    table: Embeddings,
    sources: Sequence[str],
    sheet: str | Path | None,
    html: str | Path | None,
    workers: int | None,
) -> None:
    """Write the sheet and the page of a table, as far as they have names."""
    if sheet is not None:
        draw_sheet(table, sources, sheet, workers)
    if html is not None:
        write_page(table, sources, html, workers)
