"""Each kind of evidence against brute force or a known deformation."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from dermeval.leaks import turns
from dermeval.leaks.alignment import compare, look
from dermeval.leaks.candidates import embedding_candidates
from dermeval.leaks.fingerprints import LARGEST_CLUSTER, hash_pairs, identical_pairs
from dermeval.leaks.groups import leak_groups, repaired, straddling
from dermssl.dataset.hashes import hamming, perceptual_hashes


def align(fixed: Image.Image, moving: Image.Image):
    ours, theirs = look(fixed), look(moving)
    return compare(ours, theirs, turns.search(ours.coarse, turns.turned(theirs.coarse)).affine)


def rephotograph(image: Image.Image, degrees: float, crop: float, light: float) -> Image.Image:
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    box = (crop * image.width, crop * image.height, (1 - crop) * image.width, (1 - crop) * image.height)
    return ImageEnhance.Brightness(turned.resize(image.size, Image.Resampling.BICUBIC, box=box)).enhance(light)


def test_a_photo_of_a_photo_is_recognised_and_its_turn_and_size_are_measured(draw_skin):
    original = draw_skin(1, 192)
    match = align(original, rephotograph(original, 8, 0.05, 1.2))
    assert match.agreement > 0.85
    assert abs(match.degrees) == pytest.approx(8, abs=0.5) and match.scale == pytest.approx(1 / 0.9, abs=0.02)
    assert not match.mirrored


def test_other_pictures_do_not_agree(draw_skin):
    assert max(align(draw_skin(a, 128), draw_skin(b, 128)).agreement for a, b in combinations(range(10, 16), 2)) < 0.4


@pytest.mark.parametrize("number", range(8))
def test_every_flip_and_quarter_turn_is_undone(draw_skin, number):
    original = draw_skin(2, 128)
    moved = Image.fromarray(np.ascontiguousarray(turns.orient(np.asarray(original), number)))
    match = align(original, moved)
    assert match.agreement > 0.95 and match.mirrored == (number >= 4)


def test_a_flat_picture_agrees_with_nothing(draw_skin):
    assert align(Image.new("RGB", (96, 96), "tan"), draw_skin(3)).agreement < 0.3
    assert align(Image.new("RGB", (96, 96), "tan"), Image.new("RGB", (96, 96), "tan")).agreement < 0.3


def test_hash_pairs_are_those_of_brute_force(draw_skin):
    images = [draw_skin(n, 48) for n in range(20)]
    images += [image.transpose(Image.Transpose.ROTATE_90) for image in images[:6]]
    hashes = np.stack([perceptual_hashes(image) for image in images])
    groups = np.arange(26) % 24
    found = hash_pairs(hashes, groups, bits=20)
    expected = {
        (a, b): int(min(hamming(hashes[a, 0], hashes[b]).min(), hamming(hashes[b, 0], hashes[a]).min()))
        for a, b in combinations(range(26), 2)
        if groups[a] != groups[b]
    }
    assert dict(zip(zip(found.a, found.b, strict=True), found.hash_bits, strict=True)) == {
        pair: bits for pair, bits in expected.items() if bits <= 20
    }
    assert len(found) >= 6


def test_the_orientation_of_a_hash_pair_lays_the_second_image_on_the_first(draw_skin):
    base = draw_skin(4)
    for number in range(8):
        moved = Image.fromarray(np.ascontiguousarray(turns.orient(np.asarray(base), number)))
        for images in ([base, moved], [moved, base]):
            pair = hash_pairs(np.stack([perceptual_hashes(i) for i in images]), np.arange(2), bits=8).iloc[0]
            first, second = (look(image).coarse for image in images)
            assert turns.as_oriented(first, second, int(pair.orientation)).correlation > 0.9


def test_identical_pairs_leave_out_those_of_one_group():
    values, groups = np.array(["x", "y", "x", "x", "z"]), np.array([0, 1, 0, 2, 3])
    assert identical_pairs(values, groups).tolist() == [[0, 3], [2, 3]]


def test_many_identical_frames_are_one_group_without_all_pairs():
    count = LARGEST_CLUSTER + 30
    groups = np.arange(count) // 2
    pairs = identical_pairs(np.array(["blank"] * count), groups)
    assert len(pairs) < 2 * count and (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()
    assert set(leak_groups(groups, pd.DataFrame(pairs, columns=["a", "b"]))) == {1}


def test_planted_neighbours_are_the_first_candidates_and_the_budget_is_kept():
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 32))
    features[500:] = features[:100] + 0.1 * random.normal(size=(100, 32))
    found = embedding_candidates(features.astype(np.float32), np.arange(600), nearest=4, budget=0.01)
    planted = {(row, 500 + row) for row in range(100)}
    first = found.pairs.nlargest(100, "normalised")
    assert set(zip(first.a, first.b, strict=True)) == planted
    assert (found.background.normalised > found.threshold).mean() <= 0.02


def test_a_copy_that_only_a_turned_view_is_near_becomes_a_candidate_by_that_view():
    random = np.random.default_rng(2)
    features, turned = random.normal(size=(2, 300, 32)).astype(np.float32)
    turned[:20] = features[200:220] + 0.1 * random.normal(size=(20, 32))
    groups = np.arange(300)
    planted = {(row, 200 + row) for row in range(20)}
    plain = embedding_candidates(features, groups, nearest=4, budget=0.01)
    assert len(planted & set(zip(plain.pairs.a, plain.pairs.b, strict=True))) < 5
    found = embedding_candidates(features, groups, nearest=4, budget=0.01, views=[turned])
    assert planted == set(zip(found.pairs.a[:20], found.pairs.b[:20], strict=True))
    assert found.threshold == plain.threshold and found.background.equals(plain.background)


def test_neighbours_of_the_own_group_are_no_candidates_however_near():
    features = np.repeat(np.random.default_rng(1).normal(size=(50, 16)), 4, axis=0).astype(np.float32)
    groups = np.arange(200) // 4
    found = embedding_candidates(features, groups, nearest=4, budget=1.0)
    assert len(found.pairs) and (groups[found.pairs.a] != groups[found.pairs.b]).all()


def test_the_repaired_split_has_no_leak_group_on_two_sides():
    groups = np.array([0, 0, 1, 2, 3, 4, 5])
    split = pd.Series(["test", "test", "train", "val", None, "test", "test"])
    pairs = pd.DataFrame({"a": [0, 3, 5], "b": [2, 4, 6]})
    leaks = leak_groups(groups, pairs)
    assert leaks.tolist() == [1, 1, 1, 2, 2, 3, 3]
    assert straddling(leaks, split).tolist() == [1, 2]
    fixed = repaired(leaks, split)
    assert fixed.fillna("none").tolist() == ["train", "train", "train", "train", "none", "test", "test"]
    assert len(straddling(leaks, fixed)) == 0
