"""The page of `facepcl demo`, in gradio."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from facepcl.demo import html
from facepcl.demo.compare import Comparer, Gallery, SeenFace, SeenPhotograph
from facepcl.errors import FacepclError, require

FACES = 10  # on the page
SWAPPED = 6  # of them: each is drawn with the pose of each
LEFT_SECONDS = 60  # after which an empty upload is nobody's
KEPT_SECONDS = 3600  # the faces of a visitor, in memory
TITLE = "facepcl: a face gives two codes"
ABOUT = (
    f"# {TITLE}\nWhat a face is like, and where it is turned. Drop photographs to find their "
    "faces and compare them under both. Photographs are deleted as soon as their faces are cut out; "
    "nothing leaves {where}."
)


def build_page(comparer: Comparer, folder: str | None, names_folder: bool, where: str) -> Any:
    """The `gradio.Blocks`. `folder` is where neighbours are looked for, and with `names_folder` the visitor
    may name another; `where`: what the photographs do not leave."""
    gr = require("gradio", "demo")
    what = "face crops" if comparer.takes_crops else "photographs"
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.Markdown(ABOUT.replace("{where}", where))
        seen = gr.State([], time_to_live=KEPT_SECONDS)
        files = gr.File(label=f"Drop {what} here", file_count="multiple", height=150, elem_id="files")
        said = gr.HTML(elem_id="said")
        restart = gr.Button("Start again", size="sm", visible=False)
        shown = [gr.HTML(elem_id=name) for name in ("found", "alike", "swapped")]
        near = []
        if folder or names_folder:
            gr.Markdown("### Nearest faces in a folder")
            named = gr.Textbox(
                folder or "",
                label="Folder on this machine",
                placeholder=f"/path/to/{what.replace(' ', '_')}",
                visible=names_folder,
                elem_id="folder",
            )
            look = gr.Button("Look through it", size="sm", elem_id="look")
            near = [gr.HTML(elem_id="near")]
            own = None if names_folder else folder

            def find(seen: list[SeenPhotograph], named: str, progress: Any = gr.Progress()) -> str:  # noqa: B008
                return _find(comparer, seen, own or named, lambda done, total: progress((done, total)))

            options = {"api_visibility": "private", "concurrency_limit": 1}
            gr.on([look.click, named.submit], find, [seen, named], near, **options)

        def add(paths: list[str] | None, seen: list[SeenPhotograph]) -> Iterator[list[Any]]:
            seen, sentences = _add(comparer, paths or [], seen)
            start = [None, seen, html.notes(sentences), gr.update(visible=bool(seen))]
            faces = [face for one in seen for face in one.faces]
            compared, rest = [html.found(seen), html.alike(faces)], ["" for _ in near]
            yield [*start, *compared, "", *rest]  # the decoder takes longer
            yield [*start, *compared, _swap(comparer, faces), *rest]

        def clear() -> list[Any]:
            return [None, [], "", gr.update(visible=False), *["" for _ in [*shown, *near]]]

        everything = [files, seen, said, restart, *shown, *near]
        files.upload(add, [files, seen], everything, api_visibility="private", concurrency_limit=1)
        restart.click(clear, None, everything, api_visibility="private")
    return page


def _add(
    comparer: Comparer, paths: Sequence[str], seen: list[SeenPhotograph]
) -> tuple[list[SeenPhotograph], list[str]]:
    """The photographs with those of `paths`, which are deleted, and a sentence for each left out."""
    seen, sentences = list(seen), []
    for path in map(Path, paths):
        try:
            room = FACES - sum(len(one.faces) for one in seen)
            if room < 1:
                sentences.append(f"{path.name} was left out: the page has its {FACES} faces; start again")
                continue
            seen.append(comparer.read(path, room))
        except (FacepclError, OSError) as error:
            sentences.append(f"{path.name}: {error}")
        finally:
            _delete(path)
    return seen, sentences


def _delete(upload: Path) -> None:
    """An uploaded file, its folder, and the empty file that gradio leaves beside for each upload."""
    with contextlib.suppress(OSError):
        upload.unlink(missing_ok=True)
        upload.parent.rmdir()
        for left in upload.parents[1].iterdir():
            there = left.stat()
            # one that is young may be somebody's upload that has just begun
            if left.is_file() and not there.st_size and time.time() - there.st_mtime > LEFT_SECONDS:
                left.unlink(missing_ok=True)


def _swap(comparer: Comparer, faces: list[SeenFace]) -> str:
    if not faces:
        return ""
    if len(faces) < 2 and not comparer.no_decoder:
        return html.swapped(None, "Add a second face, to lend its pose.")
    try:
        return html.swapped(comparer.swaps(faces[:SWAPPED]), "")
    except FacepclError as error:
        return html.swapped(None, f"{error}.")


def _find(
    comparer: Comparer, seen: Sequence[SeenPhotograph], folder: str, on_progress: Callable[[int, int], object]
) -> str:
    try:
        gallery: Gallery = comparer.gallery(folder.strip(), on_progress)
    except (FacepclError, OSError) as error:
        return html.notes([str(error)])
    return html.neighbours([face for one in seen for face in one.faces], gallery)
