"""Images are brought to a network's input as timm's own transform does it."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from facepcl.images.transform import Transform

CONFIG = {"input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.5, 0.4, 0.1), "std": (1, 1, 1)}
SIZES = [(64, 64), (60, 40), (41, 97), (250, 250), (301, 200), (63, 65), (20, 33), (500, 64)]


def noise(size):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"crop_pct": 0.875},
        {"crop_pct": 0.95, "interpolation": "bilinear"},
        {"crop_mode": "squash", "crop_pct": 0.9},
        {"crop_mode": "border", "crop_pct": 1.0},
        {"crop_mode": "border", "crop_pct": 0.8},
        {"input_size": (3, 48, 80), "crop_pct": 0.9},
    ],
    ids=str,
)
def test_every_pixel_is_timms(size, own):
    config = {"crop_pct": 1.0, "crop_mode": "center", **CONFIG, **own}
    by_timm = create_transform(**config, normalize=False)(noise(size))  # uint8 [3, H, W]
    found = Transform.from_config(config)(noise(size))
    assert found.dtype == np.uint8
    assert torch.equal(by_timm, torch.from_numpy(found).permute(2, 0, 1))


def test_a_square_fit_is_what_the_models_ask_for():
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    import facepcl  # noqa: F401 (registers the model)

    cfg = get_pretrained_cfg("pcl_facecycle").to_dict()
    assert Transform.from_config(resolve_data_config({}, pretrained_cfg=cfg)) == Transform.square(64)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_long_strip_is_cut_before_it_is_resized(size, monkeypatch):
    """Its short side resized to 64 first, it would be an image of 245 million pixels."""
    pixels = []
    resize = Image.Image.resize

    def watched(self, size, *args, **kwargs):
        pixels.append(size[0] * size[1])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    assert Transform.square(64)(Image.new("RGB", size)).shape == (64, 64, 3)
    assert pixels
    assert max(pixels) <= 16 * 64 * 64


def test_a_strip_that_is_cut_keeps_its_centre():
    image = Image.new("RGB", (3000, 30), "red")
    image.paste("blue", (1400, 0, 1600, 30))
    assert (Transform.square(64)(image) == np.array([0, 0, 255])).all()
