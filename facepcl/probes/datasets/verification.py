"""Face verification: LFW, CPLFW, CALFW, CFP, insightface's .bin, identity folders, CSV of pairs."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facepcl.data.sources import Item
from facepcl.errors import DataError, MissingPath
from facepcl.probes.datasets.common import Layout, at, fields, images_below, of_files, table, to_integer
from facepcl.probes.datasets.csv_files import is_csv
from facepcl.probes.datasets.pairs import FOLDS, Paired, with_drawn_pairs
from facepcl.probes.datasets.shards import are_shards, read_shards
from facepcl.probes.manifest import Labelled, Manifest, Pair

_LFW_FOLDERS = ("lfw", "lfw_funneled", "lfw-deepfunneled/lfw-deepfunneled", "lfw-deepfunneled")
_SAME = {**dict.fromkeys(("1", "true", "same"), True), **dict.fromkeys(("0", "false", "different"), False)}


def read_lfw(path: Path, seed: int = 0) -> Manifest:
    """LFW by its pairs.txt, whose first line tells folds and pairs. Raises DataError or MissingPath with the
    line."""
    file, paired = path / "pairs.txt", Paired()
    folder = next((path / name for name in _LFW_FOLDERS if (path / name).is_dir()), path)
    lines = fields(file)
    number, header = next(lines, (1, [""]))
    sizes = [
        to_integer(text, 1, 10**6, "the number of folds or pairs", at(file, number)) for text in header[:2]
    ]
    folds, size = sizes if len(sizes) == 2 else (1, sizes[0])
    count = 0
    for count, (number, words) in enumerate(lines, 1):
        where, fold, same = at(file, number), (count - 1) // (2 * size), (count - 1) // size % 2 == 0
        if fold >= folds or len(words) != (3 if same else 4):
            expected = "no more pairs" if fold >= folds else "NAME N N" if same else "NAME N NAME N"
            raise DataError(f"{where} says {' '.join(words)[:60]!r} where {expected} was expected")
        names = (words[0], words[0 if same else 2])
        a, b = (
            _lfw_image(folder, name, to_integer(n, 1, 9999, "the image", where))
            for name, n in zip(names, (words[1], words[-1]), strict=True)
        )
        paired.add(a, b, same, fold, where, names)
    if count != folds * 2 * size:
        raise DataError(f"{file} breaks off: {count} pairs where its first line promises {folds * 2 * size}")
    return paired.manifest("lfw", [file])


def _lfw_image(folder: Path, name: str, number: int) -> Path:
    image = folder / name / f"{name}_{number:04d}.jpg"
    aligned = image.with_suffix(".png")  # what the common aligners write
    return aligned if not image.exists() and aligned.exists() else image


def read_two_line_pairs(path: Path, name: str) -> Manifest:
    """CPLFW or CALFW: a pair is two lines of a file name and a label, 0 = different people.

    The k-th tenth of the same and of the different pairs is fold k. Raises DataError or MissingPath with the
    line.
    """
    file, paired = path / f"pairs_{name}.txt", Paired()
    folder = next((path / f for f in ("aligned images", "images") if (path / f).is_dir()), path)
    lines = list(fields(file, 2))
    if len(lines) % 2:
        raise DataError(f"{at(file, lines[-1][0])} is half a pair: the file breaks off")
    for (_, (first, label)), (number, (second, again)) in zip(lines[::2], lines[1::2], strict=True):
        where = at(file, number)
        same = to_integer(label, 0, FOLDS, "the label", where) > 0
        if label != again:
            raise DataError(
                f"{where}: the two lines of a pair have different labels, {label} and {again[:9]}"
            )
        subjects = (first.rpartition("_")[0], second.rpartition("_")[0])
        paired.add(folder / first, folder / second, same, -1, where, subjects)
    paired.pairs = _in_tenths(paired.pairs)
    return paired.manifest(name.lower(), [file])


def _in_tenths(pairs: list[Pair]) -> list[Pair]:
    counts = {kind: sum(pair.same == kind for pair in pairs) for kind in (True, False)}
    seen = {True: 0, False: 0}
    found = []
    for pair in pairs:
        found.append(pair._replace(fold=seen[pair.same] * FOLDS // counts[pair.same]))
        seen[pair.same] += 1
    return found


def read_cfp(path: Path, protocol: str) -> Manifest:
    """CFP's frontal-profile (FP) or frontal-frontal (FF) protocol, a folder of pairs a fold.

    Raises DataError or MissingPath with the line.
    """
    root = path / "Protocol"
    frontal = _numbered(root / "Pair_list_F.txt")
    other = _numbered(root / "Pair_list_P.txt") if protocol == "FP" else frontal
    files, paired = [root / f"Pair_list_{letter}.txt" for letter in sorted(set("F" + protocol[1]))], Paired()
    folders = sorted(f for f in (root / "Split" / protocol).glob("*") if f.is_dir())
    for fold, folder in enumerate(folders):
        for name, same in (("same.txt", True), ("diff.txt", False)):
            files.append(folder / name)
            for number, words in fields(folder / name, 2, ","):
                where = at(folder / name, number)
                a, b = (_listed(lst, w, where) for lst, w in zip((frontal, other), words, strict=True))
                paired.add(a, b, same, fold, where, (a.parent.parent.name, b.parent.parent.name))
    return paired.manifest(f"cfp-{protocol.lower()}", files)


def _numbered(file: Path) -> dict[str, Path]:
    """The images of a list by their numbers; it names them relative to its own folder."""
    return {number: Path(os.path.normpath(file.parent / name)) for _, (number, name) in fields(file, 2)}


def _listed(images: dict[str, Path], number: str, where: str) -> Path:
    if number not in images:
        raise DataError(f"{where}: no image has the number {number[:20]!r}; the list has {len(images)}")
    return images[number]


class _Plain(pickle.Unpickler):
    """Lists, bytes and booleans: all that a .bin needs, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise DataError(f"it asks for {module}.{name}, and only plain bytes and booleans are read")


def _load_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """The images and answers of a .bin. Raises DataError for anything else, and runs nothing of it."""
    try:
        with path.open("rb") as file:
            found = _Plain(file, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path} is refused: {error}") from error
    except Exception as error:  # a damaged pickle raises nearly any error
        raise DataError(f"{path} is no insightface .bin, or is cut off ({type(error).__name__})") from error
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(x, list) for x in found)):
        raise DataError(f"{path} holds no pair of lists, of images and of answers")
    images, same = found
    if not all(isinstance(x, bytes) for x in images) or not all(isinstance(x, bool) for x in same):
        raise DataError(f"{path} holds something else than encoded images and booleans")
    if not same or len(images) != 2 * len(same):
        raise DataError(f"{path} holds {len(images)} images for {len(same)} pairs, not two a pair")
    return images, same


def read_bin(path: Path, seed: int = 0) -> Manifest:
    """insightface's .bin: images 2i and 2i+1 are pair i; a tenth of the pairs, as they lie, is a fold.

    Raises DataError unless it is a plain pickle of bytes and booleans.
    """
    _, same = _load_bin(path)

    def items() -> Iterator[Item]:
        return (Item(f"{path}/{i}", data) for i, data in enumerate(_load_bin(path)[0]))

    return Manifest(
        layout="bin",
        images=[Labelled(f"{path}/{i}") for i in range(2 * len(same))],
        items=items,
        files=[path],
        pairs=[Pair(2 * i, 2 * i + 1, s, i * FOLDS // len(same)) for i, s in enumerate(same)],
    )


def read_pairs_csv(path: Path, seed: int = 0) -> Manifest:
    """A CSV of pairs: path1, path2, same, and maybe fold, subject1, subject2; paths relative to its folder.

    Raises DataError or MissingPath with the line.
    """
    header, rows = table(path)
    if lacking := {"path1", "path2", "same"} - set(header):
        raise DataError(
            f"{path} has no column {min(lacking)!r}; its first line says {','.join(header)[:80]!r}"
        )
    paired = Paired()
    for number, row in rows:
        where = at(path, number)
        if (same := _SAME.get(row["same"].lower())) is None:
            raise DataError(f"{where}: same is {row['same'][:20]!r}, not 1 or 0")
        fold = to_integer(row["fold"], 0, 10**6, "the fold", where) if row.get("fold") else -1
        subjects = (row.get("subject1", ""), row.get("subject2", ""))
        paired.add(path.parent / row["path1"], path.parent / row["path2"], same, fold, where, subjects)
    return paired.manifest("csv", [path])


def _people(path: Path) -> dict[Path, str]:
    """The images in folders of people with whose they are; none if an image lies outside of such folders."""
    if not path.is_dir():
        return {}
    found = {image: str(image.parent.relative_to(path)) for image in images_below(path)}
    return {} if "." in found.values() else found


def read_identity_folders(path: Path, seed: int = 0) -> Manifest:
    """PERSON/IMAGE, with pairs drawn by `seed`. Raises DataError for too few people or images."""
    if not path.is_dir():
        raise MissingPath(f"{path}: there is no such folder")
    images = [Labelled(str(image), subject=person) for image, person in _people(path).items()]
    return with_drawn_pairs(of_files("identity-folders", images), seed)


LAYOUTS = (
    Layout("lfw", lambda path: (path / "pairs.txt").is_file(), read_lfw, "pairs.txt"),
    Layout(
        "cplfw",
        lambda path: (path / "pairs_CPLFW.txt").is_file(),
        lambda path, seed: read_two_line_pairs(path, "CPLFW"),
        "pairs_CPLFW.txt",
    ),
    Layout(
        "calfw",
        lambda path: (path / "pairs_CALFW.txt").is_file(),
        lambda path, seed: read_two_line_pairs(path, "CALFW"),
        "pairs_CALFW.txt",
    ),
    Layout(
        "cfp-fp",
        lambda path: (path / "Protocol" / "Split" / "FP").is_dir(),
        lambda path, seed: read_cfp(path, "FP"),
        "Protocol/Split/FP",
    ),
    Layout(
        "cfp-ff",
        lambda path: (path / "Protocol" / "Split" / "FF").is_dir(),
        lambda path, seed: read_cfp(path, "FF"),
        "Protocol/Split/FF",
    ),
    Layout("bin", lambda path: path.suffix.lower() == ".bin" and path.is_file(), read_bin, "a .bin file"),
    Layout("csv", lambda path: is_csv(path, "path1"), read_pairs_csv, "a .csv file with a column path1"),
    Layout(
        "shards",
        are_shards,
        lambda path, seed: with_drawn_pairs(read_shards(path, ["subject"]), seed),
        "a .tar shard with identities, or a folder of them",
    ),
    Layout(
        "identity-folders",
        lambda path: len(set(_people(path).values())) > 1,
        read_identity_folders,
        "PERSON/IMAGE",
    ),
)
