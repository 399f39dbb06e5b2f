"""Pairs of images: as a data set lists them, or drawn from identity labels."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, zip_longest
from pathlib import Path

import numpy as np

from facepcl.errors import DataError
from facepcl.probes.datasets.common import existing, keep, of_files
from facepcl.probes.manifest import Labelled, Manifest, Pair

FOLDS = 10
MAX_PAIRS = 300  # same pairs per fold, and as many different ones: what LFW has
_MAX_IMAGES = 25  # of a person: they make 300 pairs


class PairList:
    """Pairs and their images, each image once."""

    def __init__(self) -> None:
        self.images: list[Labelled] = []
        self.pairs: list[Pair] = []
        self._indices: dict[Path, int] = {}

    def add(self, a: Path, b: Path, same: bool, fold: int, where: str, subjects: tuple[str, str]) -> None:
        """Add a pair listed at `where`. Raises MissingPath if one of its images does not exist."""
        for path, subject in zip((a, b), subjects, strict=True):
            if path not in self._indices:
                self._indices[path] = len(self.images)
                self.images.append(Labelled(str(existing(path, where)), subject=subject))
        self.pairs.append(Pair(self._indices[a], self._indices[b], same, fold))

    def manifest(self, layout: str, label_files: Sequence[Path]) -> Manifest:
        """The manifest of all pairs. Raises DataError if there is none."""
        manifest = of_files(layout, self.images, label_files)
        manifest.pairs = self.pairs
        return manifest


def with_drawn_pairs(manifest: Manifest, seed: int) -> Manifest:
    """The manifest reduced to pairs drawn from it: up to ten folds of different people, each with as many
    same as different pairs, at most 300. Raises DataError for fewer than two people, or if nobody has two
    images."""
    pairs = draw_pairs([image.subject for image in manifest.images], seed)
    used = sorted({index for pair in pairs for index in (pair.a, pair.b)})
    total = len(manifest.images)
    manifest = keep(manifest, np.isin(np.arange(total), used).tolist())
    new_index = {old: new for new, old in enumerate(used)}
    manifest.pairs = [pair._replace(a=new_index[pair.a], b=new_index[pair.b]) for pair in pairs]
    folds = 1 + max(pair.fold for pair in pairs)
    note = f"{len(pairs)} pairs in {folds} folds of different people, drawn with seed {seed}"
    manifest.notes += (f"{note}; {total - len(used)} images are in no pair",)
    return manifest


def draw_pairs(subjects: Sequence[str], seed: int) -> list[Pair]:
    """Pairs of images given the person of each; the same seed gives the same pairs."""
    people: defaultdict[str, list[int]] = defaultdict(list)
    for index, subject in enumerate(subjects):
        people[subject].append(index)
    multiple = [images for images in people.values() if len(images) > 1]
    folds = min(FOLDS, len(multiple), len(people) // 2)
    if not folds:
        raise DataError("pairs need two people at least, and one of them with two images")
    rng = np.random.default_rng(seed)
    single = [images for images in people.values() if len(images) == 1]
    # people with several images are dealt first, so that each fold has some
    dealt = [group[i] for group in (multiple, single) for i in rng.permutation(len(group))]
    return [pair for fold in range(folds) for pair in _fold_pairs(dealt[fold::folds], fold, rng)]


def _fold_pairs(people: list[list[int]], fold: int, rng: np.random.Generator) -> Iterator[Pair]:
    same_pairs, images = sum(len(p) * (len(p) - 1) // 2 for p in people), sum(map(len, people))
    count = min(MAX_PAIRS, same_pairs, images * (images - 1) // 2 - same_pairs)
    # one pair of each person in turn, or a person with many images would outweigh all others
    rounds = zip_longest(*(_same_pairs(p, rng) for p in people))
    same = [pair for pairs in rounds for pair in pairs if pair is not None]
    yield from (Pair(a, b, True, fold) for a, b in same[:count])
    different: dict[tuple[int, int], None] = {}
    while len(different) < count:  # by person and then by image, each pair once
        first, second = rng.choice(len(people), 2, replace=False)
        a, b = (people[p][rng.integers(len(people[p]))] for p in (first, second))
        different[min(a, b), max(a, b)] = None
    yield from (Pair(a, b, False, fold) for a, b in different)


def _same_pairs(images: list[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Up to 300 pairs of one person's images, in random order."""
    chosen = sorted(rng.permutation(len(images))[:_MAX_IMAGES])
    pairs = [(images[a], images[b]) for a, b in combinations(chosen, 2)]
    return [pairs[i] for i in rng.permutation(len(pairs))]
