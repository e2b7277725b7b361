"""Each kind of evidence against brute force or a known deformation."""

import functools
import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from dermeval.features.alignment import align, correlate, oriented_start, structure
from dermeval.features.letters import without_letters
from dermeval.leaks.local_features import FINE, MIRRORED_BINS, describe_picture, keypoints, mirrored_points
from dermeval.leaks.matching import consensus, local_of
from dermeval.leaks.nominate import (
    LARGEST_CLUSTER,
    Votes,
    hash_pairs,
    linked_pairs,
    nearest_pairs,
    pairs_of_equal,
    united,
    within_budget,
)
from dermeval.leaks.pictures import without_frame
from dermeval.leaks.planted import copy_of, scores_of_planted
from dermeval.leaks.verify import compare_pictures
from dermssl.dataset.hashes import perceptual_hashes


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def compare(fixed: Image.Image, moving: Image.Image, mirrored=False, orientation=-1):
    """Evidence in one world: ``inliers``, ``correlation``, ``matrix``."""
    pictures = [rgb(image) for image in (fixed, moving)]
    structures = [functools.partial(structure, picture) for picture in pictures]
    described = [local_of(describe_picture(picture)) for picture in pictures]
    found = compare_pictures(*described, structures, (orientation, orientation))
    return {name: found[name][int(mirrored)] for name in ("inliers", "correlation", "matrix")}


def rephotograph(image: Image.Image, degrees: float, crop: float, light: float) -> Image.Image:
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    box = (crop * image.width, crop * image.height, (1 - crop) * image.width, (1 - crop) * image.height)
    return ImageEnhance.Brightness(turned.resize(image.size, Image.Resampling.BICUBIC, box=box)).enhance(light)


def test_a_photo_of_a_photo_is_recognised_and_its_turn_and_size_are_measured(draw_skin):
    original = draw_skin(1, 192)
    found = compare(original, rephotograph(original, 8, 0.05, 1.2))
    assert found["inliers"] > 20 and found["correlation"] > 0.8
    linear = found["matrix"][:, :2]
    assert abs(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0]))) == pytest.approx(8, abs=0.5)
    assert np.sqrt(np.linalg.det(linear)) == pytest.approx(1 / 0.9, abs=0.02)


def test_a_part_of_half_the_side_is_found_in_the_whole(draw_skin):
    original = draw_skin(7, 192)
    found = compare(original, original.crop((60, 20, 156, 116)))
    assert found["inliers"] > 10 and found["correlation"] > 0.7


def test_other_pictures_do_not_match(draw_skin):
    for a, b in combinations(range(10, 15), 2):
        found = compare(draw_skin(a, 128), draw_skin(b, 128))
        assert found["inliers"] < 8 and found["correlation"] < 0.35


@pytest.mark.parametrize("severity", [0.3, 0.9])
def test_letters_opaque_or_not_hide_no_copy_and_make_no_other_pictures_alike(draw_skin, severity):
    pictures = [rgb(draw_skin(number, 160)) for number in (1, 2)]
    marked = [copy_of(picture, "watermark", severity, 0) for picture in pictures]
    assert all(without_letters(picture) is picture for picture in pictures)
    true, false = (compare(*(Image.fromarray(one) for one in pair)) for pair in ((pictures[0], marked[0]), marked))
    assert true["inliers"] > 20 and true["correlation"] > 0.3
    assert false["inliers"] < 8 and false["correlation"] < 0.35


def test_letters_of_a_jpeg_on_bright_red_skin_are_filled_in():
    random, x = np.random.default_rng(0), np.linspace(-1, 1, 160)
    spot = np.exp(-4 * (x[:, None] ** 2 + x**2))[..., None]
    skin = (242, 150, 130) - spot * (70, 90, 80) + 3 * random.normal(size=(160, 160, 3))
    skin = np.clip(skin, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(copy_of(skin, "watermark", 0.4, 0)).save(buffer, "JPEG", quality=95, subsampling=0)
    filled = without_letters(rgb(Image.open(buffer)))
    assert (np.abs(filled.astype(int) - skin).max(axis=2) > 40).mean() < 0.03


def test_an_even_frame_or_page_is_cut_off_and_dark_parts_of_a_picture_are_not(draw_skin):
    picture = rgb(draw_skin(1, 160))
    bars = [((0, 0), (30, 20)), ((25, 0), (0, 0)), ((40, 40), (40, 40))]
    for edges in bars:
        framed = np.pad(picture, (*edges, (0, 0)), constant_values=255)
        assert np.array_equal(without_frame(framed), picture)
    page = np.pad(np.pad(picture, ((30, 10), (40, 5), (0, 0)), constant_values=240), ((20, 0), (0, 0), (0, 0)))
    assert np.array_equal(without_frame(page), picture)
    phone = np.pad(picture[30:120], ((127, 128), (0, 0), (0, 0)))  # a wide photograph on the screen of an upright phone
    assert np.array_equal(without_frame(phone), picture[30:120])
    parted = np.concatenate([picture, np.zeros((60, 160, 3), np.uint8), picture])
    screenshot = copy_of(picture, "screenshot", 0.7, 0)  # a bar, a page and a JPEG's blurred edges
    assert without_frame(screenshot).shape[:2] == pytest.approx((111, 111), abs=4)
    for whole in (picture, parted, np.full_like(picture, 255), np.pad(picture, ((700, 0), (0, 0), (0, 0)))):
        assert without_frame(whole) is whole


def test_two_pictures_in_one_frame_are_no_copies_and_a_framed_copy_is_one(draw_skin):
    pictures = [draw_skin(number, 160) for number in (1, 2)]
    framed = [Image.fromarray(without_frame(copy_of(rgb(one), "border", 0.5, 0))) for one in pictures]
    assert framed[0].size == pictures[0].size
    assert compare(*framed)["inliers"] < 8
    assert compare(pictures[0], framed[0])["correlation"] > 0.95


@pytest.mark.parametrize("number", range(8))
def test_every_flip_and_quarter_turn_is_undone(draw_skin, number):
    original = draw_skin(2, 128)
    flipped, turns = divmod(number, 4)
    pixels = rgb(original)
    moved = Image.fromarray(np.ascontiguousarray(np.rot90(pixels[:, ::-1] if flipped else pixels, turns)))
    worlds = [compare(original, moved, mirrored) for mirrored in (False, True)]
    assert worlds[flipped]["correlation"] > 0.9 and worlds[1 - flipped]["correlation"] < 0.4


def test_a_mirrored_picture_has_the_mirrored_points_and_descriptors(draw_skin):
    grey = np.asarray(draw_skin(3, 160).convert("L"))
    points, descriptors = keypoints(grey, 200)
    theirs, others = keypoints(np.ascontiguousarray(grey[:, ::-1]), 200)
    moved = mirrored_points(points, 160)
    distance = np.linalg.norm(moved[:, None, :2] - theirs[None, :, :2], axis=-1)
    nearest, near = distance.argmin(axis=1), distance.min(axis=1) < 0.5
    ours = descriptors[:, MIRRORED_BINS].astype(float) / 255
    # CLAHE's tiles are not quite symmetrical, so not every point has its like.
    assert near.mean() > 0.5
    assert np.median((ours[near] * others[nearest[near]] / 255).sum(axis=1)) > 0.95


def test_a_flat_picture_matches_nothing(draw_skin):
    flat = Image.new("RGB", (96, 96), "tan")
    for other in (flat, draw_skin(3)):
        found = compare(flat, other, orientation=0)
        assert found["inliers"] < 4 and found["correlation"] < 0.3


def test_tiny_pictures_are_compared_without_failing():
    pictures = [np.random.default_rng(n).integers(0, 255, (4, 30, 3), dtype=np.uint8) for n in range(2)]
    first, second = (local_of(describe_picture(picture)) for picture in pictures)
    assert consensus(first, second).inliers < 4


def test_the_orientation_of_a_hash_pair_lays_the_second_image_on_the_first(draw_skin):
    base = draw_skin(4)
    for number in range(8):
        flipped, turns = divmod(number, 4)
        moved = Image.fromarray(np.ascontiguousarray(np.rot90(rgb(base)[:, ::-1] if flipped else rgb(base), turns)))
        for images in ([base, moved], [moved, base]):
            pair = hash_pairs(np.stack([perceptual_hashes(i) for i in images]), np.arange(2), bits=8).iloc[0]
            first, second = (structure(rgb(image)) for image in images)
            second = np.ascontiguousarray(second[:, ::-1]) if pair.orientation >= 4 else second
            start = oriented_start(int(pair.orientation), first.shape, second.shape)
            assert correlate(first, second, start).correlation > 0.8


def test_refining_never_makes_an_alignment_worse(draw_skin):
    first = structure(rgb(draw_skin(5, 128)))
    shifted = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]])
    refined = align(first, first, shifted)
    assert refined.correlation >= correlate(first, first, shifted).correlation and refined.correlation > 0.95
    assert refined.matrix[0, 2] == pytest.approx(0, abs=0.1)


def test_pictures_that_hardly_overlap_prove_nothing(draw_skin):
    first = structure(rgb(draw_skin(6, 128)))
    assert correlate(first, first, np.array([[1.0, 0.0, 118.0], [0.0, 1.0, 0.0]])).matrix is None


def test_hash_pairs_are_those_of_brute_force(draw_skin):
    images = [draw_skin(n, 48) for n in range(20)]
    images += [image.transpose(Image.Transpose.ROTATE_90) for image in images[:6]]
    hashes = np.stack([perceptual_hashes(image) for image in images])
    groups = np.arange(26) % 24
    found = hash_pairs(hashes, groups, bits=20)
    expected = {
        (a, b): int(
            min(np.bitwise_count(hashes[a, 0] ^ hashes[b]).min(), np.bitwise_count(hashes[b, 0] ^ hashes[a]).min())
        )
        for a, b in combinations(range(26), 2)
        if groups[a] != groups[b]
    }
    assert dict(zip(zip(found.a, found.b, strict=True), found.hash_bits, strict=True)) == {
        pair: bits for pair, bits in expected.items() if bits <= 20
    }
    assert len(found) >= 6


def test_identical_pairs_leave_out_those_of_one_group():
    values, groups = np.array(["x", "y", "x", "x", "z"]), np.array([0, 1, 0, 2, 3])
    assert pairs_of_equal(values, groups).tolist() == [[0, 3], [2, 3]]


def test_many_identical_frames_are_linked_without_all_pairs():
    count = LARGEST_CLUSTER + 30
    groups = np.arange(count) // 2
    pairs = pairs_of_equal(np.array(["blank"] * count), groups)
    assert len(pairs) < 2 * count and (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()
    assert set(pairs.ravel()) == set(range(count))


def test_planted_neighbours_are_the_first_candidates():
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 32)).astype(np.float32)
    features[500:] = features[:100] + 0.1 * random.normal(size=(100, 32))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = nearest_pairs(features, features, np.arange(600), nearest=4)
    first = found.nlargest(100, "normalised")
    assert set(zip(first.a, first.b, strict=True)) == {(row, 500 + row) for row in range(100)}


def test_neighbours_of_the_own_record_are_no_candidates_however_near():
    features = np.repeat(np.random.default_rng(1).normal(size=(50, 16)), 4, axis=0).astype(np.float32)
    groups = np.arange(200) // 4
    found = nearest_pairs(features, features, groups, nearest=4)
    assert len(found) and (groups[found.a] != groups[found.b]).all()


def test_sources_are_united_and_each_pair_says_which_found_it():
    random = np.random.default_rng(3)
    one, two = random.normal(size=(2, 40, 8)).astype(np.float32)
    tables = [
        ("colour", nearest_pairs(one, one, np.arange(40), 3)),
        ("thumbnail", nearest_pairs(two, two, np.arange(40), 3, orientation=0)),
    ]
    pairs = united(tables)
    assert not pairs.duplicated(["a", "b"]).any() and (pairs[["colour", "thumbnail"]].any(axis=1)).all()
    for name, table in tables:
        assert pairs[name].sum() == len(table)
    # Only the very nearest by thumbnail is aligned without local features that agree.
    assert 0 < (pairs["upright"] == 0).sum() <= 40 and (pairs["mirrored"] == -1).all()


def test_a_source_nominates_the_first_of_each_image_and_of_the_others_the_strongest():
    vectors = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = nearest_pairs(vectors, vectors, np.arange(60), 10)
    kept = within_budget([table], np.arange(60) + 100, first=1)
    assert (kept[["a", "b"]].to_numpy() >= 100).all() and (kept["rank"] == 0).sum() == (table["rank"] == 0).sum()
    others = kept[kept["rank"] > 0]
    assert len(others) == 60 and others["normalised"].min() >= table["normalised"][table["rank"] > 0].nlargest(60).min()


def test_what_resembles_one_image_is_compared_with_each_other():
    likely = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    compared = np.array([[0, 1], [0, 2], [1, 2], [2, 3], [3, 4]])
    found = linked_pairs(likely, compared, groups=np.array([0, 1, 2, 1, 4]), pool=np.array([0, 0, 0, 0, 1]))
    assert not len(found)
    found = linked_pairs(likely, compared, groups=np.arange(5), pool=np.zeros(5, int))
    assert found.tolist() == [[1, 3], [2, 4]]


def test_local_features_vote_for_a_part_of_the_picture_and_for_its_mirror_image(draw_skin):
    images = [rgb(draw_skin(n, 128)) for n in range(12)]
    images += [images[0][20:100, 30:110], np.ascontiguousarray(images[1][:, ::-1])]
    block = np.stack([describe_picture(image) for image in images])
    votes = Votes(lambda: [(0, block[:5]), (5, block[5:10]), (10, block[10:])], FINE, np.arange(14))
    one, three = (votes.pairs(np.arange(14), 3, False, workers) for workers in (1, 3))
    assert one.equals(three)
    upright, mirrored = (
        votes.pairs(np.arange(14), 3, mirror).sort_values("normalised", ascending=False) for mirror in (False, True)
    )
    assert tuple(upright[["a", "b"]].iloc[0].astype(int)) == (0, 12)
    assert tuple(mirrored[["a", "b"]].iloc[0].astype(int)) == (1, 13)


def test_placeholders_that_differ_in_noise_do_not_make_a_pair_of_every_two():
    random = np.random.default_rng(0)
    one = random.integers(2**63, size=8, dtype=np.uint64)
    hashes = np.repeat(one[None], 300, axis=0) ^ (np.uint64(1) << random.integers(0, 64, (300, 8), dtype=np.uint64))
    pairs = hash_pairs(hashes, np.arange(300), 6)
    assert 300 <= len(pairs) <= 300 * LARGEST_CLUSTER and set(pairs["a"]) | set(pairs["b"]) == set(range(300))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (8, 8, 3), (15, 400, 3)])
def test_no_copy_is_planted_in_a_tiny_picture(shape, monkeypatch):
    monkeypatch.setattr("dermeval.leaks.planted.content", lambda _: np.full(shape, 90, np.uint8))
    assert not len(scores_of_planted([None], 22, FINE, 1))
