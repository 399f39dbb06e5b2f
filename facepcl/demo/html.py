"""Parts of the page of `facepcl demo` as HTML with inline images: no file is written for them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from facepcl.analysis.drawing import annotated
from facepcl.analysis.parts import STYLE, axes_legend, describe_face
from facepcl.demo.compare import Gallery, Photo, similarities
from facepcl.embedding.contact_sheet import Sample, stem
from facepcl.images.html import escaped, inline_image

NEIGHBOURS = 6
TITLES = {
    "identity": "Identity: similar faces",
    "face": "Face branch: similar faces",
    "pose": "Pose branch: similar head pose",
}
CSS = f"""
{STYLE}
.pcl h3 {{ margin: 1.2em 0 .2em; font-size: 1.15em }}
.pcl p {{ margin: .2em 0 .6em }}
.pcl .row {{ display: flex; flex-wrap: wrap; gap: 12px 32px; align-items: flex-start }}
.pcl figure {{ margin: 0; max-width: 100% }}
.pcl figcaption {{ font-size: 12px; line-height: 1.3; overflow-wrap: anywhere }}
.pcl .near figcaption b {{ display: block }}
.pcl img {{ display: block; border-radius: 4px; margin: 0 }}
.pcl .cards {{ display: flex; flex-wrap: wrap; gap: 16px }}
.pcl .card {{ display: flex; flex-wrap: wrap; gap: 12px 20px; flex: 1 1 480px; min-width: 0; max-width: 100%;
  padding: 12px; border-radius: 8px; border: 1px solid var(--border-color-primary) }}
.pcl .group {{ flex-basis: 100% }}
.pcl .photo {{ flex: 1 1 200px; max-width: 420px }}
.pcl .photo img {{ max-height: 420px; max-width: 100%; width: auto; height: auto }}
.pcl .found {{ flex: 2 1 240px; display: flex; flex-wrap: wrap; gap: 12px 24px; min-width: 0;
  align-content: flex-start }}
.pcl .one {{ display: flex; gap: 10px; flex: 0 1 320px; min-width: 0 }}
.pcl .one .face {{ flex: 1 }}
.pcl .scroll {{ overflow-x: auto; max-width: 100%; flex: 1 1 320px }}
.pcl .crop {{ width: 80px }}
.pcl .crop img {{ width: 80px; height: 80px }}
.pcl .one .crop, .pcl .one .crop img {{ width: 64px; height: auto }}
.pcl table {{ border-collapse: separate; border-spacing: 2px; width: auto; margin: 0; border: 0 !important }}
.pcl caption {{ text-align: left; font-weight: 600; padding: 4px 2px; caption-side: top }}
.pcl th, .pcl td {{ border: 0; padding: 0; text-align: center; width: 44px; height: 44px; min-width: 44px;
  font-size: 14px; font-weight: 400; font-variant-numeric: tabular-nums }}
.pcl th img {{ width: 44px; height: 44px }}
.pcl td {{ border-radius: 4px }}
.pcl td.self {{ opacity: .45 }}
.pcl .near {{ display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 10px 0 24px }}
.pcl .near > div {{ flex: 1 1 300px; display: flex; flex-wrap: wrap; gap: 4px 24px }}
.pcl .near > div > div {{ flex: 1 1 280px }}
.pcl .near .row {{ gap: 6px }}
.pcl .near p {{ margin: 4px 0 2px; font-size: .85em; font-weight: 600 }}
@media (max-width: 500px) {{ .pcl .near .row :is(.crop, img) {{ width: 64px; height: auto }} }}
.pcl .notes {{ border-left: 4px solid #c2410c; padding: 4px 12px; margin: 4px 0 }}
#samples, #samples .grid-wrap {{ min-height: 0; height: auto !important; padding: 0; border: 0 }}
#samples .grid-container {{ grid-template-columns: repeat(10, minmax(0, 110px)); padding: 0 }}
@media (max-width: 700px) {{ #samples .grid-container {{ grid-template-columns: repeat(5, 1fr) }} }}
"""


def section(title: str, sentence: str, body: str = "") -> str:
    """A heading, if any, a paragraph, and HTML below it."""
    heading = f"<h3>{escaped(title)}</h3>" if title else ""
    return f'<div class="pcl">{heading}<p>{escaped(sentence)}</p>{body}</div>'


def notes(sentences: Sequence[str]) -> str:
    """What failed, one paragraph each."""
    lines = "".join(f"<p>{escaped(sentence)}</p>" for sentence in sentences)
    return f'<div class="pcl"><div class="notes" role="alert">{lines}</div></div>' if lines else ""


def overview(photos: Sequence[Photo], limits: str) -> str:
    """The photos with their faces marked, beside each face its crop and what it shows; numbered in order.
    `limits` says how far the attributes can be trusted."""
    if not photos:
        return ""
    cards, first = "", 1
    for photo in photos:
        image = inline_image(annotated(*photo.shown[1:], first), f"{photo.name}, faces marked")
        faces = "".join(
            f'<div class="one">{_crop(face, str(number))}'
            f"{describe_face(drawn.attributes) if drawn.attributes else ''}</div>"
            for number, (face, drawn) in enumerate(zip(photo.faces, photo.shown.faces, strict=True), first)
        )
        group = " group" if len(photo.faces) > 1 else ""
        cards += (
            f'<article class="card{group}"><figure class="photo">{image}<figcaption>{escaped(photo.name)}'
            f'</figcaption></figure><div class="found">{faces}</div></article>'
        )
        first += len(photo.faces)
    has_attributes = any(face.attributes for photo in photos for face in photo.shown.faces)
    sentence = "Beside each photo are the crops that the network sees."
    if has_attributes:
        sentence += f" {limits[:1].upper()}{limits[1:]}."
    legend = axes_legend() if has_attributes else ""
    return section("Faces", sentence, f'{legend}<div class="cards">{cards}</div>')


def similarity_tables(faces: Sequence[Sample]) -> str:
    """The cosines of every two faces under each branch."""
    if len(faces) < 2:
        return section("Similarity", "Add a second face to compare with.") if faces else ""
    tables = "".join(_matrix(faces, branch) for branch in faces[0].vectors)
    sentence = (
        "Cosine similarity. Codes other than identity have a large common part, so even different people "
        "are far above 0: compare numbers within one table. Darker is more similar."
    )
    return section("Similarity", sentence, f'<div class="row">{tables}</div>')


def _matrix(faces: Sequence[Sample], branch: str) -> str:
    cosines = similarities(faces, faces, branch)
    others = cosines[~np.eye(len(faces), dtype=bool)]
    shades = 0.75 * (cosines - others.min()) / max(float(np.ptp(others)), 1e-6)
    heads = [f"<th>{_image(face, f'face {number}')}</th>" for number, face in enumerate(faces, 1)]
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


def neighbours(faces: Sequence[Sample], gallery: Gallery) -> str:
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
            crops = "".join(_crop(other, f"{cosine:.2f}", stem(other.path)) for other, cosine in near)
            rows += f'<div><p>{TITLES[branch]}</p><div class="row">{crops}</div></div>'
        blocks += f'<div class="near">{_crop(face, str(i + 1))}<div>{rows}</div></div>'
    return section("", f"Nearest of {count}, by the cosine of the codes{unread}.", blocks)


def _crop(face: Sample, mark: str, name: str = "") -> str:
    image = _image(face, f"{mark} {name}".strip())
    caption = f"<b>{escaped(mark)}</b> {escaped(name)}"
    return f'<figure class="crop">{image}<figcaption>{caption}</figcaption></figure>'


def _image(face: Sample, alt: str) -> str:
    return inline_image(Image.fromarray(face.pixels), alt)
