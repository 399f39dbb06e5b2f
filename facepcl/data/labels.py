"""Labels in the JSON file beside an image, validated: one bad number must not spoil a run hours later."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from facepcl.errors import DataError
from facepcl.images.face import ANGLES, LANDMARKS

MAX_NUMBER = 1e6  # degrees, pixels: its square still fits into float32
# eyes, nose tip and mouth corners among iBUG's 68 points
_IBUG_POINTS: tuple[Sequence[int], ...] = (range(36, 42), range(42, 48), [30], [48], [54])


def read_labels(data: bytes, name: str) -> dict[str, Any]:
    """Parse and check the labels in the JSON file `name`; nulls are left out, unknown keys stay.

    `landmarks` become `{"nose": [x, y], ...}`, whether they are given by name or as a list of 5 or 68
    points; `AU04` becomes `AU4`, and the identity 7 the word "7". Raises DataError that names file and label
    if one is invalid, such as NaN.
    """
    labels = {key: value for key, value in _parse(data, name).items() if value is not None}
    if labels.get("identity") == "":  # nobody known, and not one person of many images
        del labels["identity"]
    for angle in ANGLES:
        if angle in labels:
            labels[angle] = _number(labels[angle], angle, name)
    if "au" in labels:
        if not isinstance(labels["au"], dict):
            raise DataError(f"{name}: au is {labels['au']!r:.40}, not an object")
        labels["au"] = _units(labels["au"], name)
    if not isinstance(labels.get("expression", ""), str):
        raise DataError(f"{name}: expression is {labels['expression']!r:.40}, not a word")
    if "identity" in labels:
        if isinstance(labels["identity"], bool) or not isinstance(labels["identity"], str | int):
            raise DataError(f"{name}: identity is {labels['identity']!r:.40}, not a word or a whole number")
        labels["identity"] = str(labels["identity"])
    if "landmarks" in labels:
        labels["landmarks"] = _landmarks(labels["landmarks"], name)
    return labels


def _parse(data: bytes, name: str) -> dict[str, Any]:
    """What the JSON beside an image says. Raises DataError that names the file."""
    try:
        labels = json.loads(data)
    except (ValueError, RecursionError) as error:  # nested a thousand times
        raise DataError(f"{name} is not valid JSON ({error})") from error
    if not isinstance(labels, dict):
        raise DataError(f"{name} is not a JSON object with labels")
    return labels


def unit_name(text: str) -> str | None:
    """`AU12` for `AU12` or `AU012`, None if `text` is not an action unit."""
    match = re.fullmatch(r"AU0*([1-9]\d?)", text.strip().upper())
    return f"AU{match[1]}" if match else None


def _units(values: dict[str, Any], name: str) -> dict[str, float]:
    units: dict[str, float] = {}
    for text, value in values.items():
        number = _number(value, text, name)
        if (unit := unit_name(text)) is None:
            raise DataError(f"{name}: {text!r} is not an action unit such as AU12")
        if not 0 <= number <= 1:
            raise DataError(f"{name}: {text} is {number:g}, not between 0 and 1")
        if unit in units:
            raise DataError(f"{name} has {unit} twice")
        units[unit] = number
    return units


def _landmarks(value: Any, name: str) -> dict[str, list[float]]:
    if isinstance(value, dict):
        named = [(key, value[key]) for key in LANDMARKS if value.get(key) is not None]
    elif isinstance(value, list) and len(value) in (5, 68):
        named = list(zip(LANDMARKS if len(value) == 5 else map(str, range(68)), value, strict=True))
    else:
        raise DataError(f"{name}: landmarks is {value!r:.40}, not an object or a list of 5 or 68 points")
    for key, point in named:
        if not isinstance(point, list) or len(point) != 2:
            raise DataError(f"{name}: {key} is {point!r:.40}, not [x, y] in pixels")
    points = {key: [_number(coordinate, key, name) for coordinate in point] for key, point in named}
    if len(points) == 68:
        return dict(zip(LANDMARKS, map(list, five_points(np.array(list(points.values())))), strict=True))
    return points


def five_points(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The five landmarks of iBUG's 68 points `[68, 2]`."""
    return tuple((float(x), float(y)) for x, y in (points[list(part)].mean(0) for part in _IBUG_POINTS))


def _number(value: Any, label: str, name: str) -> float:
    # not <=, so that NaN fails too
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        raise DataError(f"{name}: {label} is {value!r:.40}, not a number; leave unknown labels out")
    return float(value)
