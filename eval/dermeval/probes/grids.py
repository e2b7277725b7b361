"""Penalties of logistic regression that the linear probe chooses from, and what every grid of classifiers needs.

The milder classifiers of a grid come first, as the first of equals is chosen.
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
"""Enough in float32 to find where the best penalties lie, and to choose among them, nats. On HAM10000 the choice is
within 0.0013 of the exact best (``scripts/bench/results/linear_folds.md``). What is reported is fitted fully."""
NEAR_BEST = 0.005
"""Balanced accuracy below the best up to which coarse penalties are scored again at the finer tolerance."""
COARSE = 9
"""Penalties that are tried first, evenly spread over the grid; then those between the best one's neighbours."""
Predict = Callable[..., np.ndarray]
"""Features ``(N, D)``, some classifiers of a grid, and ``fine`` or not -> probabilities ``(len(which), N, C)``."""


def standardiser(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The function that brings features to the mean 0 and spread 1 of ``features`` ``(N, D)``, float64.

    Constant features keep spread 1.
    """
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    spread = np.where(spread > 1e-12, spread, 1.0)
    return lambda rows: (rows.astype(np.float64) - mean) / spread


def class_weights(labels: np.ndarray, kind: str) -> np.ndarray | None:
    """Weight of each image ``(N,)``, of mean 1, under which classes count the same; None for kind ``none``."""
    return None if kind == "none" else compute_sample_weight("balanced", labels)


@dataclass(frozen=True)
class PenaltyGrid:
    """L2-penalised logistic regressions on standardised features, from the strongest penalty to the weakest."""

    cs: np.ndarray
    class_weight: str

    @property
    def unchosen(self) -> int:
        """Taken where there are too few patients to choose by: the C nearest to 1, scikit-learn's default."""
        return int(np.abs(np.log(self.cs)).argmin())

    @property
    def stride(self) -> int:
        """Steps of the grid between coarse penalties."""
        return max(1, len(self.cs) // COARSE)

    def coarse(self) -> list[list[int]]:
        """What is tried first, in steps: every `stride`-th penalty to C = 1 at once, then the weaker one by one.

        The weaker the penalty, the longer its fit takes.
        """
        picked = sorted({*range(0, len(self.cs), self.stride), len(self.cs) - 1})
        strong = [index for index in picked if self.cs[index] <= 1]
        return [strong] * bool(strong) + [[index] for index in picked if self.cs[index] > 1]

    def around(self, scores: Mapping[int, float]) -> list[int]:
        """What is fitted finely after the coarse penalties: those nearly as good as the best, and all around it."""
        best = max(sorted(scores), key=scores.__getitem__)
        near = {index for index, score in scores.items() if score >= scores[best] - NEAR_BEST}
        return sorted(near | set(range(max(0, best - self.stride + 1), min(len(self.cs), best + self.stride))))

    def fits(self, features: np.ndarray, labels: np.ndarray, classes: int, final: bool = False) -> Predict:
        """Classifiers on training ``features`` ``(N, D)`` and ``labels`` ``(N,)``, each fitted when first asked for.

        They are fitted in float32 to rank them, or (``final``) in float64 to the optimum.
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
        """C of each fold, and the grid as first, last and number, for ``result.json``."""
        grid = [float(self.cs[0]), float(self.cs[-1]), len(self.cs)]
        return {"solver": "lbfgs", "c": [float(self.cs[index]) for index in chosen], "c_grid": grid}

    def notes(self, chosen: Sequence[int]) -> list[str]:
        """Choices at an end of the grid, and what they mean."""
        if len(self.cs) == 1:
            return []
        meaning = {
            0: "the strongest penalty: the features say little about the target; compare with `dermeval knn`",
            len(self.cs) - 1: "almost no penalty: the inner folds are too few or too small to choose by, or all "
            "choices score alike; trust the interval, not the point, and compare with `dermeval knn`",
        }
        ends = [index for index in meaning if index in chosen]
        return [f"C = {self.cs[index]:.3g} lies at the end of the grid, {meaning[index]}" for index in ends]

    def say(self, chosen: Sequence[int]) -> str:
        """The choice in words."""
        return "C " + ", ".join(f"{self.cs[index]:.3g}" for index in chosen)
