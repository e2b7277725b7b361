"""One decode of a large JPEG, at the scale that is needed, gives its hashes and the stored image."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from PIL.MpoImagePlugin import MpoImageFile

from dermssl.dataset.store import encode, strip_metadata
from dermssl.prepare.decode import open_image, reduction
from dermssl.prepare.measure import decode_one

TURNED = 6
"""EXIF orientation of a phone held upright: to be turned by 90 degrees to the right."""


def _photo(size):
    """Detail throughout, so that half a pixel of displacement shows."""
    grid = np.random.default_rng(0).integers(40, 215, (45, 60, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)


def _jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "JPEG"), quality=90, **options)
    return buffer.getvalue()


def _exif(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


@pytest.fixture
def measure(tmp_path):
    """``measure(data, short_side=96)`` -> measurements and the stored image of a file with these bytes."""

    def run(data, short_side=96):
        (tmp_path / "photo").write_bytes(data)
        measured, jpeg = decode_one("photo", tmp_path, short_side)
        return measured, jpeg and Image.open(io.BytesIO(jpeg))

    return run


@pytest.mark.parametrize(
    ("short", "scale"), [(475, 1), (1023, 1), (1024, 2), (2047, 2), (2048, 4), (4096, 8), (9000, 8)]
)
def test_a_jpeg_is_reduced_as_far_as_512_pixels_are_left(short, scale):
    image = Image.new("L", (1, 1))
    header = _jpeg(image)
    frame = header.index(b"\xff\xc0") + 5
    sized = header[:frame] + short.to_bytes(2, "big") + (9500).to_bytes(2, "big") + header[frame + 4 :]
    assert reduction(open_image(sized), 512) == scale


def test_other_formats_are_never_reduced():
    buffer = io.BytesIO()
    Image.new("L", (2048, 2048)).save(buffer, "PNG")
    assert reduction(open_image(buffer.getvalue()), 512) == 1


def test_the_pixel_hash_of_a_large_jpeg_is_of_the_decoders_own_reduced_picture(measure):
    data = _jpeg(_photo((1600, 1200)))
    reduced = Image.open(io.BytesIO(data))
    reduced.draft(None, (800, 600))
    expected = hashlib.sha256(b"800x600:" + reduced.tobytes()).hexdigest()
    for short_side in (96, 512, 900, 4000):
        measured, stored = measure(data, short_side)
        assert measured["pixel_sha256"] == expected, "the hash must not depend on --short-side"
        assert min(stored.size) == min(short_side, 1200)
        assert (measured["width"], measured["height"]) == (1600, 1200)


def test_twelve_megapixels_that_differ_in_metadata_alone_have_one_pixel_hash(measure):
    jpeg = _jpeg(_photo((4000, 3000)), comment=b"left arm", exif=_exif(1))
    original, stored = measure(jpeg)
    stripped, again = measure(strip_metadata(jpeg))
    assert original["sha256"] != stripped["sha256"] and original["pixel_sha256"] == stripped["pixel_sha256"]
    assert stored.tobytes() == again.tobytes() and stored.size == (128, 96)
    assert "comment" not in stored.info


def test_another_large_picture_has_another_pixel_hash(measure):
    photo = _photo((2400, 1800))
    before, _ = measure(_jpeg(photo))
    photo.paste((0, 0, 0), (1200, 900, 1216, 916))
    assert measure(_jpeg(photo))[0]["pixel_sha256"] != before["pixel_sha256"]


def test_the_sizes_are_of_the_upright_picture_whatever_the_format(measure):
    photo = _photo((60, 40))
    for kind in ("JPEG", "PNG", "TIFF"):
        measured, stored = measure(_jpeg(photo, format=kind, exif=_exif(TURNED)))
        sizes = [measured[name] for name in ("width", "height", "stored_width", "stored_height")]
        assert sizes == [40, 60, 40, 60] and stored.size == (40, 60), kind


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_below_1024_pixels_a_lossless_copy_has_the_pixel_hash_of_the_jpeg(measure, kind):
    jpeg = _jpeg(_photo((1040, 1023)))
    copy = _jpeg(Image.open(io.BytesIO(jpeg)), format=kind)
    assert measure(copy)[0]["pixel_sha256"] == measure(jpeg)[0]["pixel_sha256"]


def test_the_pixel_hash_is_of_the_upright_picture(measure):
    sideways = _photo((1600, 1200)).transpose(Image.Transpose.ROTATE_90)
    measured, stored = measure(_jpeg(sideways, exif=_exif(TURNED)))
    reduced = Image.open(io.BytesIO(_jpeg(sideways)))
    reduced.draft(None, (600, 800))
    upright = reduced.transpose(Image.Transpose.ROTATE_270)
    assert measured["pixel_sha256"] == hashlib.sha256(b"800x600:" + upright.tobytes()).hexdigest()
    assert stored.size == (128, 96) and (measured["width"], measured["height"]) == (1600, 1200)


@pytest.mark.parametrize(
    ("size", "turn", "short_side"),
    [((1600, 1200), 1, 160), ((2735, 2051), 1, 384), ((1031, 1733), TURNED, 384), ((1031, 1733), 1, 512)],
)
def test_the_stored_image_loses_no_more_than_a_full_decode_and_a_lanczos_resize(measure, size, turn, short_side):
    data = _jpeg(_photo(size), exif=_exif(turn))
    stored = measure(data, short_side)[1]
    full = Image.open(io.BytesIO(data))
    full = full.transpose(Image.Transpose.ROTATE_270) if turn == TURNED else full
    reference = full.resize(stored.size, Image.Resampling.LANCZOS)
    best = Image.open(io.BytesIO(encode(reference)))
    assert _difference(stored, reference) < _difference(best, reference) + 0.15


def _difference(one, other):
    """Mean absolute difference, grey levels of 255."""
    return np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean()


@pytest.fixture(params=["MPO", "JPEG"])
def seen_as(request, monkeypatch):
    """What Pillow takes a JPEG with further pictures behind it for: it does not know all of them as MPO."""

    def unknown(*_):
        raise TypeError

    if request.param == "JPEG":
        monkeypatch.setattr(MpoImageFile, "adopt", unknown)
    return request.param


@pytest.mark.parametrize("size", [(1600, 1200), (80, 60)])
def test_a_phone_picture_with_further_pictures_behind_it_is_that_picture_alone(measure, seen_as, size):
    photo = _photo(size)
    several = _jpeg(photo, format="MPO", save_all=True, append_images=[photo.resize((160, 120))])
    assert several.count(b"\xff\xd8\xff") == 2 and Image.open(io.BytesIO(several)).format == seen_as
    (measured, stored), (alone, expected) = measure(several), measure(_jpeg(photo))
    assert measured["pixel_sha256"] == alone["pixel_sha256"] and not measured["note"]
    assert stored.tobytes() == expected.tobytes()


def test_a_reduced_picture_of_just_the_right_size_is_not_mistaken_for_the_file(measure):
    measured, stored = measure(_jpeg(_photo((3000, 2048))), 512)
    assert (measured["stored_width"], measured["stored_height"]) == stored.size == (750, 512)


def test_a_large_jpeg_that_is_cut_off_is_refused_though_less_of_it_is_decoded(measure):
    data = _jpeg(_photo((1600, 1200)))
    measured, stored = measure(data[: len(data) * 3 // 4])
    assert stored is None and "truncated" in measured["problem"]


@pytest.mark.parametrize(("kind", "told"), [("GIF", True), ("TIFF", True), ("WEBP", True), ("MPO", False)])
def test_further_pages_and_frames_are_told_but_not_the_second_picture_of_a_phone(tmp_path, kind, told):
    pages = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "photo", kind, save_all=True, append_images=pages[1:])
    measured, jpeg = decode_one("photo", tmp_path, 96)
    assert bool(measured["note"]) == told
    red, _, blue = Image.open(io.BytesIO(jpeg)).getpixel((5, 5))
    assert red > 200 > 50 > blue
