"""A face cut out of its image: the pixels of the square, upright, the edge going on beyond the image."""

import numpy as np
import pytest
from PIL import Image

from facepcl.images.geometry import Square, cut_square


@pytest.fixture
def image():
    """A gradient of 80 x 60: red is the column, green the row."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(80), np.arange(60)[:, None]
    return Image.fromarray(pixels)


def test_a_square_of_whole_pixels_is_those_pixels(image):
    cut = np.asarray(cut_square(image, Square(30, 20, 10)))
    np.testing.assert_array_equal(cut, np.asarray(image)[10:30, 20:40])


def test_beyond_the_image_its_edge_goes_on(image):
    cut = np.asarray(cut_square(image, Square(0, 60, 10)))
    np.testing.assert_array_equal(cut[:10, 10:], np.asarray(image)[50:, :10])
    assert (cut[..., 0][:, :10] == 0).all()
    assert (cut[..., 1][10:] == 59).all()


def test_a_square_wholly_outside_is_the_nearest_edge(image):
    cut = np.asarray(cut_square(image, Square(200, 30, 10)))
    assert cut.shape == (20, 20, 3)
    assert (cut[..., 0] == 79).all()


@pytest.mark.parametrize("angle", [-30.0, 15.0, 90.0])
def test_a_turned_square_stands_upright(angle):
    """A dark dot a quarter of the side right of the centre of a square that is turned clockwise."""
    pixels = np.full((200, 200, 3), 255, np.uint8)
    turn = np.radians(angle)
    x, y = 100 + 30 * np.cos(turn), 110 + 30 * np.sin(turn)
    rows, columns = np.mgrid[:200, :200] + 0.5
    pixels[(rows - y) ** 2 + (columns - x) ** 2 < 16] = 0
    cut = 255 - np.asarray(cut_square(Image.fromarray(pixels), Square(100, 110, 60, angle)))[..., 0].astype(
        float
    )
    rows, columns = np.mgrid[:120, :120] + 0.5
    centre = (cut * columns).sum() / cut.sum(), (cut * rows).sum() / cut.sum()
    assert centre == pytest.approx((90, 60), abs=0.3)
