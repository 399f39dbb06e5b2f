"""Parts of the page of `facepcl demo` as HTML with inline images: no file is written for them."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from facepcl.demo.compare import CodedFace, Gallery, Photo, similarities, with_boxes

NEIGHBOURS = 6
TITLES = {
    "identity": "Identity: like this face",
    "face": "Face branch: like this face",
    "pose": "Pose branch: turned like it",
}
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
    """An `img` element with inline pixels."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def section(title: str, sentence: str, body: str = "") -> str:
    """A heading, if any, a paragraph, and HTML below it."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="pcl">{heading}<p>{escape(sentence)}</p>{body}</div>'


def notes(sentences: Sequence[str]) -> str:
    """What failed, one paragraph each."""
    lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="pcl"><div class="notes" role="alert">{lines}</div></div>' if lines else ""


def overview(photos: Sequence[Photo]) -> str:
    """The photos with their faces marked, and the crops, numbered in order."""
    if not photos:
        return ""
    shown, crops, first = "", "", 1
    for photo in photos:
        if photo.boxes:
            image = picture(with_boxes(photo, first), f"{photo.name}, faces marked")
            shown += f'<figure class="photo">{image}<figcaption>{escape(photo.name)}</figcaption></figure>'
        for number, face in enumerate(photo.faces, first):
            crops += _crop(face, f"{number} {_stem(face.name)}")
        first += len(photo.faces)
    above = f'<div class="pcl"><h3>Photos</h3><div class="row">{shown}</div></div>' if shown else ""
    sentence = "Upright and cut alike: this is what the network sees."
    return above + section("Faces", sentence, f'<div class="row">{crops}</div>')


def similarity_tables(faces: Sequence[CodedFace]) -> str:
    """The cosines of every two faces under each branch."""
    if len(faces) < 2:
        return section("How alike", "Add a second face to compare with.") if faces else ""
    tables = "".join(_matrix(faces, branch) for branch in faces[0].vectors)
    sentence = (
        "Cosine of the codes: 1 is the same, and even strangers have far more than 0, so compare numbers "
        "within a table. The darker, the more alike."
    )
    return section("How alike", sentence, f'<div class="row">{tables}</div>')


def _matrix(faces: Sequence[CodedFace], branch: str) -> str:
    cosines = similarities(faces, faces, branch)
    others = cosines[~np.eye(len(faces), dtype=bool)]
    shades = 0.75 * (cosines - others.min()) / max(float(np.ptp(others)), 1e-6)
    heads = [f"<th>{picture(face.pixels, f'face {number}')}</th>" for number, face in enumerate(faces, 1)]
    lines = f"<tr><td></td>{''.join(heads)}</tr>"
    for i, head in enumerate(heads):
        cells = [
            f'<td style="background: rgba(13, 148, 136, {shade:.2f})">{cosine:.2f}</td>'
            for cosine, shade in zip(cosines[i], shades[i], strict=True)
        ]
        cells[i] = '<td class="self">1</td>'
        lines += f"<tr>{head}{''.join(cells)}</tr>"
    table = f'<table data-branch="{branch}"><caption>{TITLES[branch]}</caption>{lines}</table>'
    return f'<div class="scroll">{table}</div>'


def neighbours(faces: Sequence[CodedFace], gallery: Gallery) -> str:
    """The nearest faces of a folder to each face, under both branches."""
    first = "the first " if gallery.truncated else ""
    count = f"{first}{len(gallery.faces):,} face{'s' * (len(gallery.faces) != 1)}"
    unread = f"; {gallery.unread:,} files could not be read" if gallery.unread else ""
    if not gallery.faces:
        return section("", f"No face was found in this folder{unread}.")
    if not faces:
        return section("", f"The folder has {count}{unread}. Add a photo to see its nearest faces.")
    cosines = {branch: similarities(faces, gallery.faces, branch) for branch in faces[0].vectors}
    blocks = ""
    for i, face in enumerate(faces):
        rows = ""
        for branch in faces[0].vectors:
            nearest = np.argsort(-cosines[branch][i], kind="stable")[:NEIGHBOURS]
            near = [(gallery.faces[n], cosines[branch][i, n]) for n in nearest]
            crops = "".join(_crop(other, f"{cosine:.2f} {_stem(other.name)}") for other, cosine in near)
            rows += f'<div><p>{TITLES[branch]}</p><div class="row">{crops}</div></div>'
        blocks += f'<div class="near">{_crop(face, str(i + 1))}<div>{rows}</div></div>'
    return section("", f"Nearest of {count}, by the cosine of the codes{unread}.", blocks)


def _crop(face: CodedFace, caption: str) -> str:
    image = picture(face.pixels, caption)
    return f'<figure class="crop">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
