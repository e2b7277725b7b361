"""Nearest neighbours among the images of other groups."""

import numpy as np

from dermssl import neighbours

QUERIES_AT_ONCE = 1024


def nearest_of_other_groups(features: np.ndarray, queries: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` rows of other groups that are most similar to each of the rows ``queries``, ``(Q, k)``, best first.

    The similarity is the cosine of ``features`` (N, D); ``groups`` (N,) are integers. A row that is missing is -1.
    """
    unit, sizes = neighbours.normalise(features), np.bincount(groups)[groups]
    found = np.full((len(queries), k), -1)
    # A search makes room for the own group, so images of large groups are searched together.
    order = np.argsort(sizes[queries], kind="stable")
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = order[start : start + QUERIES_AT_ONCE]
        own = groups[queries[part]][:, None]
        _, rows = neighbours.search_exact(unit[queries[part]], unit, k + int(sizes[queries[part]].max()))
        others = np.argsort(groups[rows] == own, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(rows, others, 1)
        found[part, : rows.shape[1]] = np.where(groups[rows] == own, -1, rows)
    return found
