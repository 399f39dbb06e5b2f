"""Names of crops: as the photograph's, in the same subfolder, never one twice, never outside the folder."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from facepcl.data.remote import is_url
from facepcl.data.sources import SHARD_SUFFIXES, is_image_name, is_shard_name


class CropNames:
    """`CropNames(sources)(path)` is the stem of the crops of one photograph, relative to the folder of crops:
    for `photos/a/b.jpg` of the source `photos` it is `a/b`. Of two photographs with the same stem the second
    gets `b-2`."""

    def __init__(self, sources: Sequence[str]):
        self._roots = sorted(map(_root, sources), key=len, reverse=True)
        self._taken: set[int] = set()  # a number for each: there may be millions

    def take(self, stem: str) -> None:
        """Give this stem to no photograph any more."""
        self._taken.add(hash(_fold(stem)))

    def __len__(self) -> int:
        """How many stems were given."""
        return len(self._taken)

    def __call__(self, path: str) -> str:
        below = self._below_root(path)
        stem, number = below, 1
        while hash(_fold(stem)) in self._taken:
            number += 1
            stem = f"{below}-{number}"
        self.take(stem)
        return stem

    def _below_root(self, path: str) -> str:
        root = next((root for root in self._roots if path.startswith(root)), None)
        # a manifest may name photographs anywhere
        path = os.path.basename(path) if root is None else path[len(root) :]
        # a member of a shard may be called ../../etc or C:\x: what is left is a plain name below the folder
        parts = [_plain(part) for part in PurePath(path.replace("\\", "/").lstrip("/")).with_suffix("").parts]
        return "/".join(part for part in parts if part.strip(".")) or "face"


def _root(source: str) -> str:
    """What the paths of a source begin with."""
    if is_url(source):
        above, slash, name = source.rpartition("/")
        names_files = is_image_name(name) or is_shard_name(name) or glob.has_magic(name)
        return above + slash if names_files else source.rstrip("/") + "/"
    if os.path.isdir(source):
        folder = Path(source)
    elif glob.has_magic(source) and not os.path.lexists(source):
        parts = Path(source).parts
        folder = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    else:
        folder = Path(source).parent
    return "" if str(folder) == "." else str(folder).rstrip(os.sep) + os.sep


def _plain(part: str) -> str:
    for suffix in SHARD_SUFFIXES if is_shard_name(part) else ():
        part = part.removesuffix(suffix)
    part = part.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # names that are not UTF-8
    return "".join("_" if letter in ':*?"<>|\0' else letter for letter in part).lstrip(".")


def _fold(stem: str) -> str:
    return stem.casefold()  # on some systems A.jpg and a.jpg are one file
