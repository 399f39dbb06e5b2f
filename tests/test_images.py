"""Images of any kind become upright RGB, or a reason."""

import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin, TiffImagePlugin

import facepcl
from facepcl.errors import ImageError, MissingPath, OptionError
from facepcl.images.decode import decode, decode_reduced, max_pixels, open_image, quiet_pillow

# examples/faces/person1_yaw+22_anger.jpg as a telephone stores it: on its side, with HEIC's box that says how
# to turn it and, besides, EXIF data that say the same
HEIC = Path(__file__).with_name("turned_face.heic")
UPRIGHT = Path(__file__).parents[1] / "examples/faces/person1_yaw+22_anger.jpg"

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


def test_a_crop_without_pixels_is_no_image(picture):
    with pytest.raises(ImageError, match="an image of 0 x 30 pixels has none"):
        open_image(picture.crop((10, 10, 10, 40)))


def test_entries_of_a_folder_are_opened(picture, tmp_path):
    picture.save(tmp_path / "face.png")
    [entry] = os.scandir(tmp_path)
    assert levels(open_image(entry)).tolist() == levels(picture).tolist()


def test_cmyk_becomes_rgb(picture):
    found = decode(encoded(picture.convert("CMYK"), "TIFF"))
    assert found.mode == "RGB"
    assert abs(levels(found) - levels(picture)).max() <= 2  # rounding on the way through CMYK


def test_palette_becomes_rgb(picture):
    few = picture.quantize(16)
    assert (levels(decode(encoded(few, "PNG"))) == levels(few.convert("RGB"))).all()


@pytest.mark.parametrize(("mode", "options"), [("RGBA", {}), ("LA", {}), ("P", {"transparency": 0})])
def test_transparency_shows_white(mode, options):
    image = Image.new(mode, (4, 4), 0)
    if mode == "P":
        image.putpalette([255, 0, 0] * 256)
    assert (levels(decode(encoded(image, "PNG", **options))) == 255).all()


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


@pytest.mark.parametrize(("needed", "side"), [(None, 600), (96, 150), (150, 150), (151, 300), (1000, 600)])
def test_a_jpeg_comes_no_smaller_than_needed(picture, needed, side):
    data = encoded(picture.resize((900, 600)), "JPEG")
    found = decode_reduced(data, needed)
    assert min(found.image.size) == side
    assert found.size == (900, 600)
    assert found.box == (0, 0, *found.image.size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_of_broken_pixels_is_where_the_picture_is(orientation):
    """401 x 301 halved is 200.5 x 150.5 in 201 x 151 pixels: the stored image ends in half a pixel."""
    exif = Image.Exif()
    exif[274] = orientation
    found = decode_reduced(encoded(Image.new("RGB", (401, 301)), "JPEG", exif=exif), 150)
    turned = orientation >= 5
    assert found.image.size == ((151, 201) if turned else (201, 151))
    left, top, right, bottom = found.box
    assert (right - left, bottom - top) == ((150.5, 200.5) if turned else (200.5, 150.5))
    at_the_end = [side == whole for side, whole in zip((right, bottom), found.image.size, strict=True)]
    stored = STORED_AS[orientation]
    corner = Image.new("L", found.image.size[::-1] if turned else found.image.size)
    corner.putpixel((corner.width - 1, corner.height - 1), 255)  # of the stored image: outside its box
    undo = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }
    upright = corner if stored is None else corner.transpose(undo.get(stored, stored))
    x, y = upright.getbbox()[:2]
    assert at_the_end == [x == 0, y == 0]  # the broken pixels lie at the other end


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_decoded_smaller_is_upright_and_knows_its_size(picture, orientation):
    large = picture.resize((600, 400), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[274] = orientation
    step = STORED_AS[orientation]
    stored = large if step is None else large.transpose(step)
    found = decode_reduced(encoded(stored, "JPEG", exif=exif, quality=95), 100)
    assert found.size == (600, 400)
    assert found.image.size == (150, 100)
    wanted = levels(large.resize((150, 100), Image.Resampling.BOX))
    assert abs(levels(found.image) - wanted).mean() < 3  # another orientation is off by 60 levels


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "a.jpg"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(ImageError, match=f"cannot be read: it is a {kind}"):
        open_image(path)


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


def test_exif_data_that_is_damaged_anywhere_turns_the_picture_whole_or_not_at_all():
    """Found by tools/fuzz: Pillow's own way of turning fails on some, and then size and pixels differed."""
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    whole = encoded(Image.new("RGB", (96, 64)), "JPEG", exif=exif)
    start, end = whole.index(b"Exif"), whole.index(b"Exif") + len(exif.tobytes())
    turned = 0
    for place in range(start, end):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            with quiet_pillow():
                found = decode_reduced(bytes(damaged), 48)
            assert found.box == (0, 0, *found.image.size)
            assert found.size == found.image.size
            turned += found.size == (64, 96)
    assert 0 < turned < 8 * (end - start)


# -- what browsers show


def with_text(picture, kind, after=False):
    """A PNG with 2 MB of text, of which Pillow takes one."""
    info = PngImagePlugin.PngInfo()
    if kind == "iTXt":
        info.add_itxt("XML:com.adobe.xmp", "<x>" + "y" * 2_000_000 + "</x>", zip=True)
    else:
        info.add_text("workflow", "x" * 2_000_000, zip=True)
    data = encoded(picture, "PNG", pnginfo=info)
    if after:  # behind the pixels, where Pillow reads it once these are decoded
        start, end = data.index(b"zTXt") - 4, data.index(b"IDAT") - 4
        data = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    return data


@pytest.mark.parametrize("kind", ["zTXt", "zTXt after", "iTXt", "iCCP", "damaged"])
def test_text_and_profiles_of_a_png_do_not_count(picture, kind):
    if kind == "iCCP":
        data = encoded(picture, "PNG", icc_profile=bytes(2_000_000))
    elif kind == "damaged":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", "hello")
        data = encoded(picture, "PNG", pnginfo=info).replace(b"hello", b"jello")
    else:
        data = with_text(picture, kind[:4], after="after" in kind)
    limit = PngImagePlugin.MAX_TEXT_CHUNK
    assert (levels(decode(data)) == levels(picture)).all()
    assert limit == PngImagePlugin.MAX_TEXT_CHUNK


def test_pixels_of_a_png_that_are_damaged_stay_an_error(picture):
    data = bytearray(with_text(picture, "zTXt"))
    data[data.index(b"IDAT") + 40] ^= 255
    with pytest.raises(ImageError, match="damaged"):
        decode(bytes(data))


@pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\xef\xbb\xbf", b" \t"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_blanks_before_an_image_do_not_count(picture, kind, before):
    data = encoded(picture, kind)
    assert (levels(decode(before + data)) == levels(decode(data))).all()


@pytest.fixture
def noise():
    """A picture with something to code everywhere."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return small.resize((320, 240), Image.Resampling.BICUBIC)


every_jpeg = pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"progressive": True}]
)


@pytest.mark.parametrize("missing", [1, 2, 10, 30])
@every_jpeg
def test_a_jpeg_that_lacks_its_last_bytes_is_decoded(noise, options, missing):
    data = encoded(noise, "JPEG", quality=95, **options)
    found, wanted = levels(decode(data[:-missing])), levels(decode(data))
    assert (abs(found - wanted).max(2) > 8).mean() < 0.05
    assert decode_reduced(data[:-missing], 60).image.size == (80, 60)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@every_jpeg
def test_a_jpeg_that_lacks_a_visible_part_stays_an_error(noise, options, share):
    data = encoded(noise, "JPEG", quality=95, **options)
    if "progressive" in options:
        share *= 0.7  # behind that come the last bits of all coefficients
    with pytest.raises(ImageError, match="damaged: image file is truncated"):
        decode(data[: int(share * len(data))])


def test_floating_point_pixels_are_levels_from_0_to_1():
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    found = levels(decode(encoded(Image.fromarray(ramp), "TIFF")))[..., 0]
    assert abs(found - ramp * 255).max() <= 0.51
    for other in (ramp * 255, ramp * np.nan):
        with pytest.raises(ImageError, match=r"floating-point pixels must be in \[0, 1\], not"):
            decode(encoded(Image.fromarray(other), "TIFF"))


def test_a_tiff_of_ycbcr_pixels_is_read_upright(picture):
    data = encoded(picture.convert("YCbCr"), "TIFF", tiffinfo={274: 3})  # stored upside down
    wanted = levels(picture.transpose(Image.Transpose.ROTATE_180))
    assert abs(levels(decode(data)) - wanted).max() <= 3  # YCbCr has 8 bits, too


@pytest.mark.parametrize("kind", ["YCbCr", "floating-point"])
def test_a_tiff_that_pillow_does_not_read_says_which_it_is(picture, kind):
    if kind == "YCbCr":
        subsampled = {530: (2, 2)}
        data = encoded(picture.convert("YCbCr"), "TIFF", tiffinfo=subsampled)
    else:  # three samples of 32 bits where the file has 8
        data = encoded(picture, "TIFF")
        data = data.replace(struct.pack("<3H", 8, 8, 8), struct.pack("<3H", 32, 32, 32))
    with pytest.raises(ImageError, match=f"a TIFF .*{kind}.*; save it "):
        decode(data)


# -- the bound on pixels


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_of_a_jpeg_the_pixels_count_that_are_decoded(picture, monkeypatch, kind):
    options = {"save_all": True, "append_images": [picture]} if kind == "MPO" else {}
    data = encoded(picture.resize((900, 600)), kind, **options)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)  # Pillow refuses 60,000
    monkeypatch.setattr("facepcl.images.decode.MAX_PIXELS", 450 * 300)
    for needed, side in ((100, 150), (300, 300), (600, 300)):  # the last with fewer pixels than it needs
        found = decode_reduced(data, needed)
        assert (found.size, min(found.image.size)) == ((900, 600), side)
    with pytest.raises(
        ImageError, match=r"too many pixels: 900 x 600 are more than 135,000; set FACEPCL_MAX"
    ):
        decode(data)


def test_of_a_progressive_jpeg_all_pixels_count(picture, monkeypatch):
    """The codec holds the coefficients of all of them."""
    monkeypatch.setattr("facepcl.images.decode.MAX_PIXELS", 450 * 300)
    with pytest.raises(ImageError, match="too many pixels: 900 x 600"):
        decode_reduced(encoded(picture.resize((900, 600)), "JPEG", progressive=True), 100)


def test_the_bound_on_pixels_is_an_option_of_the_environment(picture, monkeypatch):
    data = encoded(picture.resize((900, 600)), "PNG")
    monkeypatch.setattr("facepcl.images.decode.MAX_PIXELS", 10_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ImageError, match=r"too many pixels.*set FACEPCL_MAX_PIXELS to read it"):
        decode(data)
    monkeypatch.setenv("FACEPCL_MAX_PIXELS", "540000")
    assert decode(data).size == (900, 600)
    monkeypatch.setenv("FACEPCL_MAX_PIXELS", "539999")
    with pytest.raises(ImageError, match="too many pixels: 900 x 600 are more than 539,999"):
        decode(data)
    monkeypatch.setenv("FACEPCL_MAX_PIXELS", "many")
    with pytest.raises(OptionError, match="FACEPCL_MAX_PIXELS is 'many', not a number of pixels"):
        max_pixels()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("value", ["many", "0", "-5"])
def test_a_bound_that_is_no_number_is_not_put_down_to_the_images(picture, tmp_path, monkeypatch, kind, value):
    picture.save(tmp_path / "a.img", kind)
    embedder = facepcl.FaceEmbedder()
    monkeypatch.setenv("FACEPCL_MAX_PIXELS", value)
    for call in (
        lambda: decode(encoded(picture, kind)),
        lambda: embedder([tmp_path / "a.img"]),
        lambda: list(embedder.stream(tmp_path / "a.img", workers=0)),
        lambda: facepcl.embed(tmp_path / "a.img", tmp_path / "e.npz", workers=1),
    ):
        with pytest.raises(OptionError, match=f"^FACEPCL_MAX_PIXELS is '{value}', not a number of pixels$"):
            call()


def test_a_jpeg_xl_without_its_extra_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    for start in (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"):
        with pytest.raises(ImageError, match=r"a JPEG XL.*facepcl\[jxl\]"):
            decode(start + bytes(100))


def test_a_heic_of_a_telephone_is_upright():
    pytest.importorskip("pillow_heif", reason="extra heic")
    found = open_image(HEIC)
    # two lossy codes between them: 2.6 levels; turned wrongly 34 to 53
    assert np.abs(levels(found) - levels(open_image(UPRIGHT))).mean() < 5


def test_a_heic_without_its_extra_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"a HEIC.*facepcl\[heic\]"):
        open_image(HEIC)


def test_a_heic_that_is_damaged_is_an_error():
    pytest.importorskip("pillow_heif", reason="extra heic")
    with pytest.raises(ImageError, match="damaged"):
        decode(HEIC.read_bytes()[:-200])


def test_a_heic_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif", reason="extra heic")
    monkeypatch.setattr("facepcl.images.decode.MAX_PIXELS", 112 * 112 - 1)
    monkeypatch.setattr(pillow_heif.HeifFile, "to_pillow", lambda file: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="too many pixels: 112 x 112"):
        open_image(HEIC)


@pytest.mark.parametrize(("kind", "top"), [(np.int32, 255), (np.int32, 65535), (np.uint16, 65535)])
def test_integers_of_a_tiff_are_grey_levels_of_8_or_16_bits(kind, top):
    levels = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    file = io.BytesIO()
    Image.fromarray((levels.astype(np.int64) * (top // 255)).astype(kind)).save(file, "TIFF")
    np.testing.assert_array_equal(np.asarray(decode(file.getvalue()))[..., 0], levels)


@pytest.mark.parametrize("levels", [[[0, 70_000]], [[-5, 200]]])
def test_integers_beyond_16_bits_are_refused(levels):
    file = io.BytesIO()
    Image.fromarray(np.array(levels, np.int32)).save(file, "TIFF")
    with pytest.raises(ImageError, match=r"must be in \[0, 255\] or \[0, 65535\]"):
        decode(file.getvalue())


def test_of_a_tiff_the_picture_is_read_and_not_its_thumbnail(tmp_path):
    """As cameras write them: the first page is a reduced version (tag 254)."""
    thumbnail, picture = Image.new("RGB", (8, 6), "black"), Image.new("RGB", (80, 60), "white")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "raw.tif", new=True) as file:
        thumbnail.save(file, "TIFF", tiffinfo=tags)
        file.newFrame()
        picture.save(file, "TIFF")
    found = decode((tmp_path / "raw.tif").read_bytes())
    assert (found.size, found.getpixel((5, 5))) == ((80, 60), (255, 255, 255))
