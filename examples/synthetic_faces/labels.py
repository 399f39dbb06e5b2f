"""What is known about a picture, as JSON can hold it. README.md has the conventions."""

from typing import Any

import numpy as np

from facepcl.images.face import LANDMARKS
from synthetic_faces.expressions import action_units
from synthetic_faces.head import Head
from synthetic_faces.light import Lighting
from synthetic_faces.person import Person
from synthetic_faces.render import Picture, Shot


def make_labels(head: Head, person: Person, shot: Shot, picture: Picture) -> dict[str, Any]:
    """All labels that one picture has in itself."""
    raised = shot.expression.with_gaze_units()
    units = {name: round(raised.get(name, 0.0), 3) for name in head.units}
    angles = {name: round(value, 3) for name, value in shot.pose._asdict().items()}
    return {
        "identity": person.identity,
        **angles,
        "expression": shot.expression.label,
        "units": {name: v for name, v in units.items() if v and not name.startswith("eyeLook")},
        "au": action_units(units),
        "gaze": _rounded(shot.expression.gaze, 1),
        "landmarks": {name: _rounded(picture.landmarks[name], 1) for name in LANDMARKS},
        "face_box": _rounded(picture.face_box, 1),
        "person": person.describe(),
        "look": shot.look.describe(),
        "wear": _wear(shot),
        "lighting": _lighting(shot.lighting, picture.exposure),
        "camera": [round(shot.scene.distance, 1), round(shot.scene.margin, 2)],
        "sensor": shot.sensor.describe(),
    }


def _rounded(values: np.ndarray, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]


def _wear(shot: Shot) -> dict[str, Any]:
    wear = shot.wear
    occluder = wear.prop if shot.scene.occluder == "none" else shot.scene.occluder
    found = {"hat": wear.hat, "glasses": wear.glasses, "mask": wear.mask, "occluder": occluder}
    return {name: value for name, value in found.items() if value and value != "none"}


def _lighting(lighting: Lighting, exposure: float) -> dict[str, Any]:
    return {
        "setup": lighting.setup,
        "lights": [_rounded(light[:6], 2) for light in lighting.lights],
        "sky": _rounded(lighting.sky, 2),
        "ground": _rounded(lighting.ground, 2),
        "exposure": round(exposure, 3),
    }
