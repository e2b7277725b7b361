"""Measures of a ranking, one value per query, as trec_eval defines them unless a docstring says otherwise.

``relevant`` ``(Q, K)`` (bool) says whether the hit at each rank is relevant. ``total`` ``(Q,)`` is the number of
relevant images in the gallery, at least 1.
"""

import numpy as np


def measures_at(relevant: np.ndarray, total: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """The measures of the first k hits, by name:

    - ``hit``: 1 if any of them is relevant (recall@k in image retrieval, Success@k in trec_eval);
    - ``recall``: the share of all relevant images that are among them;
    - ``P``: the share of them that is relevant; the denominator is k;
    - ``mAP``: precision averaged over the relevant ones. The denominator is min(k, relevant images). trec_eval divides
      by all relevant images, so that a perfect ranking scores below 1 if there are more than k;
    - ``nDCG``: the gain, 1 / log2(rank + 1) for each relevant hit, divided by that of the best possible ranking.
    """
    part, most = relevant[:, :k], np.minimum(k, total)
    precision = np.cumsum(part, axis=1) / np.arange(1, part.shape[1] + 1)
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], np.cumsum(discount)])[most]
    return {
        "hit": part.any(1).astype(float),
        "recall": part.sum(1) / total,
        "P": part.sum(1) / k,
        "mAP": (precision * part).sum(1) / most,
        "nDCG": (part * discount[: part.shape[1]]).sum(1) / best,
    }


def majority_at(labels: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """1 if the most frequent label of the first k hits is the query's label. Ties go to the label of the nearer hit.

    ``labels`` ``(Q, K)`` are integer labels of the hits, negative if there is none; ``truth`` ``(Q,)`` of the queries.
    """
    votes = np.stack([(labels[:, :k] == labels[:, [rank]]).sum(1) for rank in range(min(k, labels.shape[1]))], axis=1)
    votes[labels[:, : votes.shape[1]] < 0] = 0
    winner = votes.argmax(1)  # the first of the largest, so the nearest
    return (labels[np.arange(len(labels)), winner] == truth).astype(float)
