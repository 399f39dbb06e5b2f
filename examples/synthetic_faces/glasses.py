"""Glasses: two rims, a bridge, temples, and lenses that are blended over the picture."""

import numpy as np

from synthetic_faces.kernels.pixels import PLAIN
from synthetic_faces.model import Model
from synthetic_faces.solids import bar, ring

_POINTS = 28  # of a rim


def add_glasses(model: Model, sun: bool) -> None:
    """The person's frame, larger for sun glasses; fills `model.lenses`."""
    frame, head, shape = model.look.frame, model.head, model.person.shape
    grow, gap = 1.12 if sun else 1.0, shape.half_eye_distance
    half = min(frame.half_width * grow, gap - 0.03)
    bridge = shape.points[head.nearest(0, 7.3, 1.5), 2]
    y, z = (
        shape.eye_centres[:, 1].mean() + frame.drop,
        max(shape.eye_centres[:, 2].max() + 0.26, bridge + 0.01),
    )
    plain = model.add_plain(frame.colour, 0.3)
    x_unit, y_unit = _superellipse(frame.power)
    x_unit = x_unit * (1 + frame.taper * y_unit)
    temple = np.abs(shape.points[head.temples, 0]).max() + 0.035
    points, triangles = [], []
    for k, side in enumerate((1, -1)):
        middle = np.array([side * gap * 1.03, y, z])
        back = -0.10 * np.clip(side * x_unit, 0, 1) ** 2
        rise = frame.half_height * grow * y_unit + frame.lift * side * x_unit * (y_unit > 0)
        rim = middle + np.stack([half * x_unit, rise, back], 1)
        model.add(*ring(rim, frame.tube), PLAIN, plain)
        first = k * (_POINTS + 1)
        points += [middle[None], rim]
        triangles += [(first, first + 1 + i, first + 1 + (i + 1) % _POINTS) for i in range(_POINTS)]
        outer = middle + np.array([side * half, 0.04, -0.10])
        wide = side * max(temple, abs(outer[0]))
        hinge, over_ear = [wide, outer[1], z - 0.30], [wide + side * 0.02, outer[1] + 0.02, 0.25]
        for ends in ((outer, [wide, outer[1], z - 0.32]), (hinge, over_ear)):
            model.add(*bar(*ends, frame.tube * 1.1), PLAIN, plain)
    inner = gap * 1.03 - half
    model.add(*bar([inner, y + 0.05, z], [-inner, y + 0.05, z], frame.tube), PLAIN, plain)
    start = model.add(np.concatenate(points), np.zeros((0, 3), np.int64), PLAIN)
    model.lenses = np.array(triangles) + start


def _superellipse(power: float) -> tuple[np.ndarray, np.ndarray]:
    """A rim within -1..1: `power` 2 = a circle, larger = more square."""
    a = np.linspace(0, 2 * np.pi, _POINTS, endpoint=False)
    cosine, sine = np.cos(a), np.sin(a)
    exponent = 2 / power
    return np.sign(cosine) * np.abs(cosine) ** exponent, np.sign(sine) * np.abs(sine) ** exponent
