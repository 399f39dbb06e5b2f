"""Parts of the page of `facepcl demo` as HTML, with the pictures inside: no file is written for them."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from facepcl.demo.compare import BRANCHES, Gallery, SeenFace, SeenPhotograph, similarities, with_boxes

NEIGHBOURS = 6
TITLES = {"face": "Face branch: like this face", "pose": "Pose branch: turned like it"}
CSS = """
.pcl h3 { margin: 1.2em 0 .2em; font-size: 1.15em }
.pcl p { margin: .2em 0 .6em; max-width: 46em }
.pcl .row { display: flex; flex-wrap: wrap; gap: 12px 24px; align-items: flex-start }
.pcl figure { margin: 0; max-width: 100% }
.pcl figcaption { font-size: 12px; line-height: 1.3; overflow-wrap: anywhere }
.pcl .photo { max-width: 240px }
.pcl .photo img { max-height: 240px; max-width: 100%; width: auto }
.pcl .scroll { overflow-x: auto; max-width: 100% }
.pcl img { display: block; border-radius: 4px; margin: 0 }
.pcl .crop { width: 80px }
.pcl .crop img { width: 80px; height: 80px }
.pcl table { border-collapse: separate; border-spacing: 2px; width: auto; margin: 0; border: 0 !important }
.pcl caption { text-align: left; font-weight: 600; padding: 4px 2px; caption-side: top }
.pcl th, .pcl td { border: 0; padding: 0; text-align: center; width: 44px; height: 44px; min-width: 44px;
  font-size: 14px; font-weight: 400; font-variant-numeric: tabular-nums }
.pcl th img { width: 44px; height: 44px }
.pcl td { border-radius: 4px }
.pcl td.self { opacity: .45 }
.pcl .near { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 10px 0 24px }
.pcl .near > div { flex: 1 1 300px }
.pcl .near .row { gap: 6px }
.pcl .near p { margin: 4px 0 2px; font-size: .85em; font-weight: 600 }
@media (max-width: 500px) {
  .pcl .photo { max-width: 150px }
  .pcl .near .row :is(.crop, img) { width: 64px; height: auto }
}
.pcl .sheet img { max-width: 100%; height: auto }
.pcl .notes { border-left: 4px solid #c2410c; padding: 4px 12px; margin: 4px 0 }
"""


def picture(image: Image.Image | np.ndarray, alt: str) -> str:
    """An `img` element that has its pixels in it."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def notes(sentences: Sequence[str]) -> str:
    """What could not be done, a line each."""
    lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="pcl"><div class="notes" role="alert">{lines}</div></div>' if lines else ""


def found(photographs: Sequence[SeenPhotograph]) -> str:
    """The photographs with their faces marked, and the crops, numbered in order."""
    if not photographs:
        return ""
    shown, crops, first = "", "", 1
    for one in photographs:
        if one.boxes:
            image = picture(with_boxes(one, first), f"{one.name}, faces marked")
            shown += f'<figure class="photo">{image}<figcaption>{escape(one.name)}</figcaption></figure>'
        for number, face in enumerate(one.faces, first):
            crops += _crop(face, f"{number} {_stem(face.name)}")
        first += len(one.faces)
    photos = f'<h3>Photographs</h3><div class="row">{shown}</div>' if shown else ""
    return (
        f'<div class="pcl">{photos}<h3>Faces</h3><p>Upright and cut alike: this is what the network sees.</p>'
        f'<div class="row">{crops}</div></div>'
    )


def alike(faces: Sequence[SeenFace]) -> str:
    """The cosines of every two faces under the face branch beside those under the pose branch."""
    if len(faces) < 2:
        return _hint("How alike", "Add a second face to compare with.") if faces else ""
    tables = "".join(_matrix(list(faces), branch) for branch in BRANCHES)
    return (
        '<div class="pcl"><h3>How alike</h3><p>Cosine of the codes: 1 is the same, and even strangers have '
        "far more than 0, so compare numbers within a table. The darker, the more alike.</p>"
        f'<div class="row">{tables}</div></div>'
    )


def _matrix(faces: list[SeenFace], branch: str) -> str:
    cosines = similarities(faces, faces, branch)
    others = cosines[~np.eye(len(faces), dtype=bool)]
    shares = 0.75 * (cosines - others.min()) / max(float(np.ptp(others)), 1e-6)
    heads = [picture(face.pixels, f"face {number}") for number, face in enumerate(faces, 1)]
    lines = f"<tr><td></td>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
    for i, head in enumerate(heads):
        cells = (
            '<td class="self">1</td>'
            if i == j
            else f'<td style="background: rgba(13, 148, 136, {share:.2f})">{value:.2f}</td>'
            for j, (value, share) in enumerate(zip(cosines[i], shares[i], strict=True))
        )
        lines += f"<tr><th>{head}</th>{''.join(cells)}</tr>"
    table = f'<table data-branch="{branch}"><caption>{TITLES[branch]}</caption>{lines}</table>'
    return f'<div class="scroll">{table}</div>'


def swapped(sheet: Image.Image | None, reason: str) -> str:
    """Each face drawn with each pose, or why not."""
    title = "One face, another's pose"
    if sheet is None:
        return _hint(title, reason)
    return (
        f'<div class="pcl"><h3>{title}</h3><p>Drawn by the decoder from two codes: a row has the face code '
        "of the picture on its left, a column the pose code of the picture on top.</p>"
        f'<div class="sheet">{picture(sheet, "faces drawn with the poses of others")}</div></div>'
    )


def neighbours(faces: Sequence[SeenFace], gallery: Gallery) -> str:
    """Of each face the nearest ones of a folder, under both branches."""
    count = f"{len(gallery.faces):,} face{'s' * (len(gallery.faces) != 1)}"
    first = "the first " if gallery.cut_off else ""
    unread = f"; {gallery.unread:,} files could not be read" if gallery.unread else ""
    if not gallery.faces:
        return _hint("", f"No face was found in this folder{unread}.")
    if not faces:
        return _hint("", f"The folder has {first}{count}{unread}. Add a photograph to see its nearest faces.")
    blocks = ""
    nearest = {branch: similarities(list(faces), gallery.faces, branch) for branch in BRANCHES}
    for i, face in enumerate(faces):
        rows = "".join(
            f"<div><p>{TITLES[branch]}</p>{_nearest(gallery, nearest[branch][i])}</div>"
            for branch in BRANCHES
        )
        blocks += f'<div class="near">{_crop(face, str(i + 1))}<div>{rows}</div></div>'
    head = f"<p>Nearest of {first}{count}, by the cosine of the codes{unread}.</p>"
    return f'<div class="pcl">{head}{blocks}</div>'


def _nearest(gallery: Gallery, cosines: np.ndarray) -> str:
    order = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
    crops = (_crop(gallery.faces[n], f"{cosines[n]:.2f} {_stem(gallery.faces[n].name)}") for n in order)
    return f'<div class="row">{"".join(crops)}</div>'


def _crop(face: SeenFace, caption: str) -> str:
    image = picture(face.pixels, caption)
    return f'<figure class="crop">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _hint(title: str, sentence: str) -> str:
    head = f"<h3>{title}</h3>" if title else ""
    return f'<div class="pcl">{head}<p>{escape(sentence)}</p></div>'
