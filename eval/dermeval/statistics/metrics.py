"""All scores of one set of predictions: of the sample, and of thousands of its resamples by patient at once.

The first axis of scores counts the resamples. Macro averages leave out classes that never occur in the truth.
"""

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
        guess, one_hot = probabilities.argmax(1), np.eye(self.classes)
        # Brier score of each row: the squared error, summed over classes and halved for two classes (Brier 1950).
        errors = ((probabilities - one_hot[truth]) ** 2).sum(1, keepdims=True)
        # The calibration error (Guo et al. 2017) adds up the absolute sums of these columns, and divides by the rows.
        confidence, calibration = probabilities.max(1), np.zeros((rows, BINS))
        calibration[np.arange(rows), confidence_bins(confidence)] = (guess == truth) - confidence
        right = one_hot[truth] * (guess == truth)[:, None]
        errors = errors / 2 if self.classes == 2 else errors
        table = np.hstack([right, one_hot[truth], one_hot[guess], calibration, errors])
        self.sums = np.zeros((clusters.max() + 1, table.shape[1]))
        np.add.at(self.sums, clusters, table)
        ranked = np.flatnonzero(self.present) if positive is None else [positive]
        self.rankings = [Ranking(truth == c, probabilities[:, c], clusters) for c in ranked]

    @property
    def support(self) -> np.ndarray:
        """Rows of each true class in each cluster, ``(G, C)``."""
        return self.sums[:, self.classes : 2 * self.classes]

    def point(self) -> dict[str, np.ndarray]:
        """The scores of the sample itself: each ``()``, per-class ones ``(C,)``."""
        return {name: values[0] for name, values in self.score(np.ones((len(self.sums), 1))).items()}

    def score(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Scores ``(B,)`` or ``(B, C)`` under ``weights`` ``(G, B)``: how often each draw holds each cluster."""
        ends = np.cumsum([self.classes, self.classes, self.classes, BINS])
        right, support, guessed, calibration, errors = np.split(weights.T @ self.sums, ends, axis=1)
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
            "brier": errors[:, 0] / rows,
            "ece": np.abs(calibration).sum(1) / rows,
        }
        binary = self.positive is not None
        ranked = [ranking.scores(weights, binary) for ranking in self.rankings]
        if binary:
            own = {f"positive_{name}": scores[name][:, self.positive] for name in ("f1", "precision", "recall")}
            return scores | ranked[0] | own
        per_class = {name: np.full((len(rows), self.classes), np.nan) for name in ("auroc", "average_precision")}
        for name, values in per_class.items():
            values[:, self.present] = np.stack([own[name] for own in ranked], 1)
            scores[f"macro_{name}"] = values[:, self.present].mean(1)
        return scores | {f"{name}_per_class": values for name, values in per_class.items()}


class Ranking:
    """The rows in the order of one class's scores: sorted once, then scored under any weights.

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

    def scores(self, weights: np.ndarray, sensitivity: bool) -> dict[str, np.ndarray]:
        """AUROC, average precision and, if asked for, sensitivity at `SPECIFICITY`, ``(B,)`` each; see `Scorer.score`.

        NaN without positives, or without the negatives that the score needs.
        """
        # All (K, B), at each of the K thresholds: positives of that score, negatives above it, and so on.
        positives, above, tied = self.positives @ weights, self.gaps @ weights, self.tied @ weights
        np.add.accumulate(above, axis=0, out=above)
        recalled, accepted = np.add.accumulate(positives, axis=0), above[:-1] + tied
        every, others, above = positives.sum(0), above[-1], above[:-1]
        # Mann-Whitney: a positive loses to the negatives above it, and half to a negative of the same score.
        lost = np.einsum("kb,kb->b", positives, above + 0.5 * tied)
        precision = np.einsum("kb,kb->b", positives, _ratio(recalled, recalled + accepted))
        both = every * others > 0
        found = {"auroc": np.where(both, 1 - _ratio(lost, every * others), np.nan)}
        found["average_precision"] = np.where(every > 0, _ratio(precision, every), np.nan)
        if sensitivity:
            allowed = (1 - SPECIFICITY) * others + 1e-9
            best = np.where(accepted <= allowed, recalled, 0).max(0, initial=0)
            found[f"sensitivity_at_{100 * SPECIFICITY:.0f}_specificity"] = np.where(both, _ratio(best, every), np.nan)
        return found


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
