"""Exact nearest neighbours and the weighted vote; the only module that imports faiss.

Used by the online evaluation during training and by every probe, index and audit afterwards.
"""

import faiss
import numpy as np


def normalise(features: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length as contiguous float32; a zero row stays zero."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def search(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar gallery rows of each query by inner product, best first.

    Args:
        queries: ``(Q, D)``; pass `normalise`d rows for cosine similarity.
        gallery: ``(N, D)``.
        k: clipped to N.

    Returns:
        Scores ``(Q, k)`` float32 and gallery rows ``(Q, k)`` int64. Blocked inside faiss: memory is O(Q k).
    """
    k = min(k, len(gallery))
    scores, rows = faiss.knn(
        np.ascontiguousarray(queries, dtype=np.float32),
        np.ascontiguousarray(gallery, dtype=np.float32),
        k,
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    return scores, rows


def weighted_vote(scores: np.ndarray, labels: np.ndarray, classes: int, temperature: float = 0.07) -> np.ndarray:
    """Class probabilities of DINO's weighted kNN: each neighbour votes with exp(s / T) (Caron et al. 2021).

    Args:
        scores: ``(Q, k)`` cosine similarities.
        labels: ``(Q, k)`` class indices of the neighbours.
        classes: number of classes C.
        temperature: T.

    Returns:
        ``(Q, C)`` float64, rows summing to 1.
    """
    weights = np.exp((scores - scores[:, :1]).astype(np.float64) / temperature)
    votes = np.stack([(weights * (labels == c)).sum(axis=1) for c in range(classes)], axis=1)
    return votes / votes.sum(axis=1, keepdims=True)
