"""What holds for any listing and any batches: each image once, in order, the same wherever a job goes on."""

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepcl.data.file_types import is_image_name
from facepcl.data.sources import Item, files_below, list_entries, read_items
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
