"""What the JSON beside a training image may say, checked: one bad number must not spoil a run hours later."""

from typing import Any

from facepcl.data.sources import parse_labels
from facepcl.errors import DataError
from facepcl.images.face import ANGLES, LANDMARKS

LARGEST = 1e6  # degrees, pixels: all of them fit, and their squares into float32


def read_labels(data: bytes, name: str) -> dict[str, Any]:
    """The labels in the JSON file `name`; what is null is left out, keys that nothing here knows stay.

    Raises DataError that names file and label for one that cannot be, such as NaN.
    """
    labels = {key: value for key, value in parse_labels(data, name).items() if value is not None}
    for angle in ANGLES:
        if angle in labels:
            labels[angle] = _number(labels[angle], angle, name)
    if "au" in labels:
        units = _object(labels["au"], "au", name)
        labels["au"] = {unit: _strength(value, unit, name) for unit, value in units.items()}
    if not isinstance(labels.get("expression", ""), str):
        raise DataError(f"{name}: expression is {labels['expression']!r:.40}, not a word")
    if not isinstance(labels.get("identity", ""), str | int):
        raise DataError(f"{name}: identity is {labels['identity']!r:.40}, not a word or a whole number")
    if "landmarks" in labels:
        labels["landmarks"] = _points(labels["landmarks"], name)
    return labels


def _points(found: Any, name: str) -> dict[str, list[float]]:
    known = {key: value for key, value in _object(found, "landmarks", name).items() if key in LANDMARKS}
    for key, value in known.items():
        if not isinstance(value, list) or len(value) != 2:
            raise DataError(f"{name}: {key} is {value!r:.40}, not [x, y] in pixels")
    return {key: [_number(part, key, name) for part in value] for key, value in known.items()}


def _object(value: Any, what: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{name}: {what} is {value!r:.40}, not an object")
    return value


def _strength(value: Any, unit: str, name: str) -> float:
    if not 0 <= (found := _number(value, unit, name)) <= 1:
        raise DataError(f"{name}: {unit} is {found:g}, not within 0 and 1")
    return found


def _number(value: Any, what: str, name: str) -> float:
    # not <=, so that NaN fails too
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise DataError(f"{name}: {what} is {value!r:.40}, not a number; leave out what is not known")
    return float(value)
