"""The nearest cases: over-fetched until enough distinct groups are found, each represented by its best image."""

from typing import NamedTuple

import numpy as np

from dermssl import neighbours


class Hits(NamedTuple):
    """Rows of the index and their cosine similarities, best first, both ``(K,)``."""

    rows: np.ndarray
    similarity: np.ndarray


def nearest_cases(
    entries: neighbours.Index, feature: np.ndarray, k: int, barred: np.ndarray, groups: np.ndarray
) -> Hits:
    """The best image of each of the ``k`` most similar groups (all groups, where there are fewer).

    Args:
        entries: the index.
        feature: ``(D,)``.
        k: number of groups.
        barred: ``(N,)`` bool, rows that may not be hits (the query, its patient).
        groups: ``(N,)`` integer group of each row; hits of one group collapse to the best.
    """
    wanted = min(k, len(np.unique(groups[~barred])))
    fetch = 2 * k + int(barred.sum())
    while True:
        similarity, rows = (found[0] for found in neighbours.search_index(entries, feature[None], fetch))
        allowed = ~barred[rows]
        rows, similarity = rows[allowed], similarity[allowed]
        first = np.sort(np.unique(groups[rows], return_index=True)[1])[:wanted]
        if len(first) == wanted:
            return Hits(rows[first], similarity[first])
        fetch *= 4
