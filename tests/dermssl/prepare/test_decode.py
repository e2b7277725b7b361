"""Every kind of image file found in the wild becomes upright RGB, or one clear line of what is wrong with it."""

import io

import numpy as np
import pytest
from PIL import Image

from dermssl.prepare import decode
from dermssl.prepare.decode import DecodeError, decode_rgb, open_image, orientation, read_bytes, upright

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RED = (200, 40, 30)


def _encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _decoded(data):
    image = open_image(data)
    turn = orientation(image)
    return np.asarray(upright(decode_rgb(image), turn))


def _wedge(mode="L", size=(40, 30)):
    """Dark on the left, light on the right, so that a rotation shows."""
    return Image.fromarray(np.tile(np.linspace(20, 230, size[0]).astype(np.uint8), (size[1], 1))).convert(mode)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation_is_undone(turn):
    upright = _wedge("RGB")
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[turn]) if turn in undo else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    assert np.array_equal(_decoded(_encoded(stored, exif=exif)), np.asarray(upright))


def test_a_broken_exif_block_leaves_the_image_as_it_is():
    jpeg = _encoded(_wedge("RGB"), "JPEG", quality=95)
    broken = jpeg[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + jpeg[2:]
    assert orientation(open_image(broken)) == 1
    assert np.array_equal(_decoded(broken), _decoded(jpeg))


def test_grey_palette_and_bilevel_become_rgb():
    grey = _wedge("L")
    assert np.array_equal(_decoded(_encoded(grey)), np.asarray(grey.convert("RGB")))
    assert np.array_equal(_decoded(_encoded(grey.convert("P"))), np.asarray(grey.convert("RGB")))
    assert set(np.unique(_decoded(_encoded(grey.convert("1"))))) == {0, 255}


def test_cmyk_keeps_its_colours():
    red = Image.new("RGB", (16, 16), RED)
    for kind in ("JPEG", "TIFF"):
        assert np.abs(_decoded(_encoded(red.convert("CMYK"), kind)).astype(int) - RED).max() < 12


def test_transparency_falls_on_white():
    for image in (Image.new("RGBA", (4, 4), (*RED, 0)), Image.new("LA", (4, 4), (10, 0))):
        assert (_decoded(_encoded(image)) == 255).all()
    half = _decoded(_encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    assert np.abs(half.astype(int) - 127).max() <= 1


def test_a_transparent_palette_colour_falls_on_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 40, 30] + [0] * 765)
    assert (_decoded(_encoded(image, transparency=0)) == 255).all()


def test_sixteen_bits_are_scaled_not_cut_off():
    deep = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    expected = np.linspace(0, 255, 256).reshape(16, 16)
    assert np.abs(_decoded(_encoded(deep))[..., 0] - expected).max() <= 1
    assert np.abs(_decoded(_encoded(deep, "TIFF"))[..., 0] - expected).max() <= 1


def test_eight_bit_values_in_a_sixteen_bit_file_keep_their_brightness():
    shallow = Image.fromarray(np.full((8, 8), 120, np.uint16))
    assert (_decoded(_encoded(shallow)) == 120).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_a_problem_of_the_file_and_not_black(value):
    pixels = np.full((8, 8), 0.5, np.float32)
    pixels[0, :3] = value
    with pytest.raises(DecodeError, match="3 pixels are NaN or infinite"):
        _decoded(_encoded(Image.fromarray(pixels), "TIFF"))


def test_floating_point_images_from_zero_to_one_are_not_black():
    image = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert (_decoded(_encoded(image, "TIFF")) == 127).all()


def test_a_png_named_jpg_is_read_by_its_content(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(_wedge("RGB")))
    assert _decoded(read_bytes(path, tmp_path)).shape == (30, 40, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_truncated_file_is_refused_whatever_its_format(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = _encoded(noise, kind)
    with pytest.raises(DecodeError):
        _decoded(data[: len(data) // 2])


def test_random_damage_gives_an_image_or_a_decode_error_and_nothing_else():
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    refused = 0
    for kind in ("JPEG", "PNG", "TIFF", "GIF", "WEBP"):
        for _ in range(60):
            data = bytearray(_encoded(noise, kind))
            for position in random.integers(0, min(len(data), 400), 6):
                data[position] = random.integers(256)
            try:
                assert _decoded(bytes(data)).shape[2] == 3
            except DecodeError:
                refused += 1
    assert refused > 50


def test_text_and_postscript_under_an_image_name_are_not_opened():
    for data in (b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"):
        with pytest.raises(DecodeError, match="not an image"):
            open_image(data)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    with pytest.raises(DecodeError, match="bomb: 40 x 30"):
        open_image(_encoded(_wedge()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DecodeError, match="bomb"):
        open_image(_encoded(_wedge()))


def test_empty_missing_and_foreign_files_say_so(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside.jpg"
    (root / "folder.jpg").mkdir(parents=True)
    outside.write_bytes(_encoded(_wedge("RGB"), "JPEG"))
    (root / "empty.jpg").touch()
    (root / "out.jpg").symlink_to(outside)
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "dangling.jpg").symlink_to(root / "nothing.jpg")
    said = {
        "empty.jpg": "0 bytes",
        "out.jpg": "link out of",
        "loop.jpg": "link to itself",
        "dangling.jpg": "cannot be read",
        "missing.jpg": "cannot be read",
        "folder.jpg": "not a file",
    }
    for name, message in said.items():
        with pytest.raises(DecodeError, match=message):
            read_bytes(root / name, root)
