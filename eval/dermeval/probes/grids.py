"""The grids of linear classifiers that a probe chooses from: penalties fitted to the optimum, or SGD heads.

Both kinds of grid have the same methods. The milder classifiers come first, as the first of equals is chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from dermeval.probes.logistic import TOLERANCE, LogisticSolver
from dermeval.probes.options import LinearOptions
from dermeval.probes.sgd import RATES, fit_heads

GRID_ENDS = (-6.0, 5.0)
GRID_TOLERANCE, FINE_TOLERANCE = 1e-5, 1e-6
"""Enough in float32 to find where the best penalties lie, and to choose among them, nats. On HAM10000 the choice is
within 0.0013 of the exact best (``scripts/bench/results/linear_folds.md``). What is reported is fitted fully."""
NEAR_BEST = 0.005
"""Balanced accuracy below the best up to which coarse penalties are scored again at the finer tolerance."""
SGD_FROM = 100_000
"""Images from which ``--solver auto`` takes SGD."""
FORMS = ("as they are", "standardised")
COARSE = 9
"""Penalties that are tried first, evenly spread over the grid; then those between the best one's neighbours."""


class Predict(Protocol):
    """Some classifiers of a grid, fitted."""

    def __call__(self, rows: np.ndarray, which: Sequence[int], fine: bool = False) -> np.ndarray:
        """Class probabilities ``(len(which), N, C)`` of features ``(N, D)``."""


def make_grid(options: LinearOptions, images: int) -> "PenaltyGrid | RateGrid":
    """The grid that the options ask for, on so many images."""
    if options.solver == "sgd" or (options.solver == "auto" and images >= SGD_FROM):
        return RateGrid(np.array(RATES), options.steps, options.batch, options.class_weight, options.seed)
    return PenaltyGrid(np.logspace(*GRID_ENDS, options.c_values), options.class_weight)


def standardiser(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The function that brings features to the mean 0 and spread 1 of ``features`` ``(N, D)``, float64.

    Constant features keep spread 1.
    """
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    spread = np.where(spread > 1e-12, spread, 1.0)
    return lambda rows: (rows.astype(np.float64) - mean) / spread


def class_weights(labels: np.ndarray, kind: str) -> np.ndarray | None:
    """Weight of each image ``(N,)``, of mean 1, under which classes count the same; None for kind ``none``."""
    if kind == "none":
        return None
    counts = np.bincount(labels)
    return len(labels) / ((counts > 0).sum() * counts[labels])


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
            len(self.cs) - 1: "hardly a penalty: the inner folds are too few or too small to choose by, or all choices "
            "score alike; trust the interval, not the point, and compare with `dermeval knn`",
        }
        ends = [index for index in meaning if index in chosen]
        return [f"C = {self.cs[index]:.3g} lies at the end of the grid, {meaning[index]}" for index in ends]

    def say(self, chosen: Sequence[int]) -> str:
        """The choice in words."""
        return "C " + ", ".join(f"{self.cs[index]:.3g}" for index in chosen)


@dataclass(frozen=True)
class RateGrid:
    """SGD heads for each learning rate on the features as they are, then on standardised ones."""

    rates: np.ndarray
    steps: int
    batch: int
    class_weight: str
    seed: int

    @property
    def unchosen(self) -> int:
        """The middle rate on standardised features."""
        return len(self.rates) + len(self.rates) // 2

    def coarse(self) -> list[list[int]]:
        """All of them in one step: trained together they cost little more than one."""
        return [list(range(len(FORMS) * len(self.rates)))]

    def around(self, scores: Mapping[int, float]) -> list[int]:
        """Nothing further."""
        return []

    def fits(self, features: np.ndarray, labels: np.ndarray, classes: int, final: bool = False) -> Predict:
        """Heads that are trained when predictions are asked for: all together, or one; the batches are the same."""
        standard, weight = standardiser(features), class_weights(labels, self.class_weight)

        def predict(rows: np.ndarray, which: Sequence[int], fine: bool = False) -> np.ndarray:
            forms, rates = slice(None), self.rates
            if len(which) == 1:
                form, rate = divmod(which[0], len(rates))
                forms, rates = slice(form, form + 1), rates[[rate]]
            x, held = (np.stack([part, standard(part)][forms]).astype(np.float32) for part in (features, rows))
            heads = fit_heads(x, labels, classes, rates, self.steps, self.batch, self.seed, weight)
            logits = heads.logits(torch.from_numpy(held)).double()
            probabilities = torch.softmax(logits, 3).permute(0, 2, 1, 3).flatten(0, 1).numpy()
            return probabilities if len(which) == 1 else probabilities[list(which)]

        return predict

    def settings(self, chosen: Sequence[int]) -> dict[str, Any]:
        """Learning rate (per 256 images) and form of the features of each fold, and how long all were trained."""
        picked = [divmod(index, len(self.rates)) for index in chosen]
        return {
            "solver": "sgd",
            "rate": [float(self.rates[rate]) for _, rate in picked],
            "features": [FORMS[form] for form, _ in picked],
            "rate_grid": [float(rate) for rate in self.rates],
            "steps": self.steps,
            "batch": self.batch,
        }

    def notes(self, chosen: Sequence[int]) -> list[str]:
        """Choices at an end of the grid of rates."""
        last = len(self.rates) - 1
        ends = sorted({index % len(self.rates) for index in chosen} & {0, last}) if last else []
        return [f"learning rate {self.rates[index]:.3g} lies at the end of the grid" for index in ends]

    def say(self, chosen: Sequence[int]) -> str:
        """The choice in words."""
        picked = [divmod(index, len(self.rates)) for index in chosen]
        return "SGD head " + ", ".join(f"{self.rates[rate]:.3g} on features {FORMS[form]}" for form, rate in picked)
