"""The grids of linear classifiers that a probe chooses from: penalties fitted to the optimum, or SGD heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from dermeval.probes.logistic import TOLERANCE, LogisticSolver
from dermeval.probes.options import LinearOptions
from dermeval.probes.sgd import RATES, fit_heads

GRID_ENDS = (-6.0, 5.0)
GRID_TOLERANCE = 1e-5
"""Enough to rank penalties, in float32 (mean losses within 1e-4 of the optimum); what is scored is fitted fully."""
SGD_FROM = 100_000
"""Images from which ``--solver auto`` takes SGD."""
FORMS = ("as they are", "standardised")

COARSE = 9
"""Penalties that are tried first, evenly spread over the grid; then those between the best one's neighbours."""


class Fits(Protocol):
    """Classifiers of one grid on one set of training images, fitted when they are asked for."""

    def predict(self, features: np.ndarray, which: Sequence[int]) -> np.ndarray:
        """Class probabilities ``(len(which), N, C)`` of ``features`` ``(N, D)`` by the classifiers ``which``."""


class Grid(Protocol):
    """Some classifiers that differ in settings; the milder ones first, as the first of equals is chosen."""

    def __len__(self) -> int:
        """Number of classifiers P."""

    @property
    def unchosen(self) -> int:
        """The classifier that is taken where there are too few patients to choose by."""

    def first(self) -> list[int]:
        """The classifiers that are tried first."""

    def around(self, best: int) -> list[int]:
        """Those that are tried when ``best`` is the best of the first."""

    def fits(self, features: np.ndarray, labels: np.ndarray, classes: int, final: bool = False) -> Fits:
        """On training ``features`` ``(N, D)`` and ``labels`` ``(N,)``; ``final`` for the one that was chosen."""

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
        solver = "sgd" if images >= SGD_FROM else "lbfgs"
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

    @property
    def stride(self) -> int:
        """Steps of the grid between penalties that are tried first."""
        return max(1, len(self.cs) // COARSE)

    def first(self) -> list[int]:
        """Every `stride`-th penalty and the weakest."""
        return sorted({*range(0, len(self.cs), self.stride), len(self.cs) - 1})

    def around(self, best: int) -> list[int]:
        """All penalties nearer to ``best`` than its neighbours among the first."""
        return list(range(max(0, best - self.stride + 1), min(len(self.cs), best + self.stride)))

    def fits(self, features: np.ndarray, labels: np.ndarray, classes: int, final: bool = False) -> "PenaltyFits":
        """Fitted in float32 to rank them, or in float64 to the optimum."""
        standard = Standard.of(features)
        weight = class_weights(labels, self.class_weight)
        precision = (TOLERANCE, torch.float64) if final else (GRID_TOLERANCE, torch.float32)
        solver = LogisticSolver(standard(features), labels, classes, weight, *precision)
        return PenaltyFits(self.cs, standard, solver)

    def settings(self, chosen: Sequence[int]) -> dict[str, Any]:
        """C of each fold, and the grid as first, last and number."""
        grid = [float(self.cs[0]), float(self.cs[-1]), len(self.cs)]
        return {"solver": "lbfgs", "c": [float(self.cs[index]) for index in chosen], "c_grid": grid}

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

    def first(self) -> list[int]:
        """All of them: trained together they cost little more than one."""
        return list(range(len(self)))

    def around(self, best: int) -> list[int]:
        """Nothing further."""
        return []

    def fits(self, features: np.ndarray, labels: np.ndarray, classes: int, final: bool = False) -> "RateFits":
        """Trained when predictions are asked for."""
        return RateFits(self, features, labels, classes)

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


@dataclass(frozen=True)
class PenaltyFits:
    """The logistic regressions of a `PenaltyGrid` on one set of training images; each is fitted once."""

    cs: np.ndarray
    standard: Standard
    solver: LogisticSolver

    def predict(self, features: np.ndarray, which: Sequence[int]) -> np.ndarray:
        """See `Fits`."""
        return self.solver.fit(self.cs[list(which)]).probabilities(self.standard(features))


@dataclass(frozen=True)
class RateFits:
    """The SGD heads of a `RateGrid` on one set of training images."""

    grid: RateGrid
    features: np.ndarray
    labels: np.ndarray
    classes: int

    def predict(self, features: np.ndarray, which: Sequence[int]) -> np.ndarray:
        """Train all heads together, or one; the batches are the same. See `Fits`."""
        grid, standard = self.grid, Standard.of(self.features)
        forms, rates = slice(None), grid.rates
        if len(which) == 1:
            form, rate = divmod(which[0], len(grid.rates))
            forms, rates = slice(form, form + 1), grid.rates[[rate]]

        def formed(rows: np.ndarray) -> np.ndarray:
            return np.stack([rows, standard(rows)][forms]).astype(np.float32)

        weight = class_weights(self.labels, grid.class_weight)
        x = formed(self.features)
        heads = fit_heads(x, self.labels, self.classes, rates, grid.steps, grid.batch, grid.seed, weight)
        logits = heads.logits(torch.from_numpy(formed(features))).double()
        probabilities = torch.softmax(logits, 3).permute(0, 2, 1, 3).flatten(0, 1).numpy()
        return probabilities if len(which) == 1 else probabilities[list(which)]
