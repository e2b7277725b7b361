"""All scores of one set of predictions, for the sample itself and for its resamples by patient."""

import numpy as np

from dermeval.statistics import metrics
from dermeval.statistics.ranking import Ranking

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
        brier = metrics.squared_errors(truth, probabilities)[:, None]
        table = np.hstack([outcome, brier, metrics.calibration_table(truth, probabilities)])
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
        sums = weights.T @ self.sums
        cells = self.classes**2
        confusion = sums[:, :cells].reshape(-1, self.classes, self.classes)
        rows = confusion.sum((1, 2))
        scores = metrics.from_confusion(confusion, self.present)
        scores["brier"] = sums[:, cells] / rows
        scores["ece"] = np.abs(sums[:, cells + 1 :]).sum(1) / rows
        return scores | (self._macro(weights) if self.positive is None else self._binary(weights, scores))

    def _macro(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        counted = [(ranking, ranking.count(weights)) for ranking in self.rankings]
        per_class = np.full((2, weights.shape[1], self.classes), np.nan)
        per_class[0][:, self.present] = np.stack([ranking.auroc(counts) for ranking, counts in counted], 1)
        per_class[1][:, self.present] = np.stack([ranking.average_precision(counts) for ranking, counts in counted], 1)
        return {
            "macro_auroc": per_class[0][:, self.present].mean(1),
            "macro_average_precision": per_class[1][:, self.present].mean(1),
            "auroc_per_class": per_class[0],
            "average_precision_per_class": per_class[1],
        }

    def _binary(self, weights: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ranking = self.rankings[0]
        counts = ranking.count(weights)
        fixed = f"sensitivity_at_{100 * SPECIFICITY:.0f}_specificity"
        return {
            "auroc": ranking.auroc(counts),
            "average_precision": ranking.average_precision(counts),
            fixed: ranking.sensitivity_at(SPECIFICITY, counts),
        } | {f"positive_{name}": scores[name][:, self.positive] for name in ("f1", "precision", "recall")}
