"""Threshold-free scores of one class against the rest, for many weighted resamples at once."""

import numpy as np

from dermeval.statistics.metrics import ratio


class Ranking:
    """The order in which one class's scores put the rows; sorted once, then scored under any weights.

    All methods take what `cumulate` returns and give ``(B,)``. Ties are one threshold, as in scikit-learn.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray, clusters: np.ndarray) -> None:
        """``positive`` ``(N,)`` bool, ``scores`` ``(N,)``, ``clusters`` ``(N,)`` integer codes into the weights."""
        order = np.argsort(-scores, kind="stable")
        up, down = order[positive[order]], order[~positive[order]]
        self.up_clusters, self.down_clusters = clusters[up], clusters[down]
        above, below = -scores[up], -scores[down]
        self.up_to_own_score = np.searchsorted(above, above, side="right")
        self.down_above = np.searchsorted(below, above, side="left")
        self.down_to_own_score = np.searchsorted(below, above, side="right")
        self.up_above_down = np.searchsorted(above, below, side="left")
        self.down_to_down_score = np.searchsorted(below, below, side="right")

    def cumulate(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights of the positives ``(P, B)``, and running sums of positives and negatives from the top."""
        ups = weights[self.up_clusters]
        return ups, _running(ups), _running(weights[self.down_clusters])

    def auroc(self, ups: np.ndarray, up_sums: np.ndarray, down_sums: np.ndarray) -> np.ndarray:
        """Area under the ROC curve (Mann-Whitney: negatives below, ties half); NaN without either side."""
        above = 0.5 * (down_sums[self.down_above] + down_sums[self.down_to_own_score])
        lost = np.einsum("pb,pb->b", ups, above)
        pairs = up_sums[-1] * down_sums[-1]
        return np.where(pairs > 0, 1 - ratio(lost, pairs), np.nan)

    def average_precision(self, ups: np.ndarray, up_sums: np.ndarray, down_sums: np.ndarray) -> np.ndarray:
        """Precision averaged over the recalled positives (no interpolation); NaN without positives."""
        found, wrong = up_sums[self.up_to_own_score], down_sums[self.down_to_own_score]
        total = np.einsum("pb,pb->b", ups, ratio(found, found + wrong))
        return np.where(up_sums[-1] > 0, ratio(total, up_sums[-1]), np.nan)

    def sensitivity_at(
        self, specificity: float, ups: np.ndarray, up_sums: np.ndarray, down_sums: np.ndarray
    ) -> np.ndarray:
        """Highest sensitivity of any threshold whose specificity is at least ``specificity``."""
        allowed = (1 - specificity) * down_sums[-1] + 1e-9
        too_many = down_sums[self.down_to_down_score] > allowed
        # The threshold must stay above the first negative whose acceptance breaks the limit.
        first = too_many.argmax(0)
        reach = np.where(too_many.any(0), self.up_above_down[first], len(ups))
        sensitivity = ratio(up_sums[reach, np.arange(len(first))], up_sums[-1])
        return np.where(up_sums[-1] * down_sums[-1] > 0, sensitivity, np.nan)


def _running(weights: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ... rows, ``(P + 1, B)``."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums
