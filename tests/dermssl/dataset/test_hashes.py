"""Copies are known by their bytes, their pixels, or their look."""

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dermssl.dataset.hashes import perceptual_hashes, pixel_hash


@pytest.fixture
def photo():
    grid = np.random.default_rng(0).integers(0, 255, (10, 14, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((210, 150), Image.Resampling.BICUBIC)


def test_the_pixel_hash_is_sha256_of_size_and_pixels(photo):
    assert pixel_hash(photo) == hashlib.sha256(b"210x150:" + photo.tobytes()).hexdigest()


def test_one_changed_pixel_or_another_shape_changes_the_pixel_hash(photo):
    changed = photo.copy()
    changed.putpixel((209, 149), (1, 2, 3))
    assert pixel_hash(changed) != pixel_hash(photo)
    flat = Image.new("RGB", (4, 6))
    assert pixel_hash(flat) != pixel_hash(Image.new("RGB", (6, 4)))


def test_the_first_perceptual_hash_survives_resizing_and_resaving(photo):
    smaller = photo.resize((120, 86), Image.Resampling.BILINEAR)
    assert np.bitwise_count(perceptual_hashes(photo)[0] ^ perceptual_hashes(smaller)[0]) <= 4


def test_a_flipped_or_turned_copy_matches_one_of_the_eight(photo):
    eight = perceptual_hashes(photo)
    assert len(set(eight.tolist())) == 8
    for copy in (ImageOps.mirror(photo), ImageOps.flip(photo), photo.rotate(90, expand=True), photo.rotate(180)):
        assert np.bitwise_count(eight ^ perceptual_hashes(copy)[0]).min() <= 2
        assert np.bitwise_count(eight[0] ^ perceptual_hashes(copy)[0]) > 10


def test_strangers_differ_in_about_half_of_the_bits():
    random = np.random.default_rng(1)
    strangers = [Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(20)]
    hashes = np.array([perceptual_hashes(image)[0] for image in strangers])
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])[np.triu_indices(20, 1)]
    assert 28 < distances.mean() < 36 and distances.min() > 10
