"""`facepcl embed --align`: photos in, a row a face out, resumable to the bit, in the crops' space."""

import json

import numpy as np
import pytest
from helpers.files import photo_of
from helpers.forked_jobs import stopping_after
from PIL import Image

import facepcl
from facepcl import alignment
from facepcl.cli import main
from facepcl.embedding import tables
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.writers import TableWriter
from facepcl.errors import ImageError, OptionError
from facepcl.images.face import Face, face_columns

PART = 8
FACES = {0: 2, 2: 0, 3: 5, 4: 1, 18: 6}  # of some photos, by their number; the others show one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nineteen photos, some with several faces, one with none and one that is damaged."""
    folder = tmp_path_factory.mktemp("few") / "photos"
    folder.mkdir()
    for number in range(19):
        photo_of(FACES.get(number, 1), first=number).save(folder / f"{number:03d}.jpg", quality=92)
    (folder / "007.jpg").write_bytes((folder / "007.jpg").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def embedder(detector):
    return FaceEmbedder("pcl_facecycle", dtype="float32", align=True, detector=detector)


@pytest.fixture
def _small_parts(monkeypatch):
    """Parts of 8 photos instead of 1,024."""
    monkeypatch.setattr(TableWriter, "part_images", PART)


@pytest.mark.parametrize("ending", ["parquet", "npz", "csv"])
def test_a_table_keeps_where_faces_were(tmp_path, ending):
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    faces = [Face.from_numbers(rng.uniform(0, 2000, 15).astype(np.float32).tolist()) for _ in range(3)]
    columns = face_columns([faces[0], faces[1], None, faces[2]], [0, 1, 0, 0])
    vectors = rng.normal(size=(4, 5)).astype(np.float32)
    vectors[2] = np.nan
    paths, errors = ["a.jpg", "a.jpg", "b.jpg", "c.jpg"], [None, None, "no face found", None]
    sizes = np.array([[9, 8], [9, 8], [0, 0], [7, 6]], np.int32)
    meta = {"dimension": 5, "align": {"template": "face"}}
    path = tmp_path / f"table.{ending}"
    tables.write_table(path, meta, [Embeddings(vectors, paths, errors, sizes, meta, columns)], 4)
    table = facepcl.read_embeddings(path)
    np.testing.assert_array_equal(table.faces, columns)
    np.testing.assert_array_equal(table.vectors, vectors)
    assert (len(table), table.images) == (4, 3)
    rows = list(table.rows())
    assert [(row.number, row.face) for row in rows] == [
        (0, faces[0]),
        (1, faces[1]),
        (None, None),
        (0, faces[2]),
    ]


def test_each_face_is_a_row_with_its_place(embedder, folder):
    rows = list(embedder.stream(folder))
    for number, faces in FACES.items():
        of_it = [row for row in rows if row.path.endswith(f"{number:03d}.jpg")]
        assert [row.number for row in of_it] == (list(range(faces)) or [None])
    (nobody,) = (row for row in rows if row.path.endswith("002.jpg"))
    assert (nobody.error, nobody.vector) == ("no face found", None)
    (broken,) = (row for row in rows if row.path.endswith("007.jpg"))
    assert broken.error.startswith("damaged")
    assert [row.index for row in rows] == list(range(len(rows)))
    for row in rows:
        if row.face:
            left, top, right, bottom = row.face.box
            assert all(left < x < right and top < y < bottom for x, y in row.face.landmarks[2:3])
            assert row.face.score >= 0.7


def test_vectors_are_those_of_crops_that_were_cut_before(embedder, folder, detector, tmp_path):
    """Cut to 112 px and then resized, or at once to the 64 px of the network: nearly the same, and the tables
    compare, because the alignment is no part of the space."""
    alignment.align(folder, tmp_path / "crops", detector=detector, format="png")
    facepcl.embed(tmp_path / "crops", tmp_path / "crops.npz", dtype="float32")
    summary = facepcl.embed(folder, tmp_path / "photos.npz", dtype="float32", align=True, detector=detector)
    crops, photos = (facepcl.read_embeddings(tmp_path / f"{n}.npz") for n in ("crops", "photos"))
    similarity = facepcl.similarity(crops, photos)
    same = similarity[:, ~np.isnan(similarity[0])].diagonal()
    assert len(same) == len(crops)
    assert same.min() > 0.99
    assert (summary.failed, summary.faceless, summary.embedded) == (1, 1, 19)
    assert photos.meta["align"]["detector_sha256"].startswith("8f2383e4")


@pytest.mark.usefixtures("_small_parts")
def test_a_job_resumes_to_the_bit(folder, detector, tmp_path):
    options = {"dtype": "float32", "align": True, "detector": detector}
    whole = facepcl.embed(folder, tmp_path / "whole.npz", **options)
    with stopping_after(TableWriter, 1):
        facepcl.embed(folder, tmp_path / "table.npz", **options)
    with pytest.raises(OptionError, match="made with align"):
        facepcl.embed(folder, tmp_path / "table.npz", **options, one=True, resume=True)
    resumed = facepcl.embed(folder, tmp_path / "table.npz", **options, resume=True)
    assert (whole.embedded, resumed.embedded) == (19, 11)
    assert (tmp_path / "table.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_call_takes_the_most_prominent_face_of_each_photograph(embedder, folder):
    path = folder / "018.jpg"
    vectors = embedder([path, Image.open(path)])
    (row,) = (row for row in embedder.stream(path) if row.number == 0)
    assert vectors.shape == (2, 2048)
    assert (facepcl.similarity(vectors, row.vector) > 0.9999).all()
    with pytest.raises(ImageError, match=r"item 0 \(.*002\.jpg\): no face found"):
        embedder([folder / "002.jpg"])


def test_the_command_counts_photographs_without_a_face_as_no_error(folder, detector, tmp_path, capsys):
    sources = [str(folder / "002.jpg"), str(folder / "003.jpg")]
    command = ["embed", *sources, "-o", str(tmp_path / "t.csv"), "--align", "--one", "--dtype", "float32"]
    assert main([*command, "--detector", str(detector)]) == 0
    assert "1 embedded, 0 failed, 1 photos without a face" in capsys.readouterr().out
    assert json.loads((tmp_path / "t.csv.meta.json").read_text())["align"]["one"] is True


def test_one_needs_align():
    with pytest.raises(OptionError, match="add --align"):
        FaceEmbedder(one=True)
