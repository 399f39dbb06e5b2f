"""Images of any kind become upright RGB, or a reason."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from facepcl.errors import ImageError, MissingPath
from facepcl.images import decode, open_image, quiet_pillow, to_square

# What undoes each EXIF orientation 1..8, so that the stored picture is the upright one turned or mirrored.
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture
def picture():
    """A 60 x 40 picture without any symmetry."""
    y, x = np.mgrid[:40, :60]
    return Image.fromarray(np.stack([4 * x, 6 * y, (x * y) % 256], 2).astype(np.uint8))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def levels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    step = STORED_AS[orientation]
    stored = picture if step is None else picture.transpose(step)
    found = decode(encoded(stored, "PNG", exif=exif))
    assert found.size == picture.size
    assert (levels(found) == levels(picture)).all()


def test_truncated_is_an_error(picture):
    with pytest.raises(ImageError, match="damaged"):
        decode(encoded(picture.resize((300, 300)), "JPEG")[:-2000])


def test_empty_is_an_error():
    with pytest.raises(ImageError, match="empty"):
        decode(b"")


def test_no_image_at_all_is_an_error():
    with pytest.raises(ImageError, match="not an image"):
        decode(b"PK\x03\x04 this is no picture")


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = encoded(Image.new("1", (20000, 20000)), "PNG")
    assert len(bomb) < 200_000
    with pytest.raises(ImageError, match="too many pixels"):
        decode(bomb)


def test_cmyk_becomes_rgb(picture):
    found = decode(encoded(picture.convert("CMYK"), "TIFF"))
    assert found.mode == "RGB"
    assert abs(levels(found) - levels(picture)).max() <= 2  # rounding on the way through CMYK


def test_palette_becomes_rgb(picture):
    few = picture.quantize(16)
    assert (levels(decode(encoded(few, "PNG"))) == levels(few.convert("RGB"))).all()


def test_transparent_palette_shows_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0] * 256)
    assert (levels(decode(encoded(image, "PNG", transparency=0))) == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(mode):
    found = decode(encoded(Image.new(mode, (4, 4), 0), "PNG"))
    assert (levels(found) == 255).all()


def test_sixteen_bit_levels_are_scaled_not_cut():
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    found = levels(decode(encoded(Image.fromarray(ramp), "PNG")))[..., 0]
    assert abs(found - ramp / 257).max() <= 1


def test_an_animation_gives_its_first_frame(picture):
    second = Image.new("RGB", picture.size, "red")
    data = encoded(picture, "PNG", save_all=True, append_images=[second])
    assert (levels(decode(data)) == levels(picture)).all()


def test_the_content_decides_not_the_name(picture, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(picture, "PNG"))
    assert (levels(open_image(path)) == levels(picture)).all()


def test_the_kinds_of_input_agree(picture, tmp_path):
    path = tmp_path / "a.png"
    picture.save(path)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for item in (path, str(path), path.read_bytes(), picture, array, tensor, tensor / 255):
        assert (levels(open_image(item)) == levels(picture)).all(), type(item)


@pytest.mark.parametrize(
    "item",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        torch.zeros(1, 4, 4),
        torch.full((3, 4, 4), 2.0),
        torch.full((3, 4, 4), float("nan")),
        torch.zeros(3, 4, 4, dtype=torch.int64),
        42,
    ],
    ids=["grey array", "float array", "one channel", "beyond 1", "NaN", "int64", "a number"],
)
def test_other_input_is_an_error(item):
    with pytest.raises(ImageError):
        open_image(item)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingPath, match=r"nobody\.jpg"):
        open_image(tmp_path / "nobody.jpg")


def test_short_side_is_resized_and_the_centre_kept(picture):
    square = to_square(picture, 20)
    assert square.shape == (3, 20, 20)
    assert square.dtype == np.uint8
    wanted = levels(picture.resize((30, 20), Image.Resampling.BICUBIC))[:, 5:25]
    assert (square.transpose(1, 2, 0) == wanted).all()


def test_training_and_inference_prepare_an_image_alike(picture):
    """The reader of `pretrain` and timm's transform, which the embedder uses, agree to the level."""
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    import facepcl  # noqa: F401 (registers the model)

    config = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg("pcl_facecycle").to_dict())
    by_timm = create_transform(**config)(picture)
    assert torch.equal((by_timm * 255).round().to(torch.uint8), torch.from_numpy(to_square(picture, 64)))


def test_pillow_does_not_warn(recwarn):
    large = encoded(Image.new("1", (10000, 10000)), "PNG")  # above Pillow's warning, below its error
    with quiet_pillow():
        decode(large)
    assert not recwarn.list


def test_a_pillow_image_of_a_truncated_file_is_an_error(picture):
    data = encoded(picture.resize((300, 300)), "JPEG")
    with pytest.raises(ImageError, match="damaged"):
        open_image(Image.open(io.BytesIO(data[:-2000])))


def test_a_bomb_is_refused_where_pillows_own_limit_was_taken_away(monkeypatch):
    bomb = encoded(Image.new("1", (20000, 20000)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="too many pixels: 20000 x 20000"):
        decode(bomb)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_long_strip_is_cut_before_it_is_resized(size, monkeypatch):
    """Its short side resized to 64 first, it would be an image of 245 million pixels."""
    pixels = []
    resize = Image.Image.resize

    def watched(self, size, *args, **kwargs):
        pixels.append(size[0] * size[1])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    assert to_square(Image.new("RGB", size), 64).shape == (3, 64, 64)
    assert pixels
    assert max(pixels) <= 16 * 64 * 64


def test_a_strip_that_is_cut_keeps_its_centre():
    image = Image.new("RGB", (3000, 30), "red")
    image.paste("blue", (1400, 0, 1600, 30))
    assert (to_square(image, 64) == np.array([0, 0, 255])[:, None, None]).all()
