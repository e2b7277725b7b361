"""Pairs of images that are the same file, the same pixels, or close in their perceptual hash."""

from itertools import combinations

import numpy as np
import pandas as pd

from dermssl.neighbours import near_images

LARGEST_CLUSTER = 50
"""Of more identical images than this (blank frames), each is paired with one other instead of with all."""


def identical_pairs(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Pairs of rows ``(P, 2)``, first < second, of equal value and different group."""
    pairs: list[tuple[int, int]] = []
    rows = pd.Series(np.arange(len(values))).groupby(values)
    for cluster in (members.to_numpy() for _, members in rows if len(members) > 1):
        if len(cluster) <= LARGEST_CLUSTER:
            pairs += [(a, b) for a, b in combinations(cluster, 2) if groups[a] != groups[b]]
        else:
            pairs += _linked_to_one(cluster, groups)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _linked_to_one(cluster: np.ndarray, groups: np.ndarray) -> list[tuple[int, int]]:
    """Each row with the first one, or where that is its own group with the first of another; still one component."""
    other = cluster[groups[cluster] != groups[cluster[0]]][:1]
    pairs = {(cluster[0], b) for b in cluster if groups[b] != groups[cluster[0]]}
    pairs |= {(min(a, b), max(a, b)) for a in other for b in cluster if groups[b] == groups[cluster[0]]}
    return sorted(pairs)


def hash_pairs(hashes: np.ndarray, groups: np.ndarray, bits: int) -> pd.DataFrame:
    """Pairs whose hashes are within ``bits``, for any flip or quarter turn of the second image.

    Args:
        hashes: ``(N, 8)`` uint64 of `dermssl.dataset.hashes.perceptual_hashes`.
        groups: ``(N,)``; pairs of one group are left out.
        bits: largest Hamming distance.

    Returns:
        Columns ``a`` < ``b`` (rows), ``hash_bits``, ``orientation`` (which of the 8 views of ``b`` looks like ``a``).
    """
    a, b, orientation, distance = near_images(hashes, hashes, bits)
    swapped = a > b
    # The view of b that looks like a, seen from the other side: mirrored views undo themselves, turns turn back.
    orientation = np.where(swapped & (orientation < 4), -orientation % 4, orientation)
    table = pd.DataFrame(
        {"a": np.minimum(a, b), "b": np.maximum(a, b), "hash_bits": distance, "orientation": orientation}
    )
    table = table[groups[table["a"]] != groups[table["b"]]]
    return table.sort_values(["a", "b", "hash_bits"]).drop_duplicates(["a", "b"], ignore_index=True)
