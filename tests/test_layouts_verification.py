"""Verification data in the trees of its authors: pairs, folds, people, and what is wrong with a line."""

import pickle
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.files import FACES, put_face
from helpers.layouts import read_layout

from facepcl.errors import DataError, MissingPath

read = partial(read_layout, "verification")


def pairs(manifest, below):
    """The pairs by the paths of their images below a folder."""
    names = [str(Path(image.name).relative_to(below)) for image in manifest.images]
    return [(names[p.a], names[p.b], p.same, p.fold) for p in manifest.pairs]


LFW_LINES = ["2\t1", "A_B\t1\t2", "A_B\t1\tC\t1", "C\t1\t2", "C\t2\tA_B\t2"]


def lfw(root, lines=LFW_LINES, folder="lfw"):
    for number, name in enumerate(("A_B/A_B_0001", "A_B/A_B_0002", "C/C_0001", "C/C_0002")):
        put_face(root / folder / f"{name}.jpg", number)
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("folder", ["lfw", "lfw_funneled", "lfw-deepfunneled/lfw-deepfunneled", "."])
def test_lfw_has_as_many_folds_as_its_first_line_says(tmp_path, folder):
    manifest = read(lfw(tmp_path, folder=folder))
    assert manifest.layout == "lfw"
    assert pairs(manifest, tmp_path / folder) == [
        ("A_B/A_B_0001.jpg", "A_B/A_B_0002.jpg", True, 0),
        ("A_B/A_B_0001.jpg", "C/C_0001.jpg", False, 0),
        ("C/C_0001.jpg", "C/C_0002.jpg", True, 1),
        ("C/C_0002.jpg", "A_B/A_B_0002.jpg", False, 1),
    ]
    assert [image.subject for image in manifest.images] == ["A_B", "A_B", "C", "C"]


KAGGLE = ["name,imagenum1,imagenum2,", "A_B,1,2,", "A_B,1,C,1", "C,1,2,", "C,2,A_B,2"]
WITH_FOLDS = ["fold,name1,index1,name2,index2,same", "0,A_B,1,A_B,2,1", "0,A_B,1,C,1,0", "1,C,1,C,2,1"]
WITH_FOLDS.append("1,C,2,A_B,2,0")


@pytest.mark.parametrize("lines", [KAGGLE, WITH_FOLDS])
@pytest.mark.parametrize("folder", ["lfw-deepfunneled/lfw-deepfunneled", "."])
def test_lfw_has_the_same_folds_in_its_pairs_csv(tmp_path, folder, lines):
    """As Kaggle hands it on; the file is taken, too, by any name."""
    wanted = pairs(read(lfw(tmp_path / "txt", folder=folder)), tmp_path / "txt" / folder)
    root = lfw(tmp_path / "csv", folder=folder)
    (root / "pairs.txt").unlink()
    (root / "pairs.csv").write_text("\n".join(lines) + "\n")
    shutil.copy(root / "pairs.csv", root / "view2.csv")
    for path in (root, root / "pairs.csv", root / "view2.csv"):
        manifest = read(path)
        assert (manifest.layout, manifest.task, pairs(manifest, root / folder)) == ("lfw", "", wanted)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*KAGGLE, "C,1,2,"], r"pairs\.csv is not LFW's: .* equally many of two"),
        ([*KAGGLE[:2], "C,1"], r"pairs\.csv, line 3 says 'C,1', neither NAME,N,N nor"),
        ([*KAGGLE[:2], "A_B,1,C,9"], r"pairs\.csv, line 3: there is no image .*C_0009\.jpg"),
        (["first,second", "A_B,C"], r"pairs\.csv is a list of pairs in no known format.* path1, path2"),
    ],
)
def test_a_wrong_pairs_csv_of_lfw_is_named_and_no_pairs_are_drawn(tmp_path, lines, message):
    root = lfw(tmp_path, folder=".")
    (root / "pairs.txt").unlink()
    (root / "pairs.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises((DataError, MissingPath), match=message):
        read(root)
    assert read(root, "identity-folders").task == "verification (drawn pairs)"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LFW_LINES[:3], "C\t1"], r"pairs\.txt, line 4 says 'C 1' where NAME N N was expected"),
        ([*LFW_LINES[:3], LFW_LINES[4]], r"pairs\.txt, line 4 says .* where NAME N N was expected"),
        ([*LFW_LINES, "C\t1\t2"], r"pairs\.txt, line 6 says .* where no more pairs was expected"),
        (LFW_LINES[:4], r"pairs\.txt is cut off: it has 3 pairs, and its first line announces 4"),
        ([*LFW_LINES[:4], "C\t2\tA_B\t9"], r"pairs\.txt, line 5: there is no image .*A_B_0009\.jpg"),
        ([*LFW_LINES[:4], "C\tx\tA_B\t2"], r"pairs\.txt, line 5: the image is 'x', not a whole number"),
        (["ten", *LFW_LINES[1:]], r"pairs\.txt, line 1: the number of folds or pairs is 'ten'"),
    ],
)
def test_a_wrong_line_of_lfw_is_named(tmp_path, lines, message):
    with pytest.raises((DataError, MissingPath), match=message):
        read(lfw(tmp_path, lines))


def two_lines(root, name, lines, folder="aligned images"):
    for number, image in enumerate(("A_B_1", "A_B_2", "C_1", "C_2")):
        put_face(root / folder / f"{image}.jpg", number)
    (root / f"pairs_{name}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(("name", "same"), [("CPLFW", "1"), ("CALFW", "7")])
@pytest.mark.parametrize("folder", ["aligned images", "images", "."])
def test_two_lines_of_cplfw_and_calfw_are_a_pair(tmp_path, name, same, folder):
    lines = [f"A_B_1.jpg {same}", f"A_B_2.jpg {same}", "A_B_1.jpg 0", "C_2.jpg 0"]
    manifest = read(two_lines(tmp_path, name, lines, folder))
    assert manifest.layout == name.lower()
    assert [p[:3] for p in pairs(manifest, tmp_path / folder)] == [
        ("A_B_1.jpg", "A_B_2.jpg", True),
        ("A_B_1.jpg", "C_2.jpg", False),
    ]
    assert [image.subject for image in manifest.images] == ["A_B", "A_B", "C"]


@pytest.mark.parametrize("mixed", [False, True])
def test_a_tenth_of_the_same_and_of_the_different_pairs_is_a_fold(tmp_path, mixed):
    """Whether all same pairs come first, as in the authors' files, or fold follows fold."""
    same, different = ["A_B_1.jpg 1", "A_B_2.jpg 1"], ["A_B_1.jpg 0", "C_1.jpg 0"]
    lines = (same * 2 + different * 2) * 10 if mixed else same * 20 + different * 20
    folds = Counter((p.fold, p.same) for p in read(two_lines(tmp_path, "CPLFW", lines)).pairs)
    assert folds == {(fold, kind): 2 for fold in range(10) for kind in (True, False)}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["A_B_1.jpg 1"], "line 1 is half a pair"),
        (["A_B_1.jpg 1", "A_B_2.jpg 0"], "line 2: the two lines of a pair have different labels, 1 and 0"),
        (["A_B_1.jpg 11", "A_B_2.jpg 11"], "line 2: the label is '11', not a whole number from 0 to 10"),
        (["A_B_1.jpg 1", "A_B_3.jpg 1"], "line 2: there is no image .*A_B_3"),
        (["A_B_1.jpg 1", "A_B_2.jpg"], "line 2 has 1 fields where 2 were expected"),
    ],
)
def test_a_wrong_line_of_cplfw_is_named(tmp_path, lines, message):
    with pytest.raises((DataError, MissingPath), match=rf"pairs_CPLFW\.txt, {message}"):
        read(two_lines(tmp_path, "CPLFW", lines))


def cfp(root, diff="2,1\n"):
    lists = {"F": [], "P": []}
    for person in ("001", "002"):
        for kind, letter in (("frontal", "F"), ("profile", "P")):
            put_face(root / f"Data/Images/{person}/{kind}/01.jpg", len(lists["F"]))
            lists[letter].append(f"{len(lists[letter]) + 1} ../Data/Images/{person}/{kind}/01.jpg")
    for protocol in ("FF", "FP"):
        for fold in ("01", "02"):
            folder = root / "Protocol/Split" / protocol / fold
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text("1,1\n")
            (folder / "diff.txt").write_text(diff)
    for letter, lines in lists.items():
        (root / f"Protocol/Pair_list_{letter}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    ("layout", "second"), [("auto", "profile"), ("cfp-fp", "profile"), ("cfp-ff", "frontal")]
)
def test_cfp_has_two_protocols_and_a_folder_a_fold(tmp_path, layout, second):
    manifest = read(cfp(tmp_path), layout)
    found = pairs(manifest, tmp_path / "Data/Images")
    assert found[:2] == [
        ("001/frontal/01.jpg", f"001/{second}/01.jpg", True, 0),
        ("002/frontal/01.jpg", f"001/{second}/01.jpg", False, 0),
    ]
    assert [pair.fold for pair in manifest.pairs] == [0, 0, 1, 1]
    assert {image.subject for image in manifest.images} == {"001", "002"}


def test_an_image_of_cfp_that_is_not_listed_or_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"diff\.txt, line 2: no image has the number '9'; the list has 2"):
        read(cfp(tmp_path / "a", "2,1\n1,9\n"))
    cfp(tmp_path / "b")
    (tmp_path / "b/Data/Images/002/frontal/01.jpg").unlink()
    with pytest.raises(MissingPath, match=r"diff\.txt, line 1: there is no image"):
        read(tmp_path / "b")


def write_bin(path, content):
    path.write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
    return path


def test_a_bin_has_two_images_a_pair_and_its_tenths_are_folds(tmp_path):
    images = [face.read_bytes() for face in FACES[:4]] * 10
    manifest = read(write_bin(tmp_path / "lfw.bin", (images, [True, False] * 10)))
    assert [(p.a, p.b, p.same, p.fold) for p in manifest.pairs[:3]] == [
        (0, 1, True, 0),
        (2, 3, False, 0),
        (4, 5, True, 1),
    ]
    assert [item.data for item in manifest.items()] == images


class Harmful:
    def __reduce__(self):
        return (open, ("harm.txt", "w"))


def test_a_bin_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"x\.bin is refused: it asks for \S*open, and only plain bytes"):
        read(write_bin(tmp_path / "x.bin", ([b"1", Harmful()], [True])))
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (([b"1", b"2", b"3"], [True]), "3 images for 1 pairs"),
        (([b"1", "2"], [True]), "something other than encoded images"),
        (([b"1", b"2"], [1]), "something other than encoded images"),
        ({"a": 1}, "does not hold a list of images"),
        (([np.zeros(1)], [True]), "is refused: it asks for numpy"),
        (([], []), "0 images for 0 pairs"),
    ],
)
def test_a_bin_of_another_structure_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"x\.bin.*{message}"):
        read(write_bin(tmp_path / "x.bin", content))


def test_a_bin_that_is_cut_off_or_no_pickle_says_so(tmp_path):
    path = write_bin(tmp_path / "x.bin", ([b"1" * 99, b"2"], [True]))
    for data in (path.read_bytes()[:50], b"", b"no pickle"):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"x\.bin is no insightface \.bin"):
            read(path)


def pairs_csv(path, *lines):
    for number in range(3):
        put_face(path.parent / f"{number}.jpg", number)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_of_pairs_may_name_folds_and_people(tmp_path):
    header = "path1,path2,same,fold,subject1,subject2"
    manifest = read(pairs_csv(tmp_path / "p.csv", header, "0.jpg,1.jpg,1,0,a,a", "2.jpg,0.jpg,false,1,b,a"))
    assert pairs(manifest, tmp_path) == [("0.jpg", "1.jpg", True, 0), ("2.jpg", "0.jpg", False, 1)]
    assert [image.subject for image in manifest.images] == ["a", "a", "b"]
    bare = read(pairs_csv(tmp_path / "p.csv", "Path1,Path2,Same", "0.jpg,1.jpg,same"))
    assert [(p.same, p.fold) for p in bare.pairs] == [(True, -1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.jpg,1.jpg,maybe", "line 2: same is 'maybe', not 1 or 0"),
        ("0.jpg,9.jpg,1", "line 2: there is no image .*9.jpg"),
        ("0.jpg,1.jpg", "line 2 has 2 cells where the header has 3"),
    ],
)
def test_a_wrong_line_of_a_csv_of_pairs_is_named(tmp_path, line, message):
    with pytest.raises((DataError, MissingPath), match=rf"p\.csv, {message}"):
        read(pairs_csv(tmp_path / "p.csv", "path1,path2,same", line))
