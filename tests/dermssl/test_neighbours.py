"""The two engines of the nearest-neighbour search find the same rows, also among near-duplicates and ties."""

import numpy as np
import pytest
import torch

from dermssl import bf16_scan, neighbours

K = 10


@pytest.fixture(scope="module")
def clustered():
    """Unit queries ``(60, 48)`` and gallery ``(9000, 48)``: noisy copies of 1,500 rows that share a strong mean."""
    random = np.random.default_rng(0)
    originals = random.normal(size=(1500, 48)) + 2

    def copies(number):
        return neighbours.normalise(
            originals[random.integers(1500, size=number)] + random.normal(0, 0.05, (number, 48))
        )

    return copies(60), copies(9000)


def test_the_bf16_scan_returns_the_exact_neighbours(clustered):
    queries, gallery = clustered
    scores, rows = neighbours.search(queries, gallery, K, engine="bf16")
    exact = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    expected = np.argsort(-exact, axis=1)[:, :K]
    # Rows closer than float32 can tell apart may change places; everything else may not.
    assert np.allclose(np.take_along_axis(exact, rows, 1), np.take_along_axis(exact, expected, 1), atol=5e-7)
    assert np.allclose(scores, np.take_along_axis(exact, rows, 1), atol=5e-7)
    assert (rows == expected).mean() > 0.99


def test_most_queries_are_certified_without_a_second_search(clustered):
    assert bf16_scan.scan(*clustered, K).certain.mean() > 0.9


def test_no_exact_score_lies_outside_the_proven_bound(clustered):
    queries, gallery = (torch.from_numpy(rows) for rows in clustered)
    stored, rounded = bf16_scan._Gallery(gallery), queries.bfloat16()
    approximate = (rounded @ stored.rounded[: len(gallery)].T).double()
    exact = queries.double() @ gallery.double().T
    bound = bf16_scan._bound(queries, rounded, stored)
    assert (exact <= bound.highest(approximate)).all()
    assert not bound.violated(approximate, exact).any()
    # The bound is of use: what it allows is far below the spread of the scores, and a shift as large is noticed.
    assert bound.distance.max() < 0.1 * exact.std()
    assert bound.violated(approximate, exact + 0.05).all()


def test_equal_scores_come_in_the_order_of_the_float32_search():
    random = np.random.default_rng(0)
    # Products of small whole numbers are exact in float32, so the three copies of a row tie to the bit.
    queries, once = (random.integers(-50, 51, (number, 48)).astype(np.float32) for number in (60, 3000))
    gallery = np.concatenate([once] * 3)
    for k in (9, 10):  # 10 ends within a triple: the scan leaves such queries to the float32 search
        both = [neighbours.search(queries, gallery, k, engine=engine) for engine in ("bf16", "float32")]
        assert np.array_equal(both[0][0], both[1][0]) and np.array_equal(both[0][1], both[1][1])
    assert bf16_scan.scan(queries, gallery, 9).certain.mean() > 0.5
    assert not bf16_scan.scan(queries, gallery, 10).certain.any()


def hopeless(gallery):
    """The same row everywhere: nothing can be certified."""
    gallery[:] = gallery[0]


def endless(gallery):
    """A row that overflows."""
    gallery[7] = 3e38


def without_length(gallery):
    """Rows of zeros, as `normalise` leaves them."""
    gallery[:] = 0


@pytest.mark.parametrize("spoil", [hopeless, endless, without_length])
def test_what_the_scan_cannot_certify_is_left_to_the_float32_search(clustered, spoil):
    queries, gallery = clustered[0], clustered[1].copy()
    spoil(gallery)
    assert not bf16_scan.scan(queries, gallery, K).certain.any()
    both = [neighbours.search(queries, gallery, K, engine=engine) for engine in ("bf16", "float32")]
    assert np.array_equal(both[0][0], both[1][0]) and np.array_equal(both[0][1], both[1][1])


def test_a_small_gallery_and_no_queries_are_searched_too(clustered):
    queries, gallery = clustered
    _, rows = neighbours.search(queries, gallery[:7], K, engine="bf16")
    assert sorted(rows[0]) == list(range(7))
    assert neighbours.search(queries[:0], gallery, K, engine="bf16")[1].shape == (0, K)


def test_auto_takes_bf16_only_where_it_pays_and_the_processor_has_it(clustered, monkeypatch):
    queries, gallery = clustered
    used = []
    real = bf16_scan.scan
    monkeypatch.setattr(bf16_scan, "scan", lambda *a: used.append(1) or real(*a))
    monkeypatch.setattr(bf16_scan, "multiplies_bf16", lambda: True)
    neighbours.search(queries, gallery, K)
    assert not used
    monkeypatch.setattr(neighbours, "BF16_QUERIES", 10)
    monkeypatch.setattr(neighbours, "BF16_GALLERY", 1000)
    neighbours.search(queries, gallery, K)
    assert len(used) == 1
    monkeypatch.setattr(bf16_scan, "multiplies_bf16", lambda: False)
    neighbours.search(queries, gallery, K)
    assert len(used) == 1
