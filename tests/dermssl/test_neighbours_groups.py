"""Nearest neighbours of other groups: against all distances, for groups of one and of two kinds."""

import numpy as np
import pytest

from dermssl.neighbours import nearest_of_other_groups


@pytest.mark.parametrize("kinds", [1, 2])
def test_the_neighbours_are_the_nearest_rows_that_share_no_group_with_the_query(kinds):
    random = np.random.default_rng(0)
    features, groups = random.normal(size=(60, 5)), random.integers(9, size=(kinds, 60))
    groups[-1, 20:50] = 3  # half of the rows: most of the nearest ones are left out
    queries = np.arange(0, 60, 2)
    found = nearest_of_other_groups(features, queries, groups if kinds > 1 else groups[0], 40)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for query, rows in zip(queries, found, strict=True):
        other = np.flatnonzero(~(groups == groups[:, [query]]).any(axis=0))
        expected = other[np.argsort(-(unit[other] @ unit[query]))][:40]
        assert rows[: len(expected)].tolist() == expected.tolist() and (rows[len(expected) :] == -1).all()
