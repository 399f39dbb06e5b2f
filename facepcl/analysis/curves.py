"""How a head turns over time, as inline SVG."""

from itertools import pairwise

import numpy as np

from facepcl.data.video import clock
from facepcl.images.face import ANGLES
from facepcl.images.html import escaped

WIDTH, HEIGHT = 420, 190  # of the drawing's own units: on a phone about pixels
LEFT, RIGHT, TOP, BOTTOM = 34, 8, 8, 22
POINTS = 800  # of a line: a long track is thinned to so many
GAP = 1.0  # seconds without a face, from which a line is interrupted
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)  # seconds between marks
# Paul Tol's bright scheme, which colour-blind people can tell apart; and dashes, for print
LINES = {"yaw": ("#4477aa", ""), "pitch": ("#ee6677", "7 3"), "roll": ("#228833", "2 3")}


def legend() -> str:
    """What the lines of `pose_curve` are, as HTML."""
    meanings = {"yaw": "to the right of the image", "pitch": "up", "roll": "tilted clockwise"}
    keys = [
        f'<span><svg width="28" height="10" aria-hidden="true">{_line("0 5 28 5", angle)}</svg> '
        f"{angle} (above 0: {meanings[angle]})</span>"
        for angle in ANGLES
    ]
    return f'<p class="legend soft">{"".join(keys)}</p>'


def pose_curve(times: np.ndarray, poses: np.ndarray, label: str) -> str:
    """Yaw, pitch and roll `[N, 3]` in degrees at `times` `[N]` in seconds as an `svg` element."""
    if len(times) > POINTS:
        kept = np.linspace(0, len(times) - 1, POINTS).round().astype(int)
        breaks = np.flatnonzero(np.diff(times) > GAP)  # both sides of them, to be seen as such
        kept = np.unique(np.concatenate([kept, breaks, breaks + 1]))
        times, poses = times[kept], poses[kept]
    start, end = float(times[0]), max(float(times[-1]), float(times[0]) + 0.1)
    step = 15 if np.ptp(poses) <= 60 else 30
    low = min(-step, step * float(np.floor(poses.min() / step)))
    high = max(step, step * float(np.ceil(poses.max() / step)))

    def x(time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (time - start) / (end - start)

    def y(angle: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - angle) / (high - low)

    parts = []
    for angle in np.arange(low, high + 1, step):
        colour = "soft" if angle == 0 else "line"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(angle):.1f}" y2="{y(angle):.1f}" '
            f'stroke="var(--{colour})"/><text x="{LEFT - 5}" y="{y(angle) + 4:.1f}" text-anchor="end">'
            f"{angle:.0f}°</text>"
        )
    for time in _marks(start, end):
        parts.append(
            f'<line x1="{x(time):.1f}" x2="{x(time):.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}" '
            f'stroke="var(--soft)"/><text x="{x(time):.1f}" y="{HEIGHT - 5}" text-anchor="middle">'
            f"{clock(time)}</text>"
        )
    pauses = np.diff(times)
    cuts = [0, *(np.flatnonzero(pauses > max(GAP, 1.5 * float(np.median([*pauses, 0])))) + 1), len(times)]
    for column, angle in enumerate(ANGLES):
        for first, last in pairwise(cuts):
            some = zip(times[first:last], poses[first:last, column], strict=True)
            places = [f"{x(time):.1f} {y(degrees):.1f}" for time, degrees in some]
            parts.append(_line(" ".join(places if len(places) > 1 else places * 2), angle))
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _marks(start: float, end: float) -> np.ndarray:
    step = next((step for step in STEPS if (end - start) / step <= 6), (end - start) / 6)
    return np.arange(np.ceil(start / step - 1e-6), np.floor(end / step + 1e-6) + 1) * step + 0.0  # no -0


def _line(points: str, angle: str) -> str:
    colour, dashes = LINES[angle]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>'
