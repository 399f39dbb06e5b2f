"""The tasks on features that are made up, so that what a probe must find in them is known."""

import itertools
import json

import numpy as np
import pytest

from facepcl.errors import DataError, OptionError
from facepcl.images.rotations import to_pose_para
from facepcl.probes import action_units, disentangle, expression, head_pose, verification
from facepcl.probes.common import Options
from facepcl.probes.features import MIRRORED, Features
from facepcl.probes.manifest import Labelled, Manifest, Pair

CLEAN = Options()


def data_set(images, vectors, pairs=()):
    manifest = Manifest("made up", list(images), lambda: iter(()), [], list(pairs))
    of = vectors if isinstance(vectors, dict) else {"shared": np.asarray(vectors, np.float32)}
    return manifest, Features(of, np.ones(len(manifest.images), bool), [], {})


def classes_data(count=600, noise=0.3, seed=0):
    """Three classes, of which the features hold a noisy copy among numbers of chance."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    x = random.normal(size=(count, 20))
    x[:, :3] = np.eye(3)[labels] + noise * random.normal(size=(count, 3))
    splits = np.where(np.arange(count) % 5 == 0, "test", np.where(np.arange(count) % 5 == 1, "val", "train"))
    images = [
        Labelled(f"{i}.jpg", str(s), f"p{i % 40}", "abc"[k])
        for i, (s, k) in enumerate(zip(splits, labels, strict=True))
    ]
    return images, x


def test_expression_finds_what_the_features_hold():
    images, x = classes_data(noise=0.1)
    numbers = expression.probe(*data_set(images, x), "shared", CLEAN).numbers
    assert numbers["accuracy"] > 0.98
    assert numbers["accuracy_low"] <= numbers["accuracy"] <= numbers["accuracy_high"]
    assert np.sum(numbers["confusion"]) == numbers["n_test"] == 120


def test_labels_of_the_test_split_choose_nothing():
    images, x = classes_data(noise=1.0)
    shuffled = [i._replace(expression="abc"[n % 3]) if i.split == "test" else i for n, i in enumerate(images)]
    found = [expression.probe(*data_set(i, x), "shared", CLEAN).numbers for i in (images, shuffled)]
    assert found[0]["strength"] == found[1]["strength"]
    assert found[0]["accuracy"] > found[1]["accuracy"] + 0.1


def test_a_subject_in_train_and_test_is_told():
    images, x = classes_data()
    assert expression.probe(*data_set(images, x), "shared", CLEAN).numbers["subjects_in_train_and_test"] == 0
    shared = [i._replace(subject="one") for i in images]
    assert expression.probe(*data_set(shared, x), "shared", CLEAN).numbers["subjects_in_train_and_test"] == 1


def test_a_class_that_is_never_trained_is_an_error():
    images, x = classes_data()
    images = [i for i in images if i.split == "test" or i.expression != "c"]
    with pytest.raises(DataError, match="training split lacks: c"):
        expression.probe(*data_set(images, x[: len(images)]), "shared", CLEAN)


def test_shots_are_the_mean_of_their_draws_with_its_deviation():
    images, x = classes_data(noise=0.8)
    options = Options(shots=8, repeats=3)
    result = expression.probe(*data_set(images, x), "shared", options)
    draws = result.charts[0].values
    assert len(draws) == 3
    assert result.numbers["accuracy"] == pytest.approx(draws.mean(), abs=1e-5)
    assert result.numbers["accuracy_std"] == pytest.approx(draws.std(ddof=1), abs=1e-5)
    assert draws.std() > 0
    assert (result.numbers["subjects"], result.numbers["subjects_in_train_and_test"]) == (40, 0)


def test_more_shots_than_images_is_an_error_that_names_the_class():
    images, x = classes_data(count=60)
    with pytest.raises(OptionError, match="fewer of a "):
        expression.probe(*data_set(images, x), "shared", Options(shots=40))


def test_the_paper_probe_of_expression_tells_its_best_and_its_last_epoch():
    images, x = classes_data(count=200, noise=1.0)
    result = expression.probe(*data_set(images, x), "shared", Options("paper"))
    assert result.numbers["accuracy"] >= result.numbers["accuracy_last_epoch"]
    assert 1 <= result.numbers["epoch"] <= 300
    assert "chosen on the test split" in result.notes[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_most_accurate_one(seed):
    random = np.random.default_rng(seed)
    cosine, same = random.normal(size=60).round(1), random.random(60) < 0.5
    found = ((cosine >= verification.best_threshold(cosine, same)) == same).mean()
    tried = [((cosine >= t) == same).mean() for t in np.linspace(-4, 4, 801)]
    assert found == max(tried)


def people_pairs(people=40, noise=0.6):
    """Two noisy images of each person: 10 folds of same and different pairs."""
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(size=(people, 16)), 2, 0) + noise * random.normal(size=(2 * people, 16))
    images = [Labelled(f"{i}.jpg", subject=f"p{i // 2}") for i in range(2 * people)]
    pairs = [Pair(2 * p, 2 * p + 1, True, p % 10) for p in range(people)]
    pairs += [Pair(2 * p, 2 * ((p + 10) % people) + 1, False, p % 10) for p in range(people)]
    return images, x, pairs


def test_a_fold_is_judged_by_the_threshold_of_the_others():
    images, x, pairs = people_pairs()
    manifest, features = data_set(images, x, pairs)
    numbers = verification.probe(manifest, features, "shared", CLEAN).numbers
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = np.array([unit[p.a] @ unit[p.b] for p in pairs])
    same, fold = np.array([p.same for p in pairs]), np.array([p.fold for p in pairs])
    right = []
    for f in range(10):
        threshold = verification.best_threshold(cosine[fold != f], same[fold != f])
        right.append(((cosine[fold == f] >= threshold) == same[fold == f]).mean())
    assert numbers["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    assert numbers["accuracy_std"] == pytest.approx(np.std(right), abs=1e-6)


def test_the_centred_cosine_is_about_the_mean_of_the_images_of_the_other_folds():
    images, x, pairs = people_pairs()
    x = x + 3
    numbers = verification.probe(*data_set(images, x, pairs), "shared", CLEAN).numbers
    same, fold = np.array([p.same for p in pairs]), np.array([p.fold for p in pairs])
    right = []
    for f in range(10):
        others = sorted({i for p in pairs if p.fold != f for i in (p.a, p.b)})
        unit = x - x[others].mean(0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        cosine = np.array([unit[p.a] @ unit[p.b] for p in pairs])
        threshold = verification.best_threshold(cosine[fold != f], same[fold != f])
        right += list((cosine[fold == f] >= threshold) == same[fold == f])
    assert numbers["centred_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)


def test_a_pair_with_an_unreadable_image_is_left_out_and_counted():
    images, x, pairs = people_pairs()
    manifest, features = data_set(images, x, pairs)
    features.good[0] = False
    assert verification.probe(manifest, features, "shared", CLEAN).numbers["n_pairs_left_out"] == 2


def units_data(people=12, each=30):
    """Two units: one that the features hold, and chance."""
    random = np.random.default_rng(0)
    intensity = random.uniform(0, 1, (people * each, 2))
    x = random.normal(size=(len(intensity), 12))
    x[:, 0] = intensity[:, 0] + 0.05 * random.normal(size=len(x))
    names = [dict(zip(("AU4", "AU12"), map(float, i), strict=True)) for i in intensity]
    return [Labelled(f"{i}.jpg", subject=f"p{i // each}", units=u) for i, u in enumerate(names)], x


def test_action_units_find_what_the_features_hold_and_only_that():
    images, x = units_data()
    numbers = action_units.probe(*data_set(images, x), "shared", CLEAN).numbers
    assert numbers["folds"] == 3
    assert numbers["n_test"] == len(images)
    assert numbers["auc_AU4"] > 0.95
    assert abs(numbers["auc_AU12"] - 0.5) < 0.1
    assert numbers["icc_AU4"] > 0.95
    assert numbers["f1"] == pytest.approx((numbers["f1_AU4"] + numbers["f1_AU12"]) / 2, abs=1e-5)


def test_folds_and_validation_of_action_units_keep_subjects_apart():
    images, x = units_data()
    manifest, features = data_set(images, x)
    runs = action_units._runs(manifest, features, 0)
    assert sorted(np.concatenate([r.test for r in runs])) == list(range(len(images)))
    for rows in runs:
        of = [{images[i].subject for i in some} for some in rows]
        assert all(not a & b for a, b in itertools.combinations(of, 2))


@pytest.mark.parametrize("people", [3, 4, 7])
def test_action_units_of_few_people_are_scored_by_person(people):
    images, x = units_data(people)
    assert "f1" in action_units.probe(*data_set(images, x), "shared", CLEAN).numbers


def test_a_unit_of_zeros_and_ones_has_no_intensity_scores():
    images, x = units_data()
    images = [i._replace(units={n: float(v > 0.4) for n, v in i.units.items()}) for i in images]
    assert not any(
        key.startswith(("icc", "pearson"))
        for key in action_units.probe(*data_set(images, x), "shared", CLEAN).numbers
    )


def posed_data(count=400):
    random = np.random.default_rng(0)
    pose = random.uniform(-1, 1, (count, 3)) * (60, 30, 20)
    x = np.concatenate([pose @ random.normal(size=(3, 8)) / 30, random.normal(size=(count, 4))], 1)
    return [Labelled(f"{i}.jpg", pose=tuple(p)) for i, p in enumerate(pose.tolist())], x, pose


def test_head_pose_finds_angles_that_the_features_hold():
    images, x, _ = posed_data()
    numbers = head_pose.probe(*data_set(images, x), "shared", CLEAN).numbers
    assert numbers["mae"] < 0.1  # float32 and the weakest strength
    assert numbers["geodesic"] < 0.3
    assert numbers["constant_mae_yaw"] > 20
    assert (
        sum(numbers[f"n_at_yaw_{band}"] for band in ("0_15", "15_30", "30_45", "45_60", "60_99"))
        == numbers["n_test"]
    )


def test_errors_of_head_pose_are_those_of_a_fixed_offset():
    images, x, pose = posed_data()
    manifest, features = data_set([i._replace(split="train") for i in images], x)
    offset = [(p[0] + 5, p[1], p[2]) for p in pose.tolist()]
    tested = [i._replace(name=f"test/{i.name}", split="test") for i in images]
    manifest.images += [i._replace(pose=p) for i, p in zip(tested, offset, strict=True)]
    features = Features(
        {"shared": np.concatenate([x, x]).astype(np.float32)}, np.ones(2 * len(x), bool), [], {}
    )
    numbers = head_pose.probe(manifest, features, "shared", CLEAN).numbers
    assert numbers["mae_yaw"] == pytest.approx(5, abs=0.1)
    assert numbers["mae_pitch"] == pytest.approx(0, abs=0.1)


def test_the_paper_probe_of_head_pose_scores_the_angles_of_published_tables():
    images, x, pose = posed_data()
    result = head_pose.probe(*data_set(images, x), "shared", Options("paper"))
    assert result.numbers["angles"] == "Pose_Para"
    theirs = to_pose_para(pose)[:, 1]
    assert set(np.round(result.charts[0].truth, 3)) <= set(np.round(theirs.astype(np.float32), 3))


def series_data(people=10, each=5):
    """Codes that hold pose alone, expression alone, or both; and what a mirror makes of them."""
    random = np.random.default_rng(0)
    images, factors = [], []
    for person, series in itertools.product(range(people), ("pose", "expression", "light")):
        for n in range(each):
            yaw, smile = (10.0 * n - 20, 0) if series == "pose" else (0.0, n if series == "expression" else 0)
            images.append(
                Labelled(f"{person}{series}{n}", "", str(person), str(smile), (yaw, 0.0, 0.0), series=series)
            )
            factors.append((person, yaw / 20, smile))
    person, yaw, smile = np.array(factors).T
    who = random.normal(size=(people, 6))[person.astype(int)]
    turn = np.stack([np.sin(yaw), np.cos(yaw)], 1)
    mouth = np.eye(each)[smile.astype(int)]
    of = {"shared": np.concatenate([turn, mouth, who], 1), "face": np.concatenate([mouth, who], 1)}
    of["pose"] = np.concatenate([turn, 0.01 * mouth, 0.1 * who], 1)
    of |= {MIRRORED + name: x.copy() for name, x in of.items()}
    of[MIRRORED + "pose"][:, 0] *= -1
    return images, {name: x.astype(np.float32) for name, x in of.items()}


def test_a_code_that_holds_pose_alone_moves_under_pose_alone():
    images, of = series_data()
    numbers = disentangle.probe(*data_set(images, of), ("shared", "face", "pose"), CLEAN).numbers
    assert numbers["pose_over_expression_pose"] > 100
    assert numbers["motion_pose_face"] == pytest.approx(0, abs=1e-6)
    assert numbers["pose_over_expression_face"] < 1e-3
    assert numbers["mirror_face"] == pytest.approx(0, abs=1e-6)
    assert numbers["mirror_pose"] > 0.1


def test_cross_probes_tell_a_code_that_holds_nothing_from_one_that_holds_something():
    images, of = series_data()
    numbers = disentangle.probe(*data_set(images, of), ("shared", "face", "pose"), CLEAN).numbers
    assert numbers["read_yaw_pose"] < 3
    assert numbers["read_yaw_face"] > 8  # a constant: 12
    assert numbers["read_expression_face"] > 0.9


def test_motion_is_the_mean_squared_distance_of_two_images_over_that_of_two_people():
    images, of = series_data(people=6)
    numbers = disentangle.probe(*data_set(images, of), ("shared",), CLEAN).numbers
    unit = of["shared"] / np.linalg.norm(of["shared"], axis=1, keepdims=True)

    def distance(wanted):
        pairs = [
            (a, b) for a, b in itertools.combinations(range(len(images)), 2) if wanted(images[a], images[b])
        ]
        return np.mean([np.square(unit[a] - unit[b]).sum() for a, b in pairs])

    moved = distance(lambda a, b: a.subject == b.subject and a.series == b.series == "pose")
    apart = distance(lambda a, b: a.subject != b.subject)
    assert numbers["motion_pose_shared"] == pytest.approx(moved / apart, rel=1e-4)


@pytest.mark.parametrize("people", [0, 1, 4])
@pytest.mark.parametrize("label", ["pose", "expression"])
def test_labels_of_too_few_people_are_not_read_and_the_rest_is_scored(label, people):
    images, of = series_data()
    some = [i if int(i.subject) < people else i._replace(**{label: None}) for i in images]
    data, branches = data_set(some, of), ("shared", "face", "pose")
    numbers = disentangle.probe(*data, branches, CLEAN).numbers
    wanted = disentangle.probe(*data_set(images, of), branches, CLEAN).numbers
    read = {"pose": ("read_yaw", "read_pitch", "constant"), "expression": ("read_expression", "chance")}
    assert numbers == {key: value for key, value in wanted.items() if not key.startswith(read[label])}


def test_a_code_that_never_moves_leaves_numbers_that_json_has():
    images, of = series_data()
    turns = [n % 5 if image.series == "pose" else 0 for n, image in enumerate(images)]
    codes = np.eye(10, dtype=np.float32)[
        [(int(i.subject) + turn) % 10 for i, turn in zip(images, turns, strict=True)]
    ]
    of |= {"face": codes, MIRRORED + "face": codes}
    numbers = disentangle.probe(*data_set(images, of), ("shared", "face"), CLEAN).numbers
    assert numbers["pose_over_expression_face"] is None
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_series_of_too_few_people_are_an_error_that_says_what_is_needed():
    images, of = series_data(people=3)
    with pytest.raises(DataError, match="'pose' of at least 5 subjects"):
        disentangle.probe(*data_set(images, of), ("shared",), CLEAN)
