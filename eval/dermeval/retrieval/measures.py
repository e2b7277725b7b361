"""Measures of a ranking, one value a query, by the definitions of trec_eval unless a line says otherwise.

``relevant`` ``(Q, K)`` bool says whether the hit at each rank is relevant. ``total`` ``(Q,)`` counts the relevant
images of the whole gallery. Every query has at least one.
"""

import numpy as np


def hit_at(relevant: np.ndarray, k: int) -> np.ndarray:
    """1 where any of the first k hits is relevant (the recall@k of image retrieval; Success@k of trec_eval)."""
    return relevant[:, :k].any(1).astype(float)


def recall_at(relevant: np.ndarray, total: np.ndarray, k: int) -> np.ndarray:
    """Share of all relevant images that are among the first k."""
    return relevant[:, :k].sum(1) / total


def precision_at(relevant: np.ndarray, k: int) -> np.ndarray:
    """Share of the first k hits that are relevant; the denominator is k."""
    return relevant[:, :k].sum(1) / k


def average_precision_at(relevant: np.ndarray, total: np.ndarray, k: int) -> np.ndarray:
    """Precision averaged over the relevant hits among the first k. The denominator is min(k, relevant images).

    trec_eval divides by all relevant images, so a perfect ranking would not score 1 where there are more than k.
    """
    part = relevant[:, :k]
    precision = np.cumsum(part, axis=1) / np.arange(1, part.shape[1] + 1)
    return (precision * part).sum(1) / np.minimum(k, total)


def ndcg_at(relevant: np.ndarray, total: np.ndarray, k: int) -> np.ndarray:
    """Discounted gain, 1 / log2(rank + 1) for each relevant hit, over that of the best possible ranking."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(k, total)]
    part = relevant[:, :k]
    return (part * discount[: part.shape[1]]).sum(1) / best


def majority_at(labels: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """1 where most of the first k hits have the query's label; of labels that tie, the one that is nearer wins.

    ``labels`` ``(Q, K)`` are integers of the hits, negative where there is none; ``truth`` ``(Q,)`` of the queries.
    """
    votes = np.stack([(labels[:, :k] == labels[:, [rank]]).sum(1) for rank in range(min(k, labels.shape[1]))], axis=1)
    votes[labels[:, : votes.shape[1]] < 0] = 0
    winner = votes.argmax(1)  # the first of the largest, so the nearest
    return (labels[np.arange(len(labels)), winner] == truth).astype(float)
