"""Face verification: LFW, CPLFW, CALFW, CFP, insightface's .bin, identity folders, CSV of pairs."""

import io
import os
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, combinations, groupby, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepcl.data.people import people_below
from facepcl.data.sources import Item, csv_lines
from facepcl.errors import DataError, RemoteError
from facepcl.probes.datasets.common import (
    Layout,
    at,
    check_columns,
    existing,
    fields,
    images_below,
    keep,
    marked_layout,
    of_files,
    table,
    to_integer,
    unread_note,
)
from facepcl.probes.datasets.csv_files import is_csv
from facepcl.probes.datasets.shards import shards_layout
from facepcl.probes.manifest import DRAWN_PAIRS, Labelled, Manifest, Pair
from facepcl.utils.storage import RetriedFile

FOLDS = 10
MAX_PAIRS = 300  # same pairs per fold, and as many different ones: what LFW has
_MAX_IMAGES = 25  # of a person: they make 300 pairs
_LFW_COLUMNS = {"name1", "index1", "name2", "index2", "same", "fold"}
_SAME = {**dict.fromkeys(("1", "true", "same"), True), **dict.fromkeys(("0", "false", "different"), False)}


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


def read_lfw(path: Path) -> Manifest:
    """LFW by its pairs.txt, whose first line has the numbers of folds and pairs.

    Or by its pairs.csv: that of Kaggle, whose lines are those of pairs.txt, or one with the columns name1,
    index1, name2, index2, same and fold. Raises DataError or MissingPath with the line.
    """
    file = _lfw_list(path)
    pairs = list(_lfw_pairs(file) if file.suffix == ".txt" else _lfw_csv_pairs(file))
    folder = _lfw_folder(file.parent, pairs[0].ends[0][0]) if pairs else file.parent
    pair_list = PairList()
    for where, ends, same, fold in pairs:
        a, b = (_lfw_image(folder, name, to_integer(n, 1, 9999, "the image", where)) for name, n in ends)
        pair_list.add(a, b, same, fold, where, (ends[0][0], ends[1][0]))
    return pair_list.manifest("lfw", [file])


def _lfw_list(path: Path) -> Path:
    """LFW's list of pairs: `path` itself, or in it."""
    files = [path] if path.is_file() else [path / "pairs.txt", path / "pairs.csv"]
    return next((file for file in files if _is_lfw_list(file)), path / "pairs.txt")


def _is_lfw_list(file: Path) -> bool:
    if not file.is_file():
        return False
    if file.suffix.lower() == ".csv":
        header = table(file)[0]
        return header[:3] == ["name", "imagenum1", "imagenum2"] or set(header) >= _LFW_COLUMNS
    return file.name == "pairs.txt"


class _LfwPair(NamedTuple):
    """A pair, where it is listed, its names and numbers, whether they are the same, and its fold."""

    where: str
    ends: tuple[tuple[str, str], tuple[str, str]]
    same: bool
    fold: int


def _lfw_pairs(file: Path) -> Iterator[_LfwPair]:
    lines = fields(file)
    number, header = next(lines, (1, [""]))
    where = at(file, number)
    sizes = [to_integer(text, 1, 10**6, "the number of folds or pairs", where) for text in header[:2]]
    folds, size = sizes if len(sizes) == 2 else (1, sizes[0])
    count = 0
    for count, (number, words) in enumerate(lines, 1):
        where, fold, same = at(file, number), (count - 1) // (2 * size), (count - 1) // size % 2 == 0
        if fold >= folds or len(words) != (3 if same else 4):
            expected = "no more pairs" if fold >= folds else "NAME N N" if same else "NAME N NAME N"
            raise DataError(f"{where} says {' '.join(words)[:60]!r} where {expected} was expected")
        yield _LfwPair(where, _lfw_ends(words), same, fold)
    if count != folds * 2 * size:
        raise DataError(
            f"{file} is cut off: it has {count} pairs, and its first line announces {folds * 2 * size}"
        )


def _lfw_ends(words: Sequence[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    """The names and numbers of NAME N N or NAME N NAME N."""
    return (words[0], words[1]), (words[0] if len(words) == 3 else words[2], words[-1])


def _lfw_csv_pairs(file: Path) -> Iterator[_LfwPair]:
    header, rows = table(file)
    if set(header) >= _LFW_COLUMNS:
        for number, row in rows:
            where = at(file, number)
            ends = (row["name1"], row["index1"]), (row["name2"], row["index2"])
            fold = to_integer(row["fold"], 0, 10**6, "the fold", where)
            yield _LfwPair(where, ends, _is_same(row["same"], where), fold)
        return
    lines = [(number, [c.strip() for c in cells if c.strip()]) for number, cells in csv_lines(file)][1:]
    if wrong := next(((number, words) for number, words in lines if len(words) not in (3, 4)), None):
        says = ",".join(wrong[1])[:60]
        raise DataError(f"{at(file, wrong[0])} says {says!r}, neither NAME,N,N nor NAME,N,NAME,N")
    # as in pairs.txt each fold is its same pairs and then as many different ones
    blocks = [list(block) for _, block in groupby(lines, lambda line: len(line[1]))]
    sizes = {len(block) for block in blocks}
    if len(sizes) != 1 or len(blocks) % 2 or len(blocks[0][0][1]) != 3:
        raise DataError(
            f"{file} is not LFW's: in each fold, pairs of one person (NAME,N,N) and then equally many of two "
            "(NAME,N,NAME,N) were expected"
        )
    for number, (line, words) in enumerate(chain.from_iterable(blocks)):
        yield _LfwPair(at(file, line), _lfw_ends(words), len(words) == 3, number // (2 * len(blocks[0])))


def _lfw_folder(root: Path, name: str) -> Path:
    """The folder of the person `name` is in this one: beside the list of pairs, or up to two below."""
    below = (folder for pattern in ("*/", "*/*/") for folder in sorted(root.glob(pattern)))
    return next((folder for folder in chain((root,), below) if (folder / name).is_dir()), root)


def _lfw_image(folder: Path, name: str, number: int) -> Path:
    image = folder / name / f"{name}_{number:04d}.jpg"
    aligned = image.with_suffix(".png")  # what the common aligners write
    return aligned if not image.exists() and aligned.exists() else image


def read_two_line_pairs(path: Path, name: str) -> Manifest:
    """CPLFW or CALFW: a pair is two lines of a file name and a label, 0 = different people.

    The k-th tenth of the same and of the different pairs is fold k. Raises DataError or MissingPath with the
    line.
    """
    file, pair_list = path / f"pairs_{name}.txt", PairList()
    folder = next((path / f for f in ("aligned images", "images") if (path / f).is_dir()), path)
    lines = list(fields(file, 2))
    if len(lines) % 2:
        raise DataError(f"{at(file, lines[-1][0])} is half a pair: the file is cut off")
    for (_, (first, label)), (number, (second, again)) in zip(lines[::2], lines[1::2], strict=True):
        where = at(file, number)
        same = to_integer(label, 0, FOLDS, "the label", where) > 0
        if label != again:
            labels = f"{label} and {again[:9]}"
            raise DataError(f"{where}: the two lines of a pair have different labels, {labels}")
        subjects = (first.rpartition("_")[0], second.rpartition("_")[0])
        pair_list.add(folder / first, folder / second, same, -1, where, subjects)
    total, seen = Counter(pair.same for pair in pair_list.pairs), Counter[bool]()
    for i, pair in enumerate(pair_list.pairs):
        pair_list.pairs[i] = pair._replace(fold=seen[pair.same] * FOLDS // total[pair.same])
        seen[pair.same] += 1
    return pair_list.manifest(name.lower(), [file])


def read_cfp(path: Path, protocol: str) -> Manifest:
    """CFP's frontal-profile (FP) or frontal-frontal (FF) protocol, a folder of pairs per fold.

    Raises DataError or MissingPath with the line.
    """
    root, pair_list = path / "Protocol", PairList()
    lists = [root / f"Pair_list_{letter}.txt" for letter in protocol]
    images = [_numbered(file) for file in lists]
    files = sorted(set(lists))
    folders = sorted(f for f in (root / "Split" / protocol).glob("*") if f.is_dir())
    for fold, folder in enumerate(folders):
        for name, same in (("same.txt", True), ("diff.txt", False)):
            files.append(folder / name)
            for line, numbers in fields(folder / name, 2, ","):
                where = at(folder / name, line)
                for number, known in zip(numbers, images, strict=True):
                    if number not in known:
                        listed = f"the list has {len(known)}"
                        raise DataError(f"{where}: no image has the number {number[:20]!r}; {listed}")
                a, b = (known[number] for number, known in zip(numbers, images, strict=True))
                pair_list.add(a, b, same, fold, where, (a.parent.parent.name, b.parent.parent.name))
    return pair_list.manifest(f"cfp-{protocol.lower()}", files)


def _numbered(file: Path) -> dict[str, Path]:
    """The images of a list by their numbers; its paths are relative to its folder."""
    return {number: Path(os.path.normpath(file.parent / name)) for _, (number, name) in fields(file, 2)}


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, bytes and booleans: all that a .bin needs, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise DataError(f"it asks for {module}.{name}, and only plain bytes and booleans are read")


def _load_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """The images and answers of a .bin, without running code in it. Raises DataError for anything else."""
    try:
        with io.BufferedReader(RetriedFile(str(path))) as file:
            content = _PlainUnpickler(file, encoding="bytes").load()
    except RemoteError:
        raise
    except DataError as error:
        raise DataError(f"{path} is refused: {error}") from error
    except Exception as error:  # a damaged pickle raises nearly any error
        raise DataError(f"{path} is no insightface .bin, or is cut off ({type(error).__name__})") from error
    if not (isinstance(content, tuple | list) and [type(part) for part in content] == [list, list]):
        raise DataError(f"{path} does not hold a list of images and a list of answers")
    images, same = content
    if not all(isinstance(x, bytes) for x in images) or not all(isinstance(x, bool) for x in same):
        raise DataError(f"{path} holds something other than encoded images and booleans")
    if not same or len(images) != 2 * len(same):
        raise DataError(f"{path} holds {len(images)} images for {len(same)} pairs, not two per pair")
    return images, same


def read_bin(path: Path) -> Manifest:
    """insightface's .bin: images 2i and 2i+1 are pair i; each tenth of the pairs in order is a fold.

    Raises DataError unless it is a plain pickle of bytes and booleans.
    """
    _, same = _load_bin(path)
    return Manifest(
        layout="bin",
        images=[Labelled(f"{path}/{i}") for i in range(2 * len(same))],
        items=lambda: (Item(f"{path}/{i}", data) for i, data in enumerate(_load_bin(path)[0])),
        files=[path],
        pairs=[Pair(2 * i, 2 * i + 1, s, i * FOLDS // len(same)) for i, s in enumerate(same)],
    )


def _is_same(text: str, where: str) -> bool:
    if (same := _SAME.get(text.lower())) is None:
        raise DataError(f"{where}: same is {text[:20]!r}, not 1 or 0")
    return same


def read_pairs_csv(path: Path) -> Manifest:
    """A CSV of pairs: path1, path2, same, and maybe fold, subject1, subject2; paths relative to its folder.

    Raises DataError or MissingPath with the line.
    """
    header, rows = table(path)
    check_columns(path, header, ("path1", "path2", "same"))
    pair_list = PairList()
    for number, row in rows:
        where = at(path, number)
        same = _is_same(row["same"], where)
        fold = to_integer(row["fold"], 0, 10**6, "the fold", where) if row.get("fold") else -1
        subjects = (row.get("subject1", ""), row.get("subject2", ""))
        pair_list.add(path.parent / row["path1"], path.parent / row["path2"], same, fold, where, subjects)
    return pair_list.manifest("csv", [path])


def read_identity_folders(path: Path) -> Manifest:
    """PERSON/IMAGE, with any folders between, without pairs. Raises DataError if there is no image, or if the
    folders in `path` cannot be people."""
    files = images_below(path)
    people = people_below(path, files)
    images = [Labelled(str(file), subject=person) for file, person in zip(files, people, strict=True)]
    notes = [*unread_note(path)]
    if deeper := next((file for file in files if file.parent.parent != path), None):
        name = deeper.relative_to(path)
        notes.append(f"a person is a folder of {path.name or path}: {name} shows {name.parts[0]}")
    return of_files("identity-folders", images, notes=notes)


def check_for_pair_list(path: Path) -> None:
    """Raise DataError if a list of pairs lies in a folder: other pairs are not what its authors publish."""
    for file in sorted(path.iterdir()):
        if "pair" in file.name.lower() and file.is_file():
            raise DataError(
                f"{file} is a list of pairs in no known format; write it as a .csv with the columns path1, "
                "path2, same and fold, or add --layout identity-folders to draw other pairs"
            )


def with_drawn_pairs(manifest: Manifest, seed: int) -> Manifest:
    """The manifest reduced to pairs drawn from it: up to ten folds of different people, each with as many
    same as different pairs, at most 300. Raises DataError for fewer than two people, or if nobody has two
    images."""
    has_videos = manifest.layout == "identity-folders"
    videos = [os.path.dirname(image.name) if has_videos else "" for image in manifest.images]
    pairs = draw_pairs([image.subject for image in manifest.images], seed, videos)
    used = sorted({index for pair in pairs for index in (pair.a, pair.b)})
    total = len(manifest.images)
    manifest = keep(manifest, np.isin(np.arange(total), used).tolist())
    new_index = {old: new for new, old in enumerate(used)}
    manifest.pairs = [pair._replace(a=new_index[pair.a], b=new_index[pair.b]) for pair in pairs]
    folds = 1 + max(pair.fold for pair in pairs)
    note = f"{len(pairs)} pairs in {folds} folds of different people, drawn with seed {seed}"
    manifest.notes += (f"{note}; {total - len(used)} images are in no pair",)
    manifest.task = DRAWN_PAIRS
    return manifest


def draw_pairs(subjects: Sequence[str], seed: int, videos: Sequence[str] = ()) -> list[Pair]:
    """Pairs of images given the person of each; the same seed gives the same pairs. If a person
    has several `videos`, both images of a pair come from different ones."""
    videos = videos or [""] * len(subjects)
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
    return [pair for fold in range(folds) for pair in _fold_pairs(dealt[fold::folds], fold, rng, videos)]


def _fold_pairs(
    people: list[list[int]], fold: int, rng: np.random.Generator, videos: Sequence[str]
) -> Iterator[Pair]:
    same_pairs, images = sum(len(p) * (len(p) - 1) // 2 for p in people), sum(map(len, people))
    count = min(MAX_PAIRS, same_pairs, images * (images - 1) // 2 - same_pairs)
    # one pair of each person in turn, or a person with many images would outweigh all others
    rounds = zip_longest(*(_same_pairs(p, rng, videos) for p in people))
    same = [pair for pairs in rounds for pair in pairs if pair is not None]
    count = min(count, len(same))
    yield from (Pair(a, b, True, fold) for a, b in same[:count])
    different: dict[tuple[int, int], None] = {}
    while len(different) < count:  # by person and then by image, each pair once
        first, second = rng.choice(len(people), 2, replace=False)
        a, b = (people[p][rng.integers(len(people[p]))] for p in (first, second))
        different[min(a, b), max(a, b)] = None
    yield from (Pair(a, b, False, fold) for a, b in different)


def _same_pairs(images: list[int], rng: np.random.Generator, videos: Sequence[str]) -> list[tuple[int, int]]:
    """Up to 300 pairs of one person's images, of different videos if there are several, in random order."""
    chosen = sorted(rng.permutation(len(images))[:_MAX_IMAGES])
    pairs = [(images[a], images[b]) for a, b in combinations(chosen, 2)]
    pairs = [(a, b) for a, b in pairs if videos[a] != videos[b]] or pairs
    return [pairs[i] for i in rng.permutation(len(pairs))]


LAYOUTS = (
    Layout("lfw", lambda path: _is_lfw_list(_lfw_list(path)), read_lfw, "pairs.txt or LFW's pairs.csv"),
    marked_layout("cplfw", partial(read_two_line_pairs, name="CPLFW"), "pairs_CPLFW.txt"),
    marked_layout("calfw", partial(read_two_line_pairs, name="CALFW"), "pairs_CALFW.txt"),
    marked_layout("cfp-fp", partial(read_cfp, protocol="FP"), "Protocol/Split/FP"),
    marked_layout("cfp-ff", partial(read_cfp, protocol="FF"), "Protocol/Split/FF"),
    Layout("bin", lambda path: path.suffix.lower() == ".bin" and path.is_file(), read_bin, "a .bin file"),
    Layout("csv", lambda path: is_csv(path, "path1"), read_pairs_csv, "a .csv file with a column path1"),
    Layout(
        "identity-folders",
        lambda path: path.is_dir() and any(image.parent != path for image in images_below(path)),
        read_identity_folders,
        "PERSON/IMAGE",
    ),
    shards_layout("subject")._replace(looks_for="a .tar shard with identities, or a folder of them"),
)
