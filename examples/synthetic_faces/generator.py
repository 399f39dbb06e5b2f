"""The generator: an image is a pure function of seed, identity and image, whatever was made before."""

from pathlib import Path
from typing import Any

import numpy as np

from synthetic_faces import pose as poses
from synthetic_faces.expressions import CLASSES, Expression, draw_expression
from synthetic_faces.head import EXTRACT, Head
from synthetic_faces.labels import make_labels
from synthetic_faces.light import draw_lighting
from synthetic_faces.look import Look, Variant, draw_look, draw_variant
from synthetic_faces.person import Person, draw_person
from synthetic_faces.render import Shot, render
from synthetic_faces.scene import draw_scene
from synthetic_faces.sensor import draw_sensor
from synthetic_faces.skin import FaceMap
from synthetic_faces.streams import VERSION, stream
from synthetic_faces.wear import draw_wear

SERIES = ("pose", "expression", "lighting")
SERIES_LENGTH = 9  # pictures until a series begins again; lightings never repeat
_WINK = {"eyeBlinkLeft": 1.0}
_PUCKER = {"mouthPucker": 1.0, "jawOpen": 0.1}


class Generator:
    """Makes pictures of `size` pixels with labels."""

    def __init__(self, seed: int, size: int = 96, extract: Path = EXTRACT) -> None:
        self.seed, self.size = seed, size
        self.head = Head(extract)
        self._face = FaceMap(self.head)
        self._person: Person | None = None
        self._looks: dict[Variant, Look] = {}
        self._exposure: tuple[int, float] | None = None

    def person(self, identity: int) -> Person:
        """The person of this number; the last one is kept."""
        if self._person is None or self._person.identity != identity:
            self._person = draw_person(self.head, self._face, self.seed, identity)
            self._looks = {}
        return self._person

    def image(
        self, identity: int, image: int, series: str | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Picture `[S, S, 3]` uint8 and labels. In a series only that factor follows `image`; all others are
        those of image 0, and the sensor does little damage."""
        person = self.person(identity)
        shot = self._series_shot(person, image, series) if series else self._shot(person, image)
        exposure = None
        if series in ("pose", "expression"):
            exposure = self._steady_exposure(person)
        picture = render(self.head, person, shot, self.size, exposure)
        labels = make_labels(self.head, person, shot, picture)
        labels |= {"image": image, "seed": self.seed, "version": VERSION}
        return picture.pixels, labels | ({"series": series} if series else {})

    def _stream(self, person: Person, image: int, subject: str) -> np.random.Generator:
        return stream(self.seed, person.identity, image, subject)

    def _look(self, person: Person, variant: Variant) -> Look:
        if variant not in self._looks:
            self._looks[variant] = draw_look(self.head, self._face, self.seed, person, variant)
        return self._looks[variant]

    def _shot(self, person: Person, image: int, lighting_image: int | None = None) -> Shot:
        lit = image if lighting_image is None else lighting_image
        look = self._look(person, draw_variant(self.seed, person.identity, image))
        return Shot(
            draw_expression(self._stream(person, image, "expression")),
            poses.draw_pose(self._stream(person, image, "pose")),
            draw_lighting(self._stream(person, lit, "lighting")),
            look,
            draw_wear(self._stream(person, image, "wear"), person, look),
            draw_scene(self._stream(person, image, "scene")),
            draw_sensor(self._stream(person, image, "sensor")),
        )

    def _series_shot(self, person: Person, image: int, series: str) -> Shot:
        shot = self._shot(person, 0, image if series == "lighting" else 0)
        shot.scene.occluder, shot.wear.mask, shot.wear.prop = "none", False, "none"
        shot.wear.glasses = "clear" if shot.wear.glasses == "sun" else shot.wear.glasses
        shot.sensor.calm()
        shot.pose = poses.draw_calm_pose(self._stream(person, 0, "pose"))
        if series == "pose":
            shot.pose = poses.SERIES[image % SERIES_LENGTH]
        if series == "expression":
            shot.expression = self._series_expression(person, image)
        else:
            label = CLASSES[person.identity % len(CLASSES)]
            shot.expression = draw_expression(self._stream(person, 0, "expression"), label)
        return shot

    def _series_expression(self, person: Person, image: int) -> Expression:
        """The seven classes, a wink of the left eye, a pucker; the gaze is that of image 0."""
        place = image % SERIES_LENGTH
        gaze = self._neutral(person).gaze
        if place < len(CLASSES):
            drawn = draw_expression(self._stream(person, image, "expression"), CLASSES[place])
            return Expression(drawn.label, drawn.units, gaze)
        return Expression(None, dict(_WINK if place == len(CLASSES) else _PUCKER), gaze)

    def _neutral(self, person: Person) -> Expression:
        return draw_expression(self._stream(person, 0, "expression"), "neutral")

    def _steady_exposure(self, person: Person) -> float:
        """What the camera meters on the resting face near the front: it stays so in a whole series."""
        if self._exposure is None or self._exposure[0] != person.identity:
            shot = self._series_shot(person, 0, "expression")
            shot.expression = self._neutral(person)
            metered = render(self.head, person, shot, self.size).exposure
            self._exposure = (person.identity, round(metered, 3))
        return self._exposure[1]
