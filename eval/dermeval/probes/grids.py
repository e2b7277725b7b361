"""The penalties of logistic regression that the linear probe chooses from, and what every grid of classifiers needs.

Stronger penalties and lower learning rates come first, because the first of equally good classifiers is chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.class_weight import compute_sample_weight

from dermeval.probes.logistic import TOLERANCE, LogisticSolver

GRID_ENDS = (-6.0, 5.0)
GRID_TOLERANCE, FINE_TOLERANCE = 1e-5, 1e-6
"""Tolerances (nats) of fits in float32: the first to find where the best penalties lie, the second to choose among
them. On HAM10000 the chosen one scores within 0.0013 of the exact best (``scripts/bench/results/linear_folds.md``). It
is then fitted to `TOLERANCE`."""
NEAR_BEST = 0.005
"""Coarse penalties up to this much balanced accuracy below the best are scored again at the finer tolerance."""
COARSE = 9
"""Number of penalties that are tried first, evenly spread over the grid."""
Predict = Callable[..., np.ndarray]
"""Features ``(N, D)``, the indices of K classifiers, and whether to fit them finely -> probabilities ``(K, N, C)``."""


def standardiser(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that standardises rows, in float64, by ``features`` ``(N, D)``; constant features are only centred."""
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    spread = np.where(spread > 1e-12, spread, 1.0)
    return lambda rows: (rows.astype(np.float64) - mean) / spread


def class_weights(labels: np.ndarray, kind: str) -> np.ndarray | None:
    """Weights of the images ``(N,)``, of mean 1, that give all classes the same weight; None for kind ``none``."""
    return None if kind == "none" else compute_sample_weight("balanced", labels)


@dataclass(frozen=True)
class PenaltyGrid:
    """L2-penalised logistic regressions on standardised features, for ascending inverse penalties ``cs``."""

    cs: np.ndarray
    class_weight: str

    @property
    def unchosen(self) -> int:
        """The one to take where there are too few patients to choose: the C nearest to 1, scikit-learn's default."""
        return int(np.abs(np.log(self.cs)).argmin())

    @property
    def stride(self) -> int:
        """Steps of the grid between coarse penalties."""
        return max(1, len(self.cs) // COARSE)

    def coarse(self) -> list[list[int]]:
        """The steps of the first try: every `stride`-th C up to 1 at once, then each larger one, which takes longer."""
        picked = sorted({*range(0, len(self.cs), self.stride), len(self.cs) - 1})
        strong = [index for index in picked if self.cs[index] <= 1]
        return [strong] * bool(strong) + [[index] for index in picked if self.cs[index] > 1]

    def around(self, scores: Mapping[int, float]) -> list[int]:
        """What is fitted finely next: the coarse penalties that score nearly as well as the best, and all near it."""
        best = max(sorted(scores), key=scores.__getitem__)
        near = {index for index, score in scores.items() if score >= scores[best] - NEAR_BEST}
        return sorted(near | set(range(max(0, best - self.stride + 1), min(len(self.cs), best + self.stride))))

    def fits(self, features: np.ndarray, labels: np.ndarray, classes: int, final: bool = False) -> Predict:
        """Classifiers for training ``features`` ``(N, D)`` and ``labels`` ``(N,)``, each fitted when first asked for.

        ``final`` fits in float64 to the optimum, else a fit is in float32, to rank classifiers.
        """
        standard = standardiser(features)
        weight = class_weights(labels, self.class_weight)
        precision = (TOLERANCE, torch.float64) if final else (GRID_TOLERANCE, torch.float32)
        solver = LogisticSolver(standard(features), labels, classes, weight, *precision)

        def predict(rows: np.ndarray, which: Sequence[int], fine: bool = False) -> np.ndarray:
            path = solver.fit(self.cs[list(which)], min(FINE_TOLERANCE, solver.tolerance) if fine else None)
            return path.probabilities(standard(rows))

        return predict

    def settings(self, chosen: Sequence[int]) -> dict[str, Any]:
        """For ``result.json``: the C of each fold, and the grid as its first value, last value and size."""
        grid = [float(self.cs[0]), float(self.cs[-1]), len(self.cs)]
        return {"solver": "lbfgs", "c": [float(self.cs[index]) for index in chosen], "c_grid": grid}

    def notes(self, chosen: Sequence[int]) -> list[str]:
        """Notes on choices at an end of the grid, and what these mean."""
        meaning = {
            0: "the strongest penalty: the features say little about the target",
            len(self.cs) - 1: "almost no penalty: the inner folds are too small for a choice, or all choices score "
            "alike; trust the interval rather than the score",
        }
        said = "C = {:.3g} lies at the end of the grid, {}; compare with `dermeval knn`"
        return [said.format(self.cs[index], meaning[index]) for index in meaning if index in chosen]

    def say(self, chosen: Sequence[int]) -> str:
        """The choice in words."""
        return "C " + ", ".join(f"{self.cs[index]:.3g}" for index in chosen)
