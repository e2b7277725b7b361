"""The grids of linear classifiers that a probe chooses from: penalties fitted to the optimum, or SGD heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from dermeval.probes.logistic import fit_path
from dermeval.probes.options import LinearOptions
from dermeval.probes.sgd import RATES, fit_heads

GRID_ENDS = (-6.0, 5.0)
GRID_TOLERANCE = 1e-5
"""Enough to rank penalties, in float32 (mean losses within 1e-4 of the optimum); what is scored is fitted fully."""
SGD_FROM = 100_000
"""Images from which ``--solver auto`` takes SGD."""
FORMS = ("as they are", "standardised")

Predict = Callable[[np.ndarray], np.ndarray]
"""Features ``(N, D)`` -> class probabilities ``(P, N, C)`` of the P classifiers that were fitted."""


class Grid(Protocol):
    """Some classifiers that differ in settings; the milder ones first, as the first of equals is chosen."""

    def __len__(self) -> int:
        """Number of classifiers P."""

    @property
    def unchosen(self) -> int:
        """The classifier that is taken where there are too few patients to choose by."""

    def fit(self, features: np.ndarray, labels: np.ndarray, classes: int, only: int | None = None) -> Predict:
        """Fit all, or fully the one that was chosen, on ``features`` ``(N, D)`` and ``labels`` ``(N,)``."""

    def settings(self, chosen: Sequence[int]) -> dict[str, Any]:
        """What ``result.json`` says of the grid and of the classifiers ``chosen`` in each fold."""

    def notes(self, chosen: Sequence[int]) -> list[str]:
        """Doubts about the choice."""

    def say(self, chosen: Sequence[int]) -> str:
        """The choice in words."""


def make_grid(options: LinearOptions, images: int) -> Grid:
    """The grid that the options ask for, on so many images."""
    solver = options.solver
    if solver == "auto":
        solver = "sgd" if images >= SGD_FROM else "newton"
    if solver == "sgd":
        return RateGrid(np.array(RATES), options.steps, options.batch, options.class_weight, options.seed)
    return PenaltyGrid(np.logspace(*GRID_ENDS, options.c_values), options.class_weight)


@dataclass(frozen=True)
class Standard:
    """Mean and spread of training features; constant features keep spread 1."""

    mean: np.ndarray
    spread: np.ndarray

    @staticmethod
    def of(features: np.ndarray) -> "Standard":
        """Measured on ``features`` ``(N, D)``."""
        spread = features.std(0, dtype=np.float64)
        return Standard(features.mean(0, dtype=np.float64), np.where(spread > 1e-12, spread, 1.0))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """``features`` ``(N, D)`` shifted and scaled, float64."""
        return (features.astype(np.float64) - self.mean) / self.spread


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

    def __len__(self) -> int:
        return len(self.cs)

    @property
    def unchosen(self) -> int:
        """The C nearest to 1, scikit-learn's default."""
        return int(np.abs(np.log(self.cs)).argmin())

    def fit(self, features: np.ndarray, labels: np.ndarray, classes: int, only: int | None = None) -> Predict:
        """Fit every C in float32 to rank them, or one in float64 to the optimum."""
        standard = Standard.of(features)
        cs = self.cs if only is None else self.cs[[only]]
        precision: dict[str, Any] = {"tolerance": GRID_TOLERANCE, "dtype": torch.float32} if only is None else {}
        weight = class_weights(labels, self.class_weight)
        path = fit_path(standard(features), labels, classes, cs, weight, **precision)
        return lambda others: path.probabilities(standard(others))

    def settings(self, chosen: Sequence[int]) -> dict[str, Any]:
        """C of each fold, and the grid as first, last and number."""
        grid = [float(self.cs[0]), float(self.cs[-1]), len(self.cs)]
        return {"solver": "newton", "c": [float(self.cs[index]) for index in chosen], "c_grid": grid}

    def notes(self, chosen: Sequence[int]) -> list[str]:
        """Choices at an end of the grid."""
        ends = sorted({index for index in chosen if index in (0, len(self.cs) - 1)}) if len(self.cs) > 1 else []
        return [f"C = {self.cs[index]:.3g} lies at the end of the grid" for index in ends]

    def say(self, chosen: Sequence[int]) -> str:
        """The penalties."""
        return "C " + ", ".join(f"{self.cs[index]:.3g}" for index in chosen)


@dataclass(frozen=True)
class RateGrid:
    """SGD heads for each learning rate on the features as they are, then on standardised ones."""

    rates: np.ndarray
    steps: int
    batch: int
    class_weight: str
    seed: int

    def __len__(self) -> int:
        return len(FORMS) * len(self.rates)

    @property
    def unchosen(self) -> int:
        """The middle rate on standardised features."""
        return len(self.rates) + len(self.rates) // 2

    def fit(self, features: np.ndarray, labels: np.ndarray, classes: int, only: int | None = None) -> Predict:
        """Train all heads together, or one; the batches are the same."""
        standard = Standard.of(features)
        forms, rates = slice(None), self.rates
        if only is not None:
            form, rate = divmod(only, len(self.rates))
            forms, rates = slice(form, form + 1), self.rates[[rate]]

        def formed(rows: np.ndarray) -> np.ndarray:
            return np.stack([rows, standard(rows)][forms]).astype(np.float32)

        weight = class_weights(labels, self.class_weight)
        heads = fit_heads(formed(features), labels, classes, rates, self.steps, self.batch, self.seed, weight)

        def predict(rows: np.ndarray) -> np.ndarray:
            logits = heads.logits(torch.from_numpy(formed(rows))).double()
            return torch.softmax(logits, 3).permute(0, 2, 1, 3).flatten(0, 1).numpy()

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
        """The heads."""
        picked = [divmod(index, len(self.rates)) for index in chosen]
        return "SGD head " + ", ".join(f"{self.rates[rate]:.3g} on features {FORMS[form]}" for form, rate in picked)
