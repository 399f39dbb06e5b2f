"""The page of `facepcl demo`, in gradio."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from facepcl.analysis.analyzer import LIMITS
from facepcl.demo import html
from facepcl.demo.compare import Comparer, Photo
from facepcl.embedding.contact_sheet import Sample
from facepcl.errors import FacepclError, require

MAX_FACES = 10  # on the page
STALE_SECONDS = 60  # after which an empty upload is nobody's
KEPT_SECONDS = 3600  # the faces of a visitor, in memory
SAMPLES = sorted((Path(__file__).parent / "faces").glob("*.jpg"))  # rendered, CC0 1.0
TITLE = "facepcl: analyze and compare faces"
ABOUT = (
    f"# {TITLE}\nHead pose, expression and action units, and similarities by identity and by pose. "
    "Photos are deleted as soon as their faces are cut out; nothing leaves {where}."
)


def build_page(comparer: Comparer, folder: str | None, local: bool) -> Any:
    """The `gradio.Blocks`. Neighbours are looked for in `folder`; on a `local` page the visitor may name
    another."""
    gr = require("gradio", "demo")
    what = "face crops" if comparer.takes_crops else "photos"
    private: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1}
    gr.set_static_paths(SAMPLES)  # they are served as they are, and not copied to the uploads
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 600), fill_width=True) as page:
        gr.Markdown(ABOUT.format(where="this machine" if local else "the machine that serves this page"))
        photos = gr.State([], time_to_live=KEPT_SECONDS)
        files = gr.File(label=f"Drop {what} here", file_count="multiple", height=150, elem_id="files")
        gr.Markdown("Or click rendered faces:")
        samples = gr.Gallery(
            [str(sample) for sample in SAMPLES],
            show_label=False,
            columns=len(SAMPLES),
            rows=1,
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="samples",
        )
        errors = gr.HTML(elem_id="said")
        restart = gr.Button("Start again", size="sm", visible=False)
        shown = [gr.HTML(elem_id=name) for name in ("found", "alike")]
        near = []
        if folder or local:
            gr.Markdown("### Nearest faces in a folder")
            named = gr.Textbox(
                folder or "",
                label="Folder on this machine",
                placeholder=f"/path/to/{what.replace(' ', '_')}",
                visible=local,
                elem_id="folder",
            )
            look = gr.Button("Search", size="sm", elem_id="look")
            near = [gr.HTML(elem_id="near")]

            def find(photos: list[Photo], named: str, progress: Any = gr.Progress()) -> str:  # noqa: B008
                where = named if local else folder or ""
                try:
                    gallery = comparer.gallery(where.strip(), lambda done, total: progress((done, total)))
                except (FacepclError, OSError) as error:
                    return html.notes([str(error)])
                return html.neighbours(_faces(photos), gallery)

            gr.on([look.click, named.submit], find, [photos, named], near, **private)

        def add(paths: list[str] | None, photos: list[Photo]) -> list[Any]:
            return show(*_add(comparer, paths or [], photos, _delete))

        def add_sample(photos: list[Photo], event: gr.SelectData) -> list[Any]:  # type: ignore[name-defined]
            return show(*_add(comparer, [SAMPLES[event.index]], photos))

        def show(photos: list[Photo], sentences: list[str]) -> list[Any]:
            faces = _faces(photos)
            start = [None, photos, html.notes(sentences), gr.update(visible=bool(photos))]
            start += [html.overview(photos, LIMITS), html.similarity_tables(faces)]
            return [*start, *["" for _ in near]]

        def clear() -> list[Any]:
            return [None, [], "", gr.update(visible=False), *["" for _ in [*shown, *near]]]

        everything = [files, photos, errors, restart, *shown, *near]
        files.upload(add, [files, photos], everything, **private)
        samples.select(add_sample, [photos], everything, **private)
        restart.click(clear, None, everything, api_visibility="private")
    return page


def _faces(photos: Sequence[Photo]) -> list[Sample]:
    return [face for photo in photos for face in photo.faces]


def _add(
    comparer: Comparer,
    paths: Sequence[str | Path],
    photos: list[Photo],
    end: Callable[[Path], object] = lambda path: None,
) -> tuple[list[Photo], list[str]]:
    """The photos with those of `paths`, and a sentence for each left out. `end` is called with each path."""
    photos, sentences = list(photos), []
    for path in map(Path, paths):
        try:
            if room := MAX_FACES - len(_faces(photos)):
                photos.append(comparer.read(path, room))
            else:
                sentences.append(f"{path.name} was left out: the page has its {MAX_FACES} faces; start again")
        except (FacepclError, OSError) as error:
            sentences.append(f"{path.name}: {error}")
        finally:
            end(path)
    return photos, sentences


def _delete(upload: Path) -> None:
    """Delete an uploaded file, its folder, and the empty files that gradio leaves beside uploads."""
    with contextlib.suppress(OSError):
        upload.unlink(missing_ok=True)
        upload.parent.rmdir()
        for left in upload.parents[1].iterdir():
            status = left.stat()
            # a recent one may be an upload that has just begun
            if left.is_file() and not status.st_size and time.time() - status.st_mtime > STALE_SECONDS:
                left.unlink(missing_ok=True)
