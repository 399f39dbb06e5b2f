"""Whose face an image shows, by the folders in which it lies."""

import re
from collections.abc import Sequence
from pathlib import Path

from facepcl.errors import DataError

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_named(text: str) -> str:
    """train, val or test for the names that data sets use, else ""."""
    return _SPLITS.get(text.lower(), "")


def are_splits(names: Sequence[str]) -> bool:
    """Whether folders of these names are the splits of a data set: train and test, or train_set."""
    named = set(map(split_named, names))
    if "train" in named and named & {"val", "test"}:  # whatever lies beside them
        return True
    return all(any(map(split_named, re.split(r"[\W_]+", name))) for name in names)


def people_below(folder: Path, images: Sequence[Path]) -> list[str]:
    """The person of each image below `folder`: the first folder on its path from there.

    What lies deeper, such as videos or views, is part of the person. Raises DataError with the reason if
    these folders cannot be people.
    """
    names = [image.relative_to(folder).parts[0] for image in images]
    beside = next((image.name for image in images if image.parent == folder), None)
    if beside is not None:
        raise DataError(f"the folders in {folder} are not read as people, because {beside} is beside them")
    people = sorted(set(names))
    if not people:
        raise DataError(f"there are no images in {folder}")
    if len(people) == 1:
        raise DataError(
            f"all images of {folder} are in its folder {people[0]}: if the people are in there, pass "
            f"{folder / people[0]}"
        )
    if are_splits(people):
        raise DataError(
            f"the folders in {folder} are splits, not people ({', '.join(people)}): pass one, such as "
            f"{folder / people[0]}"
        )
    return names
