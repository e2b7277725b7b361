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
        table = np.hstack([outcome, brier, metrics.calibration_tables(truth, probabilities)])
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
        scores["ece"] = metrics.calibration_error(sums[:, cells + 1 :], rows)
        return scores | (self._macro(weights) if self.positive is None else self._binary(weights, confusion))

    def _macro(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        counted = [(ranking, ranking.count(weights)) for ranking in self.rankings]
        auroc, average_precision = np.full((2, weights.shape[1], self.classes), np.nan)
        auroc[:, self.present] = np.stack([ranking.auroc(counts) for ranking, counts in counted], axis=1)
        average_precision[:, self.present] = np.stack(
            [ranking.average_precision(counts) for ranking, counts in counted], axis=1
        )
        return {
            "macro_auroc": auroc[:, self.present].mean(1),
            "macro_average_precision": average_precision[:, self.present].mean(1),
            "auroc_per_class": auroc,
            "average_precision_per_class": average_precision,
        }

    def _binary(self, weights: np.ndarray, confusion: np.ndarray) -> dict[str, np.ndarray]:
        ranking, positive = self.rankings[0], self.positive
        counts = ranking.count(weights)
        return {
            "auroc": ranking.auroc(counts),
            "average_precision": ranking.average_precision(counts),
            f"sensitivity_at_{SPECIFICITY:.0%}_specificity".replace("%", ""): ranking.sensitivity_at(
                SPECIFICITY, counts
            ),
            "positive_f1": metrics.f1(confusion)[:, positive],
            "positive_precision": metrics.precision(confusion)[:, positive],
            "positive_recall": metrics.recall(confusion)[:, positive],
        }
