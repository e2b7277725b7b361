"""All scores of one set of predictions: of the sample, and of thousands of its resamples by patient at once.

The first axis of an array of scores counts the resamples. Macro averages leave out the classes that never occur in the
truth, since these have no recall.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

BINS = 15
"""Equal-width confidence bins of the calibration error."""
SPECIFICITY = 0.9
"""The fixed specificity at which sensitivity is reported for binary targets."""


class Scorer:
    """Predictions in clusters (patients), so that a resample is one weight per cluster.

    Whatever is a sum over rows is summed once per cluster. A resample is then a matrix product.
    """

    def __init__(
        self, truth: np.ndarray, probabilities: np.ndarray, clusters: np.ndarray, positive: int | None = None
    ) -> None:
        """``truth`` ``(N,)`` class indices, ``probabilities`` ``(N, C)``, ``clusters`` ``(N,)`` codes 0..G-1.

        ``positive`` is the positive class of a binary target. With it, that class has scores of its own.
        """
        rows, self.classes = probabilities.shape
        self.positive = positive
        self.present = np.bincount(truth, minlength=self.classes) > 0
        outcome = np.zeros((rows, self.classes**2))
        outcome[np.arange(rows), truth * self.classes + probabilities.argmax(1)] = 1
        # Brier score of each row: the squared error, summed over classes and halved for two classes (Brier 1950).
        errors = ((probabilities - np.eye(self.classes)[truth]) ** 2).sum(1, keepdims=True)
        # The calibration error (Guo et al. 2017): the absolute sum of each of these columns, summed, over all rows.
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
        """Scores ``(B,)`` or ``(B, C)`` under ``weights`` ``(G, B)``: how often each draw holds each cluster."""
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
    """Weighted rows at each of the K thresholds, the distinct scores of positives, best first, in each of B resamples.

    ``(K, B)``: ``positives`` of exactly that score, and ``recalled`` ones of that score or a better one; negatives
    ``tied`` at that score, and those ``above`` it. ``(B,)``: ``all_positives`` and ``all_negatives``.
    """

    positives: np.ndarray
    recalled: np.ndarray
    tied: np.ndarray
    above: np.ndarray
    all_positives: np.ndarray
    all_negatives: np.ndarray

    def auroc(self) -> np.ndarray:
        """Area under the ROC curve (Mann-Whitney, where a tie counts half); NaN without positives or negatives."""
        lost = np.einsum("kb,kb->b", self.positives, self.above + 0.5 * self.tied)
        pairs = self.all_positives * self.all_negatives
        return np.where(pairs > 0, 1 - _ratio(lost, pairs), np.nan)

    def average_precision(self) -> np.ndarray:
        """Mean over positives of the precision at their score, not interpolated; NaN without positives."""
        precision = _ratio(self.recalled, self.recalled + self.above + self.tied)
        total = np.einsum("kb,kb->b", self.positives, precision)
        return np.where(self.all_positives > 0, _ratio(total, self.all_positives), np.nan)

    def sensitivity_at(self, specificity: float) -> np.ndarray:
        """Highest sensitivity at a specificity of at least ``specificity``; NaN without positives or negatives."""
        allowed = (1 - specificity) * self.all_negatives + 1e-9
        found = np.where(self.above + self.tied <= allowed, self.recalled, 0).max(0, initial=0)
        return np.where(self.all_positives * self.all_negatives > 0, _ratio(found, self.all_positives), np.nan)


class Ranking:
    """The rows in the order of one class's scores: sorted once, then counted under any weights.

    Only thresholds at the scores of positives matter. So negatives are counted in the gaps between them, by one sparse
    product from clusters to gaps. Equal scores are one threshold, as in scikit-learn.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray, clusters: np.ndarray) -> None:
        """``positive`` ``(N,)`` bool, ``scores`` ``(N,)``, ``clusters`` ``(N,)`` codes 0..G-1."""
        steps, step_of = np.unique(-scores[positive], return_inverse=True)
        below = -scores[~positive]
        gap, tied = np.searchsorted(steps, below), np.isin(below, steps)
        number, negatives = clusters.max(initial=-1) + 1, clusters[~positive]

        def summing(rows: np.ndarray, columns: np.ndarray, height: int) -> sparse.csr_array:
            return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(height, number))

        self.positives = summing(step_of, clusters[positive], len(steps))
        # A negative with the score of a positive counts in the next gap, and in a table of its own.
        self.gaps = summing(gap + tied, negatives, len(steps) + 1)
        self.tied = summing(gap[tied], negatives[tied], len(steps))

    def count(self, weights: np.ndarray) -> Counts:
        """Counts under ``weights`` ``(G, B)``: how often each draw holds each cluster."""
        positives, negatives = self.positives @ weights, self.gaps @ weights
        np.add.accumulate(negatives, axis=0, out=negatives)
        recalled = np.add.accumulate(positives, axis=0)
        every = recalled[-1] if len(positives) else np.zeros(weights.shape[1])
        return Counts(positives, recalled, self.tied @ weights, negatives[:-1], every, negatives[-1])


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
