"""Stored indexes against brute force: exact scores, filters of every share, recall, and never too few results."""

import numpy as np
import pytest

from dermssl import neighbours
from dermssl.errors import InputError

KINDS = ("flat", "scan", "ivfpq", "hnsw")


@pytest.fixture(scope="module")
def clustered():
    """5,000 unit vectors of 24 dimensions in 40 clusters, and 30 queries near some of them."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(40, 24))
    vectors = neighbours.normalise(centres[random.integers(40, size=5000)] + 0.4 * random.normal(size=(5000, 24)))
    return vectors, vectors[:30] + 0.05 * random.normal(size=(30, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def indexes(clustered):
    return {kind: neighbours.Index(clustered[0], neighbours.build_codes(clustered[0], kind)) for kind in KINDS}


def brute(vectors, queries, k, allowed=None):
    scores = neighbours.normalise(queries) @ vectors.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    rows = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1, 0.01, 0.001])
def test_filtered_search_finds_the_true_neighbours_at_every_share(clustered, indexes, kind, share, monkeypatch):
    monkeypatch.setattr(
        neighbours, "EXACT_BYTES", 200 * 4 * clustered[0].shape[1]
    )  # so that the larger shares go through the codes
    vectors, queries = clustered
    allowed = np.random.default_rng(1).random(5000) < share if share < 1 else None
    scores, rows = neighbours.search_index(indexes[kind], queries, 5, allowed)
    exact, _ = brute(vectors, queries, 5, allowed)
    assert allowed is None or allowed[rows].all()
    assert np.allclose(scores, np.take_along_axis(neighbours.normalise(queries) @ vectors.T, rows, 1), atol=1e-5)
    recall = (scores >= exact[:, -1:] - 1e-5).mean()
    assert recall == 1 if kind == "flat" else recall > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_that_is_far_from_the_query_still_gives_k(clustered, indexes, kind, monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT_BYTES", 50 * 4 * clustered[0].shape[1])
    vectors, queries = clustered
    allowed = np.zeros(5000, dtype=bool)
    allowed[np.argsort(vectors @ neighbours.normalise(queries)[0])[:300]] = True
    _, rows = neighbours.search_index(indexes[kind], queries[:1], 20, allowed)
    assert rows.shape == (1, 20) and allowed[rows].all() and len(set(rows[0])) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_never_returns_fewer_than_asked(kind):
    features = np.random.default_rng(2).normal(size=(2000, 16)).astype(np.float32)
    features[:600] = features[0]  # many copies cut an HNSW graph apart
    vectors = neighbours.normalise(features)
    index = neighbours.Index(vectors, neighbours.build_codes(vectors, kind))
    for k in (10, 700, 1990):
        _, rows = neighbours.search_index(index, features[:20], k)
        assert rows.shape == (20, k) and rows.min() >= 0 and all(len(set(row)) == k for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_measured_recall_is_that_of_brute_force(clustered, indexes, kind):
    vectors, _ = clustered
    held_out = neighbours.held_out_rows(len(vectors))
    measured = neighbours.measured_recall(indexes[kind], held_out)
    queries = vectors[np.sort(held_out)]
    assert measured["queries"] == len(held_out) and set(measured["at"]) == {"1", "10", "100"}
    exact = brute(vectors, queries, 11)[1]
    _, found = neighbours.search_index(indexes[kind], queries, 11)
    overlap = np.mean([len(set(a[1:]) & set(b[1:])) / 10 for a, b in zip(exact, found, strict=True)])
    assert measured["at"]["10"] == pytest.approx(overlap, abs=2e-3)


def test_a_query_that_does_not_find_itself_makes_no_negative_recall():
    exact, lost = np.array([[1.0, 0.9], [1.0, 0.9]]), np.array([[0.8, 0.7], [0.9, 0.7]])
    assert neighbours.recall_against(exact, {1: exact}) == {"queries": 2, "at": {"1": 1.0}}
    assert neighbours.recall_against(exact, {1: lost}) == {"queries": 2, "at": {"1": 0.5}}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_codes_read_back_give_the_same_answers(clustered, indexes, kind, tmp_path):
    vectors, queries = clustered
    neighbours.write_codes(tmp_path / "codes", indexes[kind].codes)
    again = neighbours.Index(vectors, neighbours.read_codes(tmp_path / "codes", "dermeval index", vectors))
    both = [neighbours.search_index(index, queries, 5) for index in (indexes[kind], again)]
    assert np.array_equal(both[0][1], both[1][1])


def test_appended_codes_find_the_new_rows(clustered):
    vectors, _ = clustered
    codes = neighbours.build_codes(vectors[:4000], "scan")
    neighbours.add_codes(codes, vectors[4000:])
    _, rows = neighbours.search_index(neighbours.Index(vectors, codes), vectors[4100:4120], 1)
    assert rows[:, 0].tolist() == list(range(4100, 4120))


def test_codes_of_other_vectors_or_of_another_kind_are_refused(clustered, indexes, tmp_path):
    vectors, _ = clustered
    neighbours.write_codes(tmp_path / "codes", indexes["scan"].codes)
    with pytest.raises(InputError, match="5000 entries of 24 dimensions, the vectors beside it are 4000 x 24"):
        neighbours.read_codes(tmp_path / "codes", "dermeval index", vectors[:4000])
    neighbours.write_codes(tmp_path / "codes", neighbours.faiss.IndexFlatL2(24))
    with pytest.raises(InputError, match="holds a IndexFlatL2, which `dermeval index` does not make"):
        neighbours.read_codes(tmp_path / "codes", "dermeval index", vectors)
    (tmp_path / "codes").write_bytes(b"broken")
    with pytest.raises(InputError, match="is damaged"):
        neighbours.read_codes(tmp_path / "codes", "dermeval index", vectors)


def test_a_small_index_is_exact_whatever_its_type():
    vectors = neighbours.normalise(np.random.default_rng(0).normal(size=(50, 8)))
    assert neighbours.build_codes(vectors, "scan") is None


@pytest.mark.parametrize("rows", [10, 3000])
def test_scanned_cells_find_each_row_itself_however_few_there_are(rows):
    vectors = np.random.default_rng(0).integers(0, 255, (rows, 128), dtype=np.uint8)
    codes = neighbours.build_cells(rows, lambda: iter(np.array_split(vectors, 2)), scanned=True)
    _, found = neighbours.search_cells(codes, vectors, 1)
    assert np.mean(found[:, 0] == np.arange(rows)) > 0.95
