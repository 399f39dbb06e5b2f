"""Features are extracted once: they are read back as long as weights, preprocessing and data are the same."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import facepcl
from facepcl.data.sources import Item
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.encoder import Encoder
from facepcl.errors import DataError, OptionError
from facepcl.images.decode import decode
from facepcl.images.geometry import Square, cut_square
from facepcl.probes.baselines import load_encoder
from facepcl.probes.features import aligned, extract
from facepcl.probes.manifest import Labelled, Manifest


@pytest.fixture
def manifest(faces_folder):
    files = sorted(faces_folder.rglob("*.jpg"))
    return Manifest("folder", [Labelled(str(f)) for f in files], lambda: (Item(str(f)) for f in files), files)


@pytest.fixture(scope="module")
def embedder():
    return FaceEmbedder("pcl_facecycle", dtype="float32", backend="eager")


def test_features_of_each_branch_are_the_embeddings_of_the_images(manifest, embedder, tmp_path):
    features = extract(manifest, embedder, ("shared", "face", "pose"), cache=tmp_path / "cache")
    for branch, found in features.of.items():
        other = FaceEmbedder("pcl_facecycle", branch=branch, dtype="float32", backend="eager")
        np.testing.assert_allclose(found, other([i.name for i in manifest.images]), atol=1e-5)


def test_mirrored_features_are_those_of_mirrored_images(manifest, embedder, tmp_path):
    features = extract(manifest, embedder, ("pose",), mirrored=True, cache=tmp_path / "cache")
    mirrored = [
        np.ascontiguousarray(np.asarray(Image.open(i.name).resize((64, 64), 3))[:, ::-1])
        for i in manifest.images
    ]
    wanted = FaceEmbedder("pcl_facecycle", branch="pose", dtype="float32", backend="eager")(mirrored)
    np.testing.assert_allclose(features.of["mirrored pose"], wanted, atol=1e-5)


def test_a_second_probe_runs_no_network(manifest, embedder, tmp_path, monkeypatch):
    first = extract(manifest, embedder, ("shared",), cache=tmp_path / "cache")
    monkeypatch.setattr(Encoder, "maps", None)
    second = extract(manifest, embedder, ("shared",), cache=tmp_path / "cache")
    np.testing.assert_array_equal(first.of["shared"], second.of["shared"])


def test_features_of_data_that_vanish_meanwhile_are_not_cached(manifest, embedder, tmp_path, monkeypatch):
    """As with a drive that is unmounted: its images would be missing for ever."""
    drive = tmp_path / "drive"
    files = [drive / f"{number}.jpg" for number in range(3)]
    drive.mkdir()
    for file, image in zip(files, manifest.images, strict=False):
        shutil.copy(image.name, file)

    def items():
        yield Item(str(files[0]))
        shutil.move(drive, tmp_path / "elsewhere")
        yield from (Item(str(file)) for file in files[1:])

    vanishing = Manifest("folder", [Labelled(str(file)) for file in files], items, files)
    with pytest.raises(
        DataError, match="files of the folder data have vanished or changed while they were read"
    ):
        extract(vanishing, embedder, ("shared",), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_relative_path_finds_the_features_of_the_absolute_one(manifest, embedder, tmp_path, monkeypatch):
    extract(manifest, embedder, ("shared",), cache=tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Encoder, "maps", None)
    manifest.files = [f.relative_to(tmp_path) for f in manifest.files]
    manifest.images = [Labelled(str(f)) for f in manifest.files]
    assert extract(manifest, embedder, ("shared",), cache=tmp_path / "cache").good.all()


@pytest.mark.parametrize("change", ["a file", "the weights", "the square", "the pool"])
def test_features_are_extracted_again_when_something_has_changed(manifest, embedder, tmp_path, change):
    cache = tmp_path / "cache"
    extract(manifest, embedder, ("shared",), cache=cache)
    if change == "a file":
        os.utime(manifest.files[3], ns=(1, 1))
    elif change == "the weights":
        embedder = FaceEmbedder(load_encoder("random:pcl_facecycle", 0), dtype="float32")
    elif change == "the square":
        manifest.images[0] = manifest.images[0]._replace(square=Square(30, 30, 20))
    else:
        embedder = FaceEmbedder("pcl_facecycle", pool="avg", dtype="float32")
    extract(manifest, embedder, ("shared",), cache=cache)
    assert len(list(cache.glob("*.json"))) == 2


def test_what_an_interrupted_extraction_leaves_is_not_taken_for_features(
    manifest, embedder, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("facepcl.probes.features.os.replace", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(manifest, embedder, ("shared",), cache=cache)
    assert not list(cache.iterdir())
    assert extract(manifest, embedder, ("shared",), cache=cache).good.all()


def test_features_whose_array_is_gone_are_extracted_again(manifest, embedder, tmp_path):
    first = extract(manifest, embedder, ("shared",), cache=tmp_path).of["shared"]
    for array in tmp_path.glob("*.npy"):
        array.unlink()
    again = extract(manifest, embedder, ("shared",), cache=tmp_path).of["shared"]
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_without_a_folder_for_the_cache_the_features_are_not_kept(
    manifest, embedder, tmp_path, caplog, monkeypatch, place
):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("FACEPCL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file/home"))
    cache = tmp_path / "file/cache" if place == "a file" else None
    features = extract(manifest, embedder, ("shared",), cache=cache)
    assert features.of["shared"][features.good].any()
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "cannot be written to (Not a directory)" in warning
    assert warning.endswith("name another folder by --cache or FACEPCL_CACHE")


def test_an_image_that_cannot_be_read_is_named_and_left_out(manifest, embedder, tmp_path):
    manifest.files[2].write_bytes(b"no image")
    features = extract(manifest, embedder, ("shared",), cache=tmp_path / "cache")
    assert features.good.tolist() == [i != 2 for i in range(len(manifest.images))]
    assert features.failed == [(str(manifest.files[2]), "not an image in a format that Pillow reads")]


def test_data_of_which_nothing_can_be_read_is_an_error(manifest, embedder, tmp_path):
    for file in manifest.files:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="no image of the data can be read"):
        extract(manifest, embedder, ("shared",), cache=tmp_path / "cache")


def test_a_square_is_cut_out_before_the_image_is_fitted(manifest, embedder, tmp_path):
    square = Square(30, 40, 25, 20.0)
    manifest.images = [i._replace(square=square) for i in manifest.images]
    found = extract(manifest, embedder, ("shared",), cache=tmp_path / "cache").of["shared"]
    cuts = [cut_square(decode(f.read_bytes()), square) for f in manifest.files]
    np.testing.assert_allclose(found, embedder(cuts), atol=1e-5)


def test_aligned_faces_stand_upright_between_eyes_and_mouth(manifest):
    turned = np.array([[40, 20], [60, 40], [0, 0], [20, 40], [40, 60]], float)  # eye line 45 degrees down
    image = Labelled("face.jpg", landmarks=tuple(map(tuple, turned)))
    (face,) = aligned(Manifest("made up", [image], lambda: iter(()), []), turn=True)
    assert face.square == pytest.approx((40, 40, 1.5 * np.hypot(20, 20), 45))
    (face,) = aligned(Manifest("made up", [image], lambda: iter(()), []), turn=False)
    assert face.square.angle == 0


def test_alignment_without_landmarks_is_an_error(manifest):
    with pytest.raises(OptionError, match="has none"):
        aligned(manifest, turn=True)


def test_the_seed_draws_random_weights_and_leaves_torchs_own_chance_alone():
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    some = [load_encoder("random:pcl_facecycle", seed).state_dict() for seed in (0, 0, 1)]
    assert torch.rand(1) == wanted
    name = "layer1.0.weight" if "layer1.0.weight" in some[0] else next(iter(some[0]))
    assert torch.equal(some[0][name], some[1][name])
    assert not torch.equal(some[0][name], some[2][name])


def test_the_hog_baseline_is_that_of_scikit_image(manifest):
    from skimage.feature import hog

    pixels = np.asarray(Image.open(manifest.files[0]).resize((64, 64), 3))
    (found,) = FaceEmbedder(load_encoder("hog", 0), dtype="float32", backend="eager")([pixels])
    wanted = hog(pixels.mean(-1), orientations=8, pixels_per_cell=(8, 8), cells_per_block=(2, 2))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_pixels_baseline_is_the_grey_image_halved(manifest):
    pixels = np.asarray(Image.open(manifest.files[0]).resize((64, 64), 3))
    (found,) = FaceEmbedder(load_encoder("pixels", 0), dtype="float32", backend="eager")([pixels])
    wanted = pixels.mean(-1).reshape(32, 2, 32, 2).mean((1, 3)) / 255
    np.testing.assert_allclose(found, wanted.reshape(-1), atol=1e-5)


def test_an_input_of_another_size_gives_codes_of_that_size():
    embedder = FaceEmbedder("pcl_facecycle", pool="flatten", size=100, dtype="float32")
    assert embedder.meta["dimension"] == 6272  # METHOD 6
    assert facepcl.FaceEmbedder("pcl_facecycle", pool="flatten").space("shared") != embedder.space("shared")


def test_a_model_of_one_size_refuses_another():
    with pytest.raises(OptionError, match="takes 224 pixels only"):
        FaceEmbedder(load_encoder("random:vit_tiny_patch16_224", 0), size=96)


def test_an_encoder_whose_codes_are_not_finite_is_an_error_that_names_it(manifest, tmp_path):
    model = facepcl.create_model("pcl_facecycle", pretrained=True)
    with torch.no_grad():
        model.get_parameter("layer3_1.0.weight").fill_(torch.nan)
    broken = FaceEmbedder(model, dtype="float32", backend="eager")
    with pytest.raises(DataError, match=r"pcl_facecycle returns numbers that are not finite.*12 images"):
        extract(manifest, broken, ("shared",), cache=tmp_path / "cache")
