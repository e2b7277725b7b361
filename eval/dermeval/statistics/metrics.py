"""All scores of one set of predictions, for the sample itself and for thousands of its resamples by patient at once.

Arrays of scores have the resamples on their leading axis. Classes that never occur in the truth are left out of macro
averages, as they have no recall.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

BINS = 15
"""Equal-width confidence bins of the calibration error."""
SPECIFICITY = 0.9
"""The fixed specificity at which sensitivity is reported for binary targets."""


class Scorer:
    """Predictions cut into clusters (patients), so that a resample is one weight per cluster.

    Everything that is a sum over rows is summed per cluster once; a resample then is a matrix product.
    """

    def __init__(
        self, truth: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray, positive: int | None = None
    ) -> None:
        """``truth`` ``(N,)`` class indices, ``probabilities`` ``(N, C)``, ``clusters`` ``(N,)`` codes 0..G-1.

        ``positive`` is the positive class of a binary target, whose own scores are then reported too.
        """
        rows, self.classes = probabilities.shape
        self.positive = positive
        self.present = np.bincount(truth, minlength=self.classes) > 0
        outcome = np.zeros((rows, self.classes**2))
        outcome[np.arange(rows), truth * self.classes + probabilities.argmax(1)] = 1
        # Brier score of each row: squared error summed over classes, halved for two (Brier 1950).
        errors = ((probabilities - np.eye(self.classes)[truth]) ** 2).sum(1, keepdims=True)
        # The calibration error (Guo et al. 2017) is the sum over bins of the absolute column sums, by the rows.
        confidence, calibration = probabilities.max(1), np.zeros((rows, BINS))
        right = probabilities.argmax(1) == truth
        calibration[np.arange(rows), confidence_bins(confidence)] = right - confidence
        table = np.hstack([outcome, errors / 2 if self.classes == 2 else errors, calibration])
        self.sums = np.zeros((clusters.max() + 1, table.shape[1]))
        np.add.at(self.sums, clusters, table)
        ranked = np.flatnonzero(self.present) if positive is None else [positive]
        self.rankings = [Ranking(truth == c, probabilities[:, c], clusters) for c in ranked]

    @property
    def support(self) -> np.ndarray:
        """Rows of each true class in each cluster, ``(G, C)``."""
        return self.sums[:, : self.classes**2].reshape(-1, self.classes, self.classes).sum(2)

    def point(self) -> dict[str, np.ndarray]:
        """The scores of the sample itself: each ``()``, per-class ones ``(C,)``."""
        return {name: values[0] for name, values in self.score(np.ones((len(self.sums), 1))).items()}

    def score(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Scores under ``weights`` ``(G, B)``, the times each cluster was drawn: ``(B,)`` or ``(B, C)`` each."""
        sums, cells = weights.T @ self.sums, self.classes**2
        confusion = sums[:, :cells].reshape(-1, self.classes, self.classes)
        right, support, guessed = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)
        rows = support.sum(1)
        recall, f1 = _ratio(right, support), _ratio(2 * right, support + guessed)
        scores = {
            "accuracy": _ratio(right.sum(1), rows),
            "balanced_accuracy": recall[:, self.present].mean(1),
            "macro_f1": f1[:, self.present].mean(1),
            "weighted_f1": _ratio((f1 * support).sum(1), rows),
            "precision": _ratio(right, guessed),
            "recall": recall,
            "f1": f1,
            "brier": sums[:, cells] / rows,
            "ece": np.abs(sums[:, cells + 1 :]).sum(1) / rows,
        }
        counted = [ranking.count(weights) for ranking in self.rankings]
        if self.positive is not None:
            (counts,) = counted
            scores |= {"auroc": counts.auroc(), "average_precision": counts.average_precision()}
            scores[f"sensitivity_at_{100 * SPECIFICITY:.0f}_specificity"] = counts.sensitivity_at(SPECIFICITY)
            own = {f"positive_{name}": scores[name][:, self.positive] for name in ("f1", "precision", "recall")}
            return scores | own
        per_class = {}
        for name, score in (("auroc", Counts.auroc), ("average_precision", Counts.average_precision)):
            per_class[name] = np.full((weights.shape[1], self.classes), np.nan)
            per_class[name][:, self.present] = np.stack([score(counts) for counts in counted], 1)
        scores |= {f"macro_{name}": values[:, self.present].mean(1) for name, values in per_class.items()}
        return scores | {f"{name}_per_class": values for name, values in per_class.items()}


class Counts(NamedTuple):
    """Weighted rows at the K distinct scores that positives have, best first, in each of B resamples, and their scores.

    ``up`` ``(K, B)``: positives of that score. ``up_to``: positives of that score or better. ``level``: negatives of
    exactly that score. ``above``: negatives that are better. ``ups`` and ``downs`` ``(B,)``: all of them.
    """

    up: np.ndarray
    up_to: np.ndarray
    level: np.ndarray
    above: np.ndarray
    ups: np.ndarray
    downs: np.ndarray

    def auroc(self) -> np.ndarray:
        """Area under the ROC curve (Mann-Whitney: negatives below, ties half); NaN without either side."""
        lost = np.einsum("kb,kb->b", self.up, self.above + 0.5 * self.level)
        pairs = self.ups * self.downs
        return np.where(pairs > 0, 1 - _ratio(lost, pairs), np.nan)

    def average_precision(self) -> np.ndarray:
        """Precision averaged over the recalled positives (no interpolation); NaN without positives."""
        accepted = self.up_to + self.above + self.level
        total = np.einsum("kb,kb->b", self.up, _ratio(self.up_to, accepted))
        return np.where(self.ups > 0, _ratio(total, self.ups), np.nan)

    def sensitivity_at(self, specificity: float) -> np.ndarray:
        """Highest sensitivity of any threshold whose specificity is at least ``specificity``."""
        allowed = (1 - specificity) * self.downs + 1e-9
        found = np.where(self.above + self.level <= allowed, self.up_to, 0).max(0, initial=0)
        return np.where(self.ups * self.downs > 0, _ratio(found, self.ups), np.nan)


class Ranking:
    """The order in which one class's scores put the rows; sorted once, then scored under any weights.

    Only thresholds at the scores of positives matter, so negatives are counted per gap between two of them: one sparse
    product from clusters to gaps. Ties are one threshold, as in scikit-learn.
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


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient, 0 where the denominator is 0 (scikit-learn's ``zero_division=0``)."""
    shape = np.broadcast(numerator, denominator).shape
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator != 0)


def balanced_accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    """Mean recall of the classes that occur in ``truth`` ``(N,)``."""
    return float(np.mean([(guess[truth == label] == label).mean() for label in np.unique(truth)]))


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """The bin 0..BINS-1 of each confidence; a bin holds its upper end."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
