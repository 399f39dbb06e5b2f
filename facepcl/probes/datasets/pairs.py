"""Pairs of images: numbered as a data set names them, or drawn from labels of identity."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, zip_longest
from pathlib import Path

import numpy as np

from facepcl.errors import DataError
from facepcl.probes.datasets.common import existing, keep, of_files
from facepcl.probes.manifest import Labelled, Manifest, Pair

FOLDS = 10
MOST = 300  # same pairs a fold, and as many different ones: what LFW has
_ENOUGH = 25  # images of a person: they have 300 pairs


class Paired:
    """Images that are numbered as pairs name them, each once."""

    def __init__(self) -> None:
        self.images: list[Labelled] = []
        self.pairs: list[Pair] = []
        self._numbers: dict[Path, int] = {}

    def add(self, a: Path, b: Path, same: bool, fold: int, where: str, subjects: tuple[str, str]) -> None:
        """A pair that `where` names. Raises MissingPath if one of its images is not there."""
        first, second = (self._number(*pair, where) for pair in zip((a, b), subjects, strict=True))
        self.pairs.append(Pair(first, second, same, fold))

    def _number(self, path: Path, subject: str, where: str) -> int:
        if path not in self._numbers:
            self._numbers[path] = len(self.images)
            self.images.append(Labelled(str(existing(path, where)), subject=subject))
        return self._numbers[path]

    def manifest(self, layout: str, labels: Sequence[Path]) -> Manifest:
        """What was added. Raises DataError if that is nothing."""
        manifest = of_files(layout, self.images, labels)
        manifest.pairs = self.pairs
        return manifest


def with_drawn_pairs(manifest: Manifest, seed: int) -> Manifest:
    """The images that drawn pairs need, and these pairs: up to ten folds of different people, each with as
    many same as different pairs, at most 300. Raises DataError for fewer than two people, or if nobody has
    two images."""
    pairs = draw_pairs([image.subject for image in manifest.images], seed)
    used = {number for pair in pairs for number in (pair.a, pair.b)}
    total = len(manifest.images)
    manifest = keep(manifest, [i in used for i in range(total)])
    new = {old: number for number, old in enumerate(sorted(used))}
    manifest.pairs = [pair._replace(a=new[pair.a], b=new[pair.b]) for pair in pairs]
    folds = 1 + max(pair.fold for pair in pairs)
    note = f"{len(pairs)} pairs in {folds} folds of different people, drawn with seed {seed}"
    manifest.notes += (f"{note}; {total - len(used)} images are in no pair",)
    return manifest


def draw_pairs(subjects: Sequence[str], seed: int) -> list[Pair]:
    """Pairs of images by the person of each, the same ones for the same seed."""
    people: defaultdict[str, list[int]] = defaultdict(list)
    for number, subject in enumerate(subjects):
        people[subject].append(number)
    several = [images for images in people.values() if len(images) > 1]
    folds = min(FOLDS, len(several), len(people) // 2)
    if not folds:
        raise DataError("pairs need two people at least, and one of them with two images")
    random = np.random.default_rng(seed)
    single = [images for images in people.values() if len(images) == 1]
    # those with several images are dealt first, so that each fold has some
    dealt = [group[i] for group in (several, single) for i in random.permutation(len(group))]
    return [pair for fold in range(folds) for pair in _fold(dealt[fold::folds], fold, random)]


def _fold(people: list[list[int]], fold: int, random: np.random.Generator) -> Iterator[Pair]:
    images = sum(map(len, people))
    same_pairs = sum(_pairs_of(len(p)) for p in people)
    count = min(MOST, same_pairs, _pairs_of(images) - same_pairs)
    # in turn a pair of each person: one with many images would outweigh all others
    rounds = zip_longest(*(_same(p, random) for p in people))
    same = [pair for pairs in rounds for pair in pairs if pair is not None]
    yield from (Pair(a, b, True, fold) for a, b in same[:count])
    for a, b in _different(people, count, random):
        yield Pair(a, b, False, fold)


def _pairs_of(count: int) -> int:
    return count * (count - 1) // 2


def _same(images: list[int], random: np.random.Generator) -> list[tuple[int, int]]:
    """Up to 300 pairs of one person's images, in any order."""
    some = sorted(random.permutation(len(images))[:_ENOUGH])
    pairs = [(images[a], images[b]) for a, b in combinations(some, 2)]
    return [pairs[i] for i in random.permutation(len(pairs))]


def _different(people: list[list[int]], count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of different people, drawn by person and then by image, each once."""
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        first, second = random.choice(len(people), 2, replace=False)
        a, b = (people[p][random.integers(len(people[p]))] for p in (first, second))
        found[min(a, b), max(a, b)] = None
    return list(found)
