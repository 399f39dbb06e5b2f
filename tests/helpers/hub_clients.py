"""What tests of the Hub share: processes that know it, and comparisons."""

import os
import re

import torch

from helpers.files import ROOT

FACES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def environment(hub, home, **changes):
    """What a process of its own sees: the Hub, a home, no token, no facepcl but this checkout's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **changes,
    }


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_codes(loaded, model):
    for a, b in zip(loaded.eval().forward_codes(FACES), model.forward_codes(FACES), strict=True):
        torch.testing.assert_close(a, b)


def assert_sentence(caught, *said):
    text = str(caught.value)
    assert all(re.search(pattern, text) for pattern in said), text
    assert "\n" not in text
    assert len(text) < 260, text
