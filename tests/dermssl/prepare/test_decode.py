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
    rgb = decode_rgb(image)
    return np.asarray(upright(rgb, orientation(image)))


def _wedge(mode="L", size=(40, 30)):
    """Dark on the left, light on the right, so that a rotation shows."""
    return Image.fromarray(np.tile(np.linspace(20, 230, size[0]).astype(np.uint8), (size[1], 1))).convert(mode)


_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera that is held as an EXIF orientation says stores an upright picture."""


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation_is_undone(turn):
    upright = _wedge("RGB")
    stored = upright.transpose(_STORED[turn]) if turn in _STORED else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    assert np.array_equal(_decoded(_encoded(stored, exif=exif)), np.asarray(upright))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_tiff_is_turned_once(turn):
    upright = _wedge("RGB")
    upright.paste(RED, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = upright.transpose(_STORED[turn]) if turn in _STORED else upright
    assert np.array_equal(_decoded(_encoded(stored, "TIFF", exif=exif)), np.asarray(upright))


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
    assert _decoded(read_bytes(path, [tmp_path])).shape == (30, 40, 3)


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


@pytest.mark.parametrize("exif", [None, 6], ids=["plain", "with EXIF"])
def test_a_png_with_one_flipped_bit_in_its_pixels_is_refused(exif):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    block = Image.Exif()
    if exif:
        block[0x0112] = exif
    data = _encoded(noise, exif=block)
    first, length = data.index(b"IDAT") + 4, int.from_bytes(data[data.index(b"IDAT") - 4 :][:4], "big")
    for bit in [*np.random.default_rng(1).integers(0, 8 * length, 150), 8 * length + 5]:  # the last in the checksum
        damaged = bytearray(data)
        damaged[first + bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError, match="truncated or damaged"):
            _decoded(bytes(damaged))


def _profile(name):
    """A profile of a display or printer, made here: no file of another's is needed."""
    from PIL import ImageCms

    if name == "sRGB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Display P3 as a matrix profile: sRGB's with other primaries (SMPTE RP 431-2, adapted to D50).
    data = bytearray(_profile("sRGB"))
    columns = {
        "rXYZ": (0.51512, 0.2412, -0.00105),
        "gXYZ": (0.29198, 0.69225, 0.04189),
        "bXYZ": (0.1571, 0.06657, 0.78407),
    }
    for number in range(int.from_bytes(data[128:132], "big")):
        entry = 132 + 12 * number
        tag, offset = bytes(data[entry : entry + 4]).decode(), int.from_bytes(data[entry + 4 : entry + 8], "big")
        for index, value in enumerate(columns.get(tag, ())):
            data[offset + 8 + 4 * index : offset + 12 + 4 * index] = round(value * 65536).to_bytes(
                4, "big", signed=True
            )
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_display_p3_is_converted_to_srgb(kind):
    red = Image.new("RGB", (16, 16), RED)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    plain, wide = _encoded(red, kind, **options), _encoded(red, kind, icc_profile=_profile("P3"), **options)
    change = _decoded(wide)[0, 0].astype(int) - _decoded(plain)[0, 0]
    assert change[0] > 12 and change[1] < -10, "the same numbers are a stronger red in Display P3"


def test_an_srgb_profile_or_a_damaged_one_changes_no_pixel():
    photo = _wedge("RGB")
    for profile in (_profile("sRGB"), b"no profile", _profile("P3")[:200]):
        image = open_image(_encoded(photo, icc_profile=profile))
        assert decode_rgb(image) is image and np.array_equal(np.asarray(image), np.asarray(photo))


def test_a_profile_of_another_colour_space_is_ignored():
    grey = _wedge("L")
    assert np.array_equal(_decoded(_encoded(grey, icc_profile=_profile("P3"))), np.asarray(grey.convert("RGB")))


def test_transparent_pixels_are_converted_too():
    image = Image.new("RGBA", (4, 4), (*RED, 255))
    wide, plain = _decoded(_encoded(image, icc_profile=_profile("P3"))), _decoded(_encoded(image))
    assert (wide[..., 0] > plain[..., 0].astype(int) + 12).all()


def test_lab_is_converted_without_a_profile():
    lab = Image.frombytes("LAB", (1, 1), bytes([128, 0, 0]))
    assert np.abs(_decoded(_encoded(lab, "TIFF")).astype(int) - 119).max() <= 1


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_formats_of_telephones_are_read_where_a_decoder_is_there(kind):
    if kind not in decode.FORMATS:
        pytest.skip("needs the extra heif" if kind == "HEIF" else "this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = _wedge("RGB", (64, 48))
    found = _decoded(_encoded(photo.transpose(Image.Transpose.ROTATE_90), kind, quality=95, exif=exif.tobytes()))
    assert found.shape == (48, 64, 3) and np.abs(found.astype(int) - np.asarray(photo)).mean() < 3


def test_an_image_of_one_row_is_refused_before_it_is_decoded():
    with pytest.raises(DecodeError, match="too long and narrow: 100000 x 1"):
        open_image(_encoded(Image.new("L", (100_000, 1))))


def test_a_huge_sparse_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(100 * 2**30)
    with pytest.raises(DecodeError, match=r"too large: 100\.0 GiB"):
        read_bytes(tmp_path / "sparse.jpg", [tmp_path])


def test_a_link_may_lead_into_a_folder_that_is_named(tmp_path):
    root, cache = tmp_path / "root", tmp_path / "cache"
    for folder in (root, cache):
        folder.mkdir()
    (cache / "blob").write_bytes(b"x")
    (root / "a.jpg").symlink_to(cache / "blob")
    assert read_bytes(root / "a.jpg", [root, cache]) == b"x"


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
            read_bytes(root / name, [root])
