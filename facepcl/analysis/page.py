"""Analyzed photos and videos as one self-contained HTML page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facepcl.analysis.curves import legend, pose_curve
from facepcl.analysis.drawing import annotated, labels_of
from facepcl.analysis.parts import STYLE, axes_legend, describe_face, describe_pose
from facepcl.analysis.photos import ShownPhoto, closer, photos_with_faces, read_photos, spread
from facepcl.analysis.tracks import TRACK
from facepcl.data.video import clock, time_of, video_of
from facepcl.embedding.embeddings import Embeddings, most_likely
from facepcl.images.face import ANGLES, NO_FACE
from facepcl.images.html import escaped, inline_image, save_page

PHOTOS, VIDEOS, FRAMES, TRACKS = 100, 20, 6, 8  # that are shown: of each video the longest tracks
READ = 900  # pixels of a photo, of which the part with faces is shown
SIDE, GROUP, FRAME = 360, 640, 260  # pixels of that part, with several faces, and of a frame
FACES, LINES = 12, 4  # that are described of a photo, and of a frame
_STYLE = """
.photo { display: flex; flex-wrap: wrap; gap: 12px 20px; align-items: flex-start; }
.photo > div { flex: 1 1 180px; min-width: 0; margin: 0; }
.photo > .picture { flex-basis: 200px; }
.photo.group { grid-column: 1 / -1; }
.photo.group > .picture { flex: 1 1 340px; max-width: 640px; }
.photo.group > .faces { flex: 2 1 320px; }
.photo .faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr));
  gap: 14px 24px; }
.card img { display: block; max-width: 100%; height: auto; border-radius: 6px; margin: 0 auto; }
.picture p { margin: 4px 0 0; }
.curve { display: block; width: 100%; max-width: 620px; height: auto; }
.curve text { font-size: 12px; fill: var(--soft); }
.tracks, .frames { display: grid; gap: 16px 24px; margin: 12px 0; }
.tracks { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.frames { grid-template-columns: repeat(auto-fill, minmax(min(100%, 140px), 1fr)); }
.frames figure, .tracks figure { margin: 0; }
.videos .card { margin-bottom: 16px; }
"""


class ShownTrack(NamedTuple):
    """One face of a video: seconds `[N]`, yaw, pitch and roll `[N, 3]`, and the expression of each frame."""

    number: int
    times: np.ndarray
    poses: np.ndarray
    expressions: list[str]


def write_page(
    table: Embeddings, sources: Sequence[str], path: str | Path, workers: int | None = None
) -> None:
    """Write a page of a table with attributes: photos above what their faces show, and of videos how the
    head of each track turns, with a few frames."""
    shown = photos_with_faces(table)
    photos = [path for path in shown if video_of(path) is None]
    frames: dict[str, list[str]] = {}
    for path_of_frame in shown:
        if video := video_of(path_of_frame):
            frames.setdefault(video, []).append(path_of_frame)
    videos = spread(list(frames), VIDEOS)
    chosen = {video: spread(frames[video], FRAMES) for video in videos}
    wanted = [*spread(photos, PHOTOS), *(frame for some in chosen.values() for frame in some)]
    read = read_photos(table, wanted, sources, READ, workers)
    pictures = {photo.path: closer(photo, _side(photo)) for photo in read}
    title = _title(table, len(photos), len(frames))

    def body() -> Iterator[str]:
        yield from _head(table, len(photos), len(frames))
        if videos:
            yield f'<section class="videos">{legend()}'
            for video in videos:
                tracks = tracks_of(table, video)
                yield from _video(video, tracks, [pictures[p] for p in chosen[video] if p in pictures])
            yield "</section>"
        yield '<div class="cards">'
        for photo in photos:
            if photo in pictures:
                yield _photo(pictures[photo])
        yield "</div>"

    save_page(path, title, STYLE + _STYLE, body())


def tracks_of(table: Embeddings, video: str) -> list[ShownTrack]:
    """The faces of a video with their poses over time, those in most frames first."""
    assert table.attributes is not None
    names = table.meta["attributes"]
    if not set(ANGLES) <= set(names):
        return []
    expressions = most_likely(table)
    numbers = table.attributes[:, names.index(TRACK)]
    columns = [names.index(angle) for angle in ANGLES]
    rows: dict[int, list[int]] = {}
    for row, path in enumerate(table.paths):
        if not np.isnan(numbers[row]) and video_of(path) == video:
            rows.setdefault(int(numbers[row]), []).append(row)
    tracks = []
    for number, some in rows.items():
        times = np.array([time_of(table.paths[row]) for row in some])
        said = [expression for row in some if (expression := expressions[row])]
        tracks.append(ShownTrack(number, times, table.attributes[some][:, columns], said))
    return sorted(tracks, key=lambda track: -len(track.times))


def _side(photo: ShownPhoto) -> int:
    if video_of(photo.path):
        return FRAME
    return GROUP if len(photo.faces) > 1 else SIDE


def _title(table: Embeddings, photos: int, videos: int) -> str:
    found = [_count(photos, "photo")] if photos or not videos else []
    found += [_count(videos, "video")] if videos else []
    return f"{_count(sum(error is None for error in table.errors), 'face')} in {' and '.join(found)}"


def _head(table: Embeddings, photos: int, videos: int) -> Iterator[str]:
    notes = [f"Weights: {table.meta['model']}."]
    without = {path for path, error in zip(table.paths, table.errors, strict=True) if error == NO_FACE}
    failed = sum(error not in (None, NO_FACE) for error in table.errors)
    if empty := sum(video_of(path) is None for path in without):
        notes.append(f"{_count(empty, 'photo')} without a face.")
    if failed:
        notes.append(f"{failed:,} could not be read: see the column error of the table.")
    if photos > PHOTOS:
        notes.append(f"Shown: {PHOTOS} of the photos, spread evenly.")
    if videos > VIDEOS:
        notes.append(f"Shown: {VIDEOS} of the videos, spread evenly.")
    yield f'<p class="soft">{escaped(" ".join(notes))}</p>'
    limits = str(table.meta["limits"])
    yield f"<p>{escaped(limits[:1].upper() + limits[1:])}.</p>"
    yield axes_legend()


def _photo(photo: ShownPhoto) -> str:
    picture = inline_image(annotated(photo.picture, photo.scale, photo.faces), Path(photo.path).name)
    labels = labels_of(photo.faces)
    faces = [describe_face(face.attributes, label) for face, label in zip(photo.faces, labels, strict=True)]
    more = f'<p class="soft">and {len(faces) - FACES} more faces</p>' if len(faces) > FACES else ""
    group = " group" if len(faces) > 1 else ""
    return (
        f'<article class="card photo{group}"><div class="picture">{picture}'
        f'<p class="soft">{escaped(Path(photo.path).name)}</p></div>'
        f'<div class="faces">{"".join(faces[:FACES])}{more}</div></article>'
    )


def _video(video: str, tracks: Sequence[ShownTrack], frames: Sequence[ShownPhoto]) -> Iterator[str]:
    left_out = f"; the {TRACKS} in most frames are drawn" if len(tracks) > TRACKS else ""
    yield f'<article class="card"><h2>{escaped(Path(video).name)}</h2>'
    yield f'<p class="soft">{_count(len(tracks), "face track")}{left_out}</p><div class="tracks">'
    for track in tracks[:TRACKS]:
        first, last = track.times[[0, -1]]
        words = f"Track {track.number}: {clock(first)} to {clock(last)}, {_count(len(track.times), 'frame')}"
        if track.expressions:
            words += f", mostly {max(sorted(set(track.expressions)), key=track.expressions.count)}"
        curve = pose_curve(track.times, track.poses, f"Yaw, pitch and roll of track {track.number}")
        yield f"<figure><figcaption>{escaped(words)}</figcaption>{curve}</figure>"
    yield '</div><div class="frames">'
    for frame in frames:
        yield _frame(frame)
    yield "</div></article>"


def _frame(frame: ShownPhoto) -> str:
    picture = annotated(frame.picture, frame.scale, frame.faces)
    time = clock(time_of(frame.path) or 0.0)
    named = list(zip(frame.faces, labels_of(frame.faces), strict=True))[:LINES]
    poses = "".join(describe_pose(face.attributes, label) for face, label in named)
    return (
        f"<figure>{inline_image(picture, f'frame at {time}')}"
        f'<figcaption class="soft">{time}{poses}</figcaption></figure>'
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
