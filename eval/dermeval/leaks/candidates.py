"""Pairs of images whose embeddings are suspiciously close, after normalising scores against the background.

A raw cosine ranks pairs badly across a data set: common motifs have many near neighbours, rare ones none. As in the
descriptor evaluation of SSCD (Pizzi et al. 2022), the mean similarity of each image's background neighbours is taken
off first. Background here are the neighbours of other groups that come after the nearest, which a copy rarely is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dermssl import neighbours

BACKGROUND = 10
"""Neighbours after the nearest ones that are the image's background."""
MOST_OF_OWN_GROUP = 50
"""Of a group with more images than this, the nearest ones may fill the search and hide those of other groups."""


class Candidates(NamedTuple):
    """Candidate pairs and background pairs (columns ``a`` < ``b``, ``similarity``, ``normalised``), and the cut."""

    pairs: pd.DataFrame
    background: pd.DataFrame
    threshold: float


class _Nearest(NamedTuple):
    """Neighbours ``(N, k)`` of each query: which are near or background, and the level of the background ``(N,)``."""

    similarity: np.ndarray
    rows: np.ndarray
    near: np.ndarray
    far: np.ndarray
    level: np.ndarray


def embedding_candidates(
    features: np.ndarray, groups: np.ndarray, nearest: int, budget: float, views: Sequence[np.ndarray] = ()
) -> Candidates:
    """Nearest pairs of different groups that score above all but a share ``budget`` of the background pairs.

    Args:
        features: ``(N, D)``; centred and normalised here.
        groups: ``(N,)`` integer.
        nearest: neighbours of other groups, per image, that may become candidates.
        budget: 0 to 1, the share of background pairs that would pass the threshold.
        views: features ``(N, D)`` of turned, mirrored or cropped views of the same images; their neighbours among
            ``features`` become candidates above the same threshold.
    """
    mean = np.mean(features, axis=0, dtype=np.float64).astype(np.float32)
    features, *turned = (neighbours.normalise(part - mean) for part in (features, *views))
    plain = _nearest(features, features, groups, nearest)
    normalised = _normalised(plain, plain.level)
    threshold = float(np.quantile(normalised[plain.far], 1 - budget)) if plain.far.any() else -np.inf
    background = _table(plain.far, plain.rows, plain.similarity, normalised)
    pairs = [_table(plain.near & (normalised >= threshold), plain.rows, plain.similarity, normalised)]
    for view in turned:
        found = _nearest(view, features, groups, nearest)
        normalised = _normalised(found, plain.level)
        pairs.append(_table(found.near & (normalised >= threshold), found.rows, found.similarity, normalised))
    best = pd.concat(pairs).sort_values("normalised", ascending=False, kind="stable")
    return Candidates(best.drop_duplicates(["a", "b"], ignore_index=True), background, threshold)


def _nearest(queries: np.ndarray, gallery: np.ndarray, groups: np.ndarray, nearest: int) -> _Nearest:
    own = min(int(np.bincount(groups).max(initial=1)), MOST_OF_OWN_GROUP)
    similarity, rows = neighbours.search(queries, gallery, own + nearest + BACKGROUND)
    other = groups[rows] != groups[:, None]
    rank = np.where(other, np.cumsum(other, axis=1) - 1, nearest + BACKGROUND)
    far = (rank >= nearest) & (rank < nearest + BACKGROUND)
    level = np.where(far, similarity, 0).sum(axis=1) / np.maximum(far.sum(axis=1), 1)
    return _Nearest(similarity, rows, rank < nearest, far, level)


def _normalised(found: _Nearest, gallery_level: np.ndarray) -> np.ndarray:
    """Similarities less the mean background of the two images."""
    return found.similarity - (found.level[:, None] + gallery_level[found.rows]) / 2


def _table(chosen: np.ndarray, rows: np.ndarray, similarity: np.ndarray, normalised: np.ndarray) -> pd.DataFrame:
    query, column = np.nonzero(chosen)
    found = rows[query, column]
    table = pd.DataFrame(
        {
            "a": np.minimum(query, found),
            "b": np.maximum(query, found),
            "similarity": similarity[query, column],
            "normalised": normalised[query, column],
        }
    )
    return table.drop_duplicates(["a", "b"], ignore_index=True)
