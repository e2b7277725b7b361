"""Threshold-free scores of one class against the rest, for many weighted resamples at once."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from dermeval.statistics.metrics import ratio


class Counts(NamedTuple):
    """Weighted rows at the K distinct scores that positives have, best first, in each of B resamples.

    ``up`` ``(K, B)``: positives of that score. ``up_to``: positives of that score or better. ``level``: negatives of
    exactly that score. ``above``: negatives that are better. ``ups`` and ``downs`` ``(B,)``: all of them.
    """

    up: np.ndarray
    up_to: np.ndarray
    level: np.ndarray
    above: np.ndarray
    ups: np.ndarray
    downs: np.ndarray


class Ranking:
    """The order in which one class's scores put the rows; sorted once, then scored under any weights.

    Only thresholds at the scores of positives matter, so negatives are counted per gap between two of them: one sparse
    product from clusters to gaps. All methods take what `count` returns and give ``(B,)``. Ties are one threshold, as
    in scikit-learn.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray, clusters: np.ndarray) -> None:
        """``positive`` ``(N,)`` bool, ``scores`` ``(N,)``, ``clusters`` ``(N,)`` integer codes into the weights."""
        steps, step_of = np.unique(-scores[positive], return_inverse=True)
        below = -scores[~positive]
        gap, level = np.searchsorted(steps, below), np.isin(below, steps)
        number, negatives = clusters.max(initial=-1) + 1, clusters[~positive]

        def summing(rows: np.ndarray, columns: np.ndarray, height: int) -> sparse.csr_array:
            return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(height, number))

        self.positives = summing(step_of, clusters[positive], len(steps))
        # Negatives of a positive's score lie just below it: in the next gap, and in a table of their own.
        self.gaps = summing(gap + level, negatives, len(steps) + 1)
        self.level = summing(gap[level], negatives[level], len(steps))

    def count(self, weights: np.ndarray) -> Counts:
        """Count under ``weights`` ``(G, B)``, the times each cluster was drawn."""
        up, down = self.positives @ weights, self.gaps @ weights
        np.add.accumulate(down, axis=0, out=down)
        up_to = np.add.accumulate(up, axis=0)
        ups = up_to[-1] if len(up) else np.zeros(weights.shape[1])
        return Counts(up, up_to, self.level @ weights, down[:-1], ups, down[-1])

    def auroc(self, counts: Counts) -> np.ndarray:
        """Area under the ROC curve (Mann-Whitney: negatives below, ties half); NaN without either side."""
        lost = np.einsum("kb,kb->b", counts.up, counts.above + 0.5 * counts.level)
        pairs = counts.ups * counts.downs
        return np.where(pairs > 0, 1 - ratio(lost, pairs), np.nan)

    def average_precision(self, counts: Counts) -> np.ndarray:
        """Precision averaged over the recalled positives (no interpolation); NaN without positives."""
        accepted = counts.up_to + counts.above + counts.level
        total = np.einsum("kb,kb->b", counts.up, ratio(counts.up_to, accepted))
        return np.where(counts.ups > 0, ratio(total, counts.ups), np.nan)

    def sensitivity_at(self, specificity: float, counts: Counts) -> np.ndarray:
        """Highest sensitivity of any threshold whose specificity is at least ``specificity``."""
        allowed = (1 - specificity) * counts.downs + 1e-9
        found = np.where(counts.above + counts.level <= allowed, counts.up_to, 0).max(0, initial=0)
        return np.where(counts.ups * counts.downs > 0, ratio(found, counts.ups), np.nan)
