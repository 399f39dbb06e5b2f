"""Pairs drawn from labels of identity: the same for a seed, within folds of different people."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.files import FACES, pack, put_face
from helpers.layouts import read_layout

from facepcl.errors import DataError
from facepcl.probes.datasets.verification import draw_pairs

read = partial(read_layout, "verification")


@pytest.mark.parametrize("seed", range(3))
def test_drawn_pairs_are_fair_within_folds_of_different_people(seed):
    random = np.random.default_rng(seed)
    subjects = [f"p{i}" for i in random.permutation(np.repeat(np.arange(60), random.integers(1, 9, 60)))]
    found = draw_pairs(subjects, seed)
    assert found == draw_pairs(subjects, seed) != draw_pairs(subjects, seed + 100)
    assert len({(min(p.a, p.b), max(p.a, p.b)) for p in found}) == len(found)
    assert all((subjects[p.a] == subjects[p.b]) == p.same and p.a != p.b for p in found)
    people = [{subjects[i] for p in found if p.fold == fold for i in (p.a, p.b)} for fold in range(10)]
    assert sum(map(len, people)) == len(set.union(*people))
    kinds = Counter((p.fold, p.same) for p in found)
    assert all(0 < kinds[fold, True] == kinds[fold, False] <= 300 for fold in range(10))


def test_a_fold_of_many_images_has_three_hundred_pairs_of_each_kind():
    found = draw_pairs([str(i % 4) for i in range(400)], 0)
    assert Counter((p.fold, p.same) for p in found) == {
        (fold, kind): 300 for fold in (0, 1) for kind in (True, False)
    }


def test_pairs_of_a_person_in_several_videos_are_of_different_ones(tmp_path):
    for person, videos in (("p0", 2), ("p1", 3), ("p2", 1)):
        for video in range(videos):
            for number in range(2):
                put_face(tmp_path / f"{person}/clip{video}/{number}.jpg", number + 2 * video)
    manifest = read(tmp_path, seed=0)
    same = [[Path(manifest.images[i].name) for i in (p.a, p.b)] for p in manifest.pairs if p.same]
    assert all((a.parent != b.parent) == (a.parts[-3] != "p2") for a, b in same)
    assert {a.parts[-3] for a, _ in same} >= {"p0", "p1"}


def test_identity_folders_give_pairs_and_only_the_images_that_are_in_one(tmp_path):
    for person in range(4):
        for number in range(2):
            put_face(tmp_path / f"p{person}/{number}.jpg", person * 2 + number)
    put_face(tmp_path / "p4/0.jpg", 9)
    manifest = read(tmp_path, seed=1)
    assert (manifest.layout, manifest.task) == ("identity-folders", "verification (drawn pairs)")
    assert {p.fold for p in manifest.pairs} == {0, 1}
    assert sorted({n for p in manifest.pairs for n in (p.a, p.b)}) == list(range(len(manifest.images)))
    for pair in manifest.pairs:
        a, b = manifest.images[pair.a], manifest.images[pair.b]
        assert (a.subject == b.subject) == pair.same
        assert Path(a.name).parent.name == a.subject
    assert manifest.pairs == read(tmp_path, seed=1).pairs
    assert "drawn with seed 1" in manifest.notes[-1]


def test_a_person_is_the_first_folder_however_deep_the_images_lie(tmp_path):
    """YouTube Faces and VoxCeleb have a folder for each video of a person, CFP one for each view."""
    for person, video in ((p, v) for p in range(3) for v in range(2)):
        put_face(tmp_path / f"p{person}/{video}/0.jpg", 2 * person + video)
    put_face(tmp_path / "p0/1.jpg", 7)
    manifest = read(tmp_path)
    assert {image.subject for image in manifest.images} == {"p0", "p1", "p2"}
    subjects = [image.subject for image in manifest.images]
    assert all((subjects[p.a] == subjects[p.b]) == p.same for p in manifest.pairs)
    assert f"a person is a folder of {tmp_path.name}: p0/0/0.jpg shows p0" in manifest.notes


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("lfw/a/0.jpg", "lfw/b/0.jpg"), r"are in its folder lfw: if the people are in there, pass .*/lfw"),
        (("train/a/0.jpg", "test/b/0.jpg"), r"are splits, not people \(test, train\): pass one"),
        (
            ("train/a/0.jpg", "test/b/1.jpg", "extra/c/2.jpg"),
            r"are splits, not people \(extra, test, train\)",
        ),
        (("dev/aac/id1/v/0.jpg", "test/aac/id2/v/0.jpg"), r"are splits, not people"),
        (("a/0.jpg", "b/0.jpg", "sheet.jpg"), r"sheet\.jpg is beside them"),
    ],
)
def test_folders_that_cannot_be_people_are_refused(tmp_path, names, reason):
    for name in names:
        put_face(tmp_path / name)
    with pytest.raises(DataError, match=reason):
        read(tmp_path)


def test_people_with_one_image_each_make_no_pairs(tmp_path):
    for person in range(3):
        put_face(tmp_path / f"p{person}/0.jpg")
    with pytest.raises(DataError, match="one of them with two images"):
        read(tmp_path)


def test_pairs_of_a_shard_are_drawn_from_its_identities(tmp_path):
    members = {}
    for number in range(7):
        members[f"{number}.jpg"] = FACES[number].read_bytes()
        members[f"{number}.json"] = {"identity": number // 2 if number < 6 else None}
    pack(tmp_path / "s.tar", members)
    manifest = read(tmp_path / "s.tar")
    assert (manifest.dropped, "" in {image.subject for image in manifest.images}) == (1, False)
    for pair in manifest.pairs:
        assert (manifest.images[pair.a].subject == manifest.images[pair.b].subject) == pair.same
