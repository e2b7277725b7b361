"""The search finds the exact neighbours, and the weighted vote is the one of the paper."""

import numpy as np
import pytest

from dermssl import neighbours

K = 10


@pytest.fixture(scope="module")
def clustered():
    """Queries ``(60, 48)`` and gallery ``(9000, 48)``: noisy copies of 1,500 rows that share a strong mean."""
    random = np.random.default_rng(0)
    originals = random.normal(size=(1500, 48)) + 2

    def copies(number):
        return originals[random.integers(1500, size=number)] + random.normal(0, 0.05, (number, 48))

    return copies(60), copies(9000)


def exact_cosine(queries, gallery):
    queries, gallery = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery))
    return queries @ gallery.T


def test_the_search_returns_the_exact_neighbours_among_near_duplicates(clustered):
    scores, rows = neighbours.search_exact(*map(neighbours.normalise, clustered), K)
    exact = exact_cosine(*clustered)
    expected = np.argsort(-exact, axis=1)[:, :K]
    # Rows closer than float32 can tell apart may change places; everything else may not.
    assert np.allclose(np.take_along_axis(exact, rows, 1), np.take_along_axis(exact, expected, 1), atol=5e-7)
    assert np.allclose(scores, np.take_along_axis(exact, rows, 1), atol=5e-7)
    assert (rows == expected).mean() > 0.99


def test_a_small_gallery_and_no_queries_are_searched_too(clustered):
    queries, gallery = clustered
    _, rows = neighbours.search_exact(queries, gallery[:7], K)
    assert sorted(rows[0]) == list(range(7))
    assert neighbours.search_exact(queries[:0], gallery, K)[1].shape == (0, K)


def test_the_protocol_votes_as_the_paper_does_for_every_k_and_temperature(clustered):
    queries, gallery = clustered
    labels = np.random.default_rng(1).integers(3, size=len(gallery))
    votes, rows = neighbours.knn_votes(queries, gallery, labels, 3, [5, K], [0.07, np.inf])
    exact = exact_cosine(queries, gallery)
    assert rows.shape == (60, K) and set(votes) == {(5, 0.07), (5, np.inf), (K, 0.07), (K, np.inf)}
    for (k, temperature), found in votes.items():
        weights = np.exp(np.take_along_axis(exact, rows[:, :k], 1) / temperature)
        expected = np.stack([np.where(labels[rows[:, :k]] == c, weights, 0).sum(1) for c in range(3)], axis=1)
        assert np.allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)
