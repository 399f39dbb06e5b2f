"""Which images a step sees, and with which labels."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from facepcl.errors import DataError
from facepcl.pretrain import run
from facepcl.pretrain.dataset import read_faces
from facepcl.pretrain.rng import step_generator
from facepcl.pretrain.sampler import InMemory, LabelRows, schedule, shuffled_rows


@pytest.fixture
def config(config):
    return replace(config, steps=1)


def test_epochs_walk_over_all_images_in_new_orders():
    rows = [shuffled_rows(10, 3, position, 0, 0).tolist() for position in range(6)]
    first, second = [*rows[0], *rows[1], *rows[2]], [*rows[3], *rows[4], *rows[5]]
    assert len(set(first)) == len(set(second)) == 9
    assert first != second
    assert rows != [shuffled_rows(10, 3, position, 0, 1).tolist() for position in range(6)]


def test_the_learning_rate_rises_then_falls_as_a_cosine():
    assert schedule(0.05, 0.1) == pytest.approx(0.5)
    assert schedule(0.1, 0.1) == 1
    assert schedule(0.55, 0.1) == pytest.approx(0.5)
    assert schedule(1.0, 0.1) == pytest.approx(0)
    assert schedule(0.0, 0.0) == 1  # the paper's: no rise


def test_a_run_goes_on_with_the_data_it_was_begun_with(config, faces_folder):
    config = replace(config, method="simclr")
    run(config)
    next(faces_folder.rglob("*.jpg")).unlink()
    with pytest.raises(DataError, match="started with 12 images, but DATA now holds 11"):
        run(config)


def test_a_run_does_not_go_on_with_other_labels_or_names(config, faces_folder):
    config = replace(config, method="labels")
    begun = InMemory(config, {}).facts
    path = next(faces_folder.rglob("*.json"))
    was = path.read_text()
    path.write_text(json.dumps(json.loads(was) | {"expression": "anger"}))
    with pytest.raises(DataError, match="started with other images or labels than DATA now holds"):
        InMemory(config, begun)
    path.write_text(was)
    InMemory(config, begun)
    image = next(faces_folder.rglob("*.jpg"))
    image.rename(image.with_stem("another"))
    with pytest.raises(DataError, match="other images or labels"):
        InMemory(config, begun)


def test_a_run_does_not_go_on_with_other_files_of_the_same_names(config, faces_folder):
    config = replace(config, method="simclr")
    begun = InMemory(config, {}).facts
    path = next(faces_folder.rglob("*.jpg"))
    Image.open(path).resize((60, 60)).save(path)
    with pytest.raises(DataError, match="started with other images or labels"):
        InMemory(config, begun)


def test_a_method_without_labels_reads_none(config, faces_folder):
    for path in faces_folder.rglob("*.json"):
        path.write_text("[1]")
    InMemory(config, {})
    with pytest.raises(DataError):
        InMemory(replace(config, method="labels"), {})


def test_a_label_batch_has_two_images_of_each_person_and_the_others_two_by_two(config, faces_folder):
    faces = read_faces([faces_folder], 64)
    faces.identity = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, -1, -1, -1, 5])
    rows = LabelRows(faces, replace(config, batch=6))
    seen = []
    for step in range(20):
        for pair in rows.of_step(step, step_generator(0, step)).view(3, 2).tolist():
            assert len(set(pair)) == 2
            named = faces.identity[pair].tolist()
            assert named in ([0, 0], [1, 1]) or not {0, 1} & set(named)
            seen += pair
    assert len(set(seen)) == 11  # of seven images without a second one, three pairs


def test_identity_is_a_label_where_anybody_has_two_images(faces_folder):
    faces = read_faces([faces_folder], 64)
    assert "identity" in faces.label_outputs(128)
    faces.identity = torch.arange(12)
    assert "identity" not in faces.label_outputs(128)
