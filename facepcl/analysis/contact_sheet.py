"""A sheet of analyzed photos, to look at: boxes, head poses, expressions, action units."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from facepcl.analysis.drawing import AXES, AXIS_NAMES, DrawnFace, annotated, labels_of
from facepcl.analysis.photos import ShownPhoto, closer, photos_with_faces, read_photos, spread
from facepcl.analysis.words import UNIT_NAMES, describe_expression, pose_text, strongest
from facepcl.embedding.contact_sheet import stem
from facepcl.embedding.embeddings import Embeddings
from facepcl.images.sheet import end_of, font, save_sheet

LIMIT, ACROSS = 24, 4  # photos on the sheet, and in a row
SIDE, GAP, HEAD = 320, 12, 64
READ_SIDE = 960  # pixels of whole photos, of which the part around the faces is shown
LINE, FACES = 17, 3  # pixels of a line, and faces that are described below a photo
BAR = 70  # pixels of an action unit at its highest intensity


def draw_sheet(
    table: Embeddings, sources: Sequence[str], path: str | Path, workers: int | None = None
) -> None:
    """Write a sheet of some photos of a table with attributes, each above what its faces show."""
    paths = spread(photos_with_faces(table), LIMIT)
    photos = [closer(photo, SIDE) for photo in read_photos(table, paths, sources, READ_SIDE, workers)]
    rows = [photos[start : start + ACROSS] for start in range(0, len(photos), ACROSS)]
    heights = [max(photo.picture.height for photo in row) + _caption_height(row) + GAP for row in rows]
    columns = max(2, min(ACROSS, len(photos)))
    sheet = Image.new("RGB", (GAP + columns * (SIDE + GAP), HEAD + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    count = sum(error is None for error in table.errors)
    pen.text((GAP, 8), f"{count:,} faces in all, {len(photos)} photos shown", "black", font(20))
    _draw_legend(pen, GAP, 38)
    top = HEAD
    for row, height in zip(rows, heights, strict=True):
        picture_height = max(photo.picture.height for photo in row)
        for place, photo in enumerate(row):
            _draw_photo(sheet, GAP + place * (SIDE + GAP), top, picture_height, photo)
        top += height
    save_sheet(sheet, path)


def _caption_height(row: Sequence[ShownPhoto]) -> int:
    return LINE * (1 + max(_lines(photo.faces) for photo in row)) + 6


def _lines(faces: Sequence[DrawnFace]) -> int:
    """Of text below a photo with these faces: one face has bars, several have two lines each."""
    return 4 if len(faces) == 1 else 2 * min(len(faces), FACES) + (len(faces) > FACES)


def _draw_legend(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    for colour, text in zip(AXES, AXIS_NAMES, strict=True):
        pen.line((x, y + 8, x + 22, y + 8), fill=colour, width=4)
        pen.text((x + 28, y), text, "dimgray", font(13))
        x += 52 + int(font(13).getlength(text))


def _draw_photo(sheet: Image.Image, x: int, y: int, height: int, photo: ShownPhoto) -> None:
    picture = annotated(photo.picture, photo.scale, photo.faces)
    pen = ImageDraw.Draw(sheet)
    sheet.paste(picture, (x + (SIDE - picture.width) // 2, y + height - picture.height))
    y += height + 4
    name = end_of(stem(photo.path), 12, SIDE)
    pen.text((x, y), name, "dimgray", font(12, name))
    y += LINE
    for label, (_, attributes) in list(zip(labels_of(photo.faces), photo.faces, strict=True))[:FACES]:
        mark = f"{label}  " if label else ""
        pen.text((x, y), mark + describe_expression(attributes), "black", font(14))
        pose = pose_text(attributes)
        pen.text((x + SIDE - font(12).getlength(pose), y + 1), pose, "black", font(12))
        y += LINE
        if len(photo.faces) == 1:
            _draw_units(pen, x, y, attributes)
        else:
            units = ", ".join(
                f"{UNIT_NAMES.get(name, name)} {value:.1f}" for name, value in strongest(attributes)
            )
            beginning = end_of((units or "no strong action unit")[::-1], 12, SIDE - 16)[::-1]
            pen.text((x + 16, y), beginning, "dimgray", font(12))
            y += LINE
    if len(photo.faces) > FACES:
        pen.text((x, y), f"and {len(photo.faces) - FACES} more faces", "dimgray", font(12))


def _draw_units(pen: ImageDraw.ImageDraw, x: int, y: int, attributes: dict[str, float]) -> None:
    for name, value in strongest(attributes):
        pen.rectangle((x, y + 4, x + BAR, y + 12), fill="#e5e7eb")
        pen.rectangle((x, y + 4, x + round(BAR * value), y + 12), fill="#0d9488")
        text = f"{value:.2f}  {name} {UNIT_NAMES.get(name, '')}".rstrip()
        pen.text((x + BAR + 8, y), text, "black", font(12))
        y += LINE
