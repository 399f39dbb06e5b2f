"""Which images train a probe, choose its strength, and are scored."""

import numpy as np
import pytest

from facepcl.data.sources import Item
from facepcl.errors import DataError
from facepcl.probes.common import split_rows
from facepcl.probes.features import Features
from facepcl.probes.manifest import Labelled, Manifest
from facepcl.probes.splits import complete_splits, fold_of, join


def data_set(splits, subjects=None):
    subjects = subjects or [""] * len(splits)
    images = [Labelled(f"{i}.jpg", s, p) for i, (s, p) in enumerate(zip(splits, subjects, strict=True))]
    return Manifest("made up", images, lambda: (Item(i.name) for i in images), [])


def test_splits_of_the_data_set_are_kept():
    splits = ["train", "val", "test"] * 10
    np.testing.assert_array_equal(complete_splits(data_set(splits), 0), splits)


def test_missing_splits_are_drawn_by_subject():
    subjects = [f"p{i // 7}" for i in range(350)]
    found = complete_splits(data_set([""] * 350, subjects), 0)
    assert set(found) == {"train", "val", "test"}
    assert all(len(set(found[i : i + 7])) == 1 for i in range(0, 350, 7))


def test_a_missing_val_split_comes_out_of_train_and_never_out_of_test():
    found = complete_splits(data_set(["train"] * 80 + ["test"] * 20), 0)
    assert (found[80:] == "test").all()
    assert (found == "val").sum() == 16


def test_the_seed_draws_the_splits():
    some = [complete_splits(data_set([""] * 100), seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(some[0], some[1])
    assert (some[0] != some[2]).any()


def test_a_split_of_some_images_only_is_an_error_that_names_one():
    with pytest.raises(DataError, match=r"1\.jpg has no split"):
        complete_splits(data_set(["train", "", "test"]), 0)


def test_an_image_that_is_in_train_and_in_test_is_an_error_that_names_it():
    both = join(data_set(["", "", "", ""]), data_set(["", ""]))
    features = Features({}, np.ones(len(both.images), bool), [], {})
    with pytest.raises(DataError, match=r"0\.jpg is in train and in test; leave it out of one of them"):
        split_rows(both, features, 0)


def test_folds_of_subjects_hold_about_as_many_images():
    subjects = np.repeat(np.arange(30), np.random.default_rng(0).integers(1, 40, 30))
    fold = fold_of(subjects, 3, 0)
    assert all(len(set(fold[subjects == s])) == 1 for s in range(30))
    assert np.ptp(np.bincount(fold)) < 0.05 * len(subjects)


def test_too_few_subjects_for_the_folds_are_an_error():
    with pytest.raises(DataError, match="2 subjects are too few for 3 folds"):
        fold_of(np.array([0, 1, 1]), 3, 0)


def test_two_data_sets_train_on_the_first_and_score_the_second():
    first = data_set(["train", "test", "val", "train"])
    second = data_set(["train", "test", "test"])
    joined = join(first, second)
    assert [(i.name, i.split) for i in joined.images] == [
        ("0.jpg", "train"),
        ("2.jpg", "val"),
        ("3.jpg", "train"),
        ("1.jpg", "test"),
        ("2.jpg", "test"),
    ]
    assert [item.path for item in joined.items()] == [image.name for image in joined.images]


def test_a_second_data_set_without_splits_is_all_test():
    joined = join(data_set(["", ""]), data_set(["", "", ""]))
    assert [image.split for image in joined.images] == ["train", "train", "test", "test", "test"]


@pytest.mark.parametrize("people", [3, 4, 5, 6])
def test_few_people_still_get_a_test_and_a_val_split(people):
    found = complete_splits(data_set([""] * 2 * people, [f"p{i // 2}" for i in range(2 * people)]), 0)
    assert set(found) == {"train", "val", "test"}


def test_two_people_are_too_few_for_three_splits():
    with pytest.raises(DataError, match="test and val by person take 3 people"):
        complete_splits(data_set([""] * 4, ["a", "a", "b", "b"]), 0)
