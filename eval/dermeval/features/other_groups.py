"""Nearest neighbours among the images of other groups."""

import numpy as np

from dermssl import neighbours

QUERIES_AT_ONCE = 1024


def nearest_of_other_groups(features: np.ndarray, queries: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` rows of other groups that are most similar to each of the rows ``queries``, ``(Q, k)``, best first.

    The similarity is the cosine of ``features`` (N, D). ``groups`` (N,) are integers, or (G, N) of several kinds; a row
    of the query's group of any kind is left out. A row that is missing is -1.
    """
    unit, groups = neighbours.normalise(features), np.atleast_2d(groups)
    sizes = np.sum([np.bincount(kind)[kind] for kind in groups], axis=0)
    found = np.full((len(queries), k), -1)
    # A search makes room for the own group, so images of large groups are searched together.
    order = np.argsort(sizes[queries], kind="stable")
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = order[start : start + QUERIES_AT_ONCE]
        _, rows = neighbours.search_exact(unit[queries[part]], unit, k + int(sizes[queries[part]].max()))
        own = (groups[:, rows] == groups[:, queries[part], None]).any(axis=0)
        others = np.argsort(own, axis=1, kind="stable")[:, :k]
        rows, own = (np.take_along_axis(one, others, 1) for one in (rows, own))
        found[part, : rows.shape[1]] = np.where(own, -1, rows)
    return found
