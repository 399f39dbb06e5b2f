"""Rendered faces of people who do not exist, with exact labels: the data of the bundled weights."""

from facepcl.errors import require

for _package in ("numba", "cv2"):
    require(_package, "synth")
