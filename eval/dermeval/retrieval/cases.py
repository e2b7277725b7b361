"""The nearest cases: over-fetched until enough distinct groups are found, each represented by its best image."""

from typing import NamedTuple

import numpy as np

from dermssl import neighbours


class Hits(NamedTuple):
    """Rows of the index and their cosine similarities, best first, both ``(K,)``."""

    rows: np.ndarray
    similarity: np.ndarray


def nearest_cases(
    entries: neighbours.Index,
    feature: np.ndarray,
    k: int,
    own: np.ndarray,
    groups: np.ndarray | None,
    allowed: np.ndarray | None = None,
) -> Hits:
    """The best image of each of the ``k`` most similar groups (all groups, where there are fewer).

    Args:
        entries: the index.
        feature: ``(D,)``.
        k: number of groups.
        own: rows that may not be hits (the query, its patient).
        groups: ``(N,)`` integer group of each row; hits of one group collapse to the best. None: each row by itself.
        allowed: ``(N,)`` bool, the rows that pass a filter; None: all.
    """
    fetch = 2 * k + len(own)
    while True:
        similarity, rows = (found[0] for found in neighbours.search_index(entries, feature[None], fetch, allowed))
        others = ~np.isin(rows, own)
        hits, close = rows[others], similarity[others]
        first = np.arange(len(hits)) if groups is None else np.sort(np.unique(groups[hits], return_index=True)[1])
        if len(first) >= k or len(rows) < fetch:
            return Hits(hits[first[:k]], close[first[:k]])
        fetch *= 4
