"""What holds for any listing and any interruption: each image once, in order, whatever stops it."""

import io
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import facepcl
from facepcl.data.file_types import is_image_name
from facepcl.data.sources import Item, files_below, list_entries, read_items
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.writers import TableWriter
from facepcl.errors import OptionError
from facepcl.jobs import engine

# No deadline: the machine may be busy. derandomize: the same examples every time.
PLAIN = settings(max_examples=60, deadline=None, derandomize=True)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 100
)
# A tree: names to None (an image), a list (a shard of so named members) or another tree.
SHARDS = st.lists(NAMES.map(lambda n: n + ".jpg"), max_size=4)
TREES = st.recursive(
    st.dictionaries(
        NAMES.map(lambda n: n + ".png") | NAMES, st.none() | SHARDS.map(tuple), min_size=0, max_size=5
    ),
    lambda inner: st.dictionaries(NAMES, inner | st.none(), max_size=4),
    max_leaves=8,
)


def lay(tree, folder):
    """Write a tree; return the images that a listing of it must have, in order, as the words of
    `files_below` have it."""
    folder.mkdir(exist_ok=True)
    here, below = [], []
    for name in sorted(tree):
        what = tree[name]
        path = folder / name
        if isinstance(what, dict):
            if not path.exists():
                inner = lay(what, path)
                below += [] if name.startswith(".") else inner
        elif what is None:
            path.write_bytes(b"x")
            here += [str(path)] if is_image_name(name) else []
        else:
            path = folder / f"{name}.tar"
            with tarfile.open(path, "w") as tar:
                for member in what:
                    tar.addfile(tarfile.TarInfo(member), io.BytesIO())
            shown = [] if path.name.startswith(".") else [m for m in what if is_image_name(m)]
            here.append((path.name, [f"{path}/{member}" for member in shown]))
    order = sorted((os.path.basename(x), [x]) if isinstance(x, str) else x for x in here)
    return [path for _, paths in order for path in paths] + below


@PLAIN
@given(TREES, st.data())
def test_a_listing_has_each_image_once_in_order_and_goes_on_from_any_number(tree, data):
    with tempfile.TemporaryDirectory() as temporary:
        wanted = lay(tree, Path(temporary) / "photos")
        source = [Path(temporary) / "photos"]
        if not any(files_below(source[0])):
            assert not wanted
            with pytest.raises(OptionError, match="no images"):
                list_entries(source)
            return
        assert [item.path for item in read_items(list_entries(source))] == wanted
        start = data.draw(st.integers(0, len(wanted) + 1))
        assert [item.path for item in read_items(list_entries(source), start)] == wanted[start:]


SIZES = st.lists(st.none() | st.integers(0, 3000), max_size=300)


@PLAIN
@given(SIZES, st.integers(1, 40), st.data())
def test_batches_depend_on_numbers_only_so_that_a_resumed_job_makes_the_same(sizes, size, data):
    """Whatever the bytes, from any full part on the batches are those of the whole job."""
    part = 16
    items = [Item(str(i), None if n is None else bytes(n)) for i, n in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "BYTES_PER_CHUNK", 6000)
        whole = list(engine.chunks(items, size, part))
        start = part * data.draw(st.integers(0, len(items) // part))
        rest = list(engine.chunks(items[start:], size, part))
    assert [item for chunk in whole for item in chunk] == items
    assert all(0 < len(chunk) <= size for chunk in whole)
    assert not rest or rest == whole[-len(rest) :]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Fifty files of one colour each, three bad ones among them, ten more in a shard."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for i in range(60):
        path = folder / f"{i:02d}.png"
        Image.new("RGB", (40, 40), (4 * i, 255 - 4 * i, i)).save(path)
        if i in (3, 17, 40):
            path.write_bytes(path.read_bytes()[:50])
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for i in range(50, 60):
            tar.add(folder / f"{i}.png", f"{i}.png")
            (folder / f"{i}.png").unlink()
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return facepcl.create_model("pcl_facecycle", branches=False)


@pytest.fixture(scope="module")
def whole(model, photos, tmp_path_factory):
    """The table of a job that nothing interrupted, for each batch size that was asked for."""
    made = {}

    def table(batch_size):
        if batch_size not in made:
            out = tmp_path_factory.mktemp("whole") / "e.npz"
            facepcl.embed(photos, out, model=model, batch_size=batch_size, dtype="float32", workers=1)
            made[batch_size] = facepcl.read_embeddings(out)
        return made[batch_size]

    return table


@pytest.mark.slow
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 6), max_size=2), st.sampled_from([3, 8]))
def test_a_job_that_is_stopped_anywhere_any_number_of_times_has_each_row_once(
    model, photos, whole, stops, batch
):
    embed = FaceEmbedder._embed
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableWriter, "part_images", 16)
        wanted = whole(batch)
        out = Path(temporary) / "e.npz"
        for stop in [*stops, None]:
            left = [stop]

            def stopping(self, *args, left=left):
                if left[0] is not None:
                    left[0] -= 1
                    if left[0] < 0:
                        raise KeyboardInterrupt
                return embed(self, *args)

            patch.setattr(FaceEmbedder, "_embed", stopping)
            try:
                facepcl.embed(
                    photos, out, model=model, batch_size=batch, dtype="float32", workers=1, resume=True
                )
            except KeyboardInterrupt:
                assert not out.exists()
        found = facepcl.read_embeddings(out)
    assert (found.paths, found.errors) == (wanted.paths, wanted.errors)
    assert len(set(found.paths)) == 60
    assert np.array_equal(found.vectors, wanted.vectors, equal_nan=True)
