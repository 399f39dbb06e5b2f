"""Data sets in the trees of their authors."""

from facepcl.images.decode import decode
from facepcl.probes.datasets import read_manifest


def read_layout(task, path, layout="auto", **options):
    """The manifest of a data set, once its items are known to be its images, in order."""
    manifest = read_manifest(task, path, layout, **options)
    items = list(manifest.items())
    assert [item.path for item in items] == [image.name for image in manifest.images]
    assert all(decode(item.read()).width for item in items)
    return manifest
