"""Linear heads trained by stochastic gradient descent, all settings of a grid together.

This is DINOv2's linear evaluation (Oquab et al. 2023, appendix B.3, and its ``eval/linear.py``): momentum 0.9, no
weight decay, a cosine to 0, and first weights of standard deviation 0.01. There is one head for each learning rate and
form of the features. All heads see the same batches, so one batched product serves them all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dermeval.probes.grids import Predict, class_weights, standardiser

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""DINOv2's learning rates, for batches of 256 images."""
FORMS = ("as they are", "standardised")
MOMENTUM, INITIAL_SPREAD = 0.9, 0.01


@dataclass(frozen=True)
class RateGrid:
    """SGD heads: one for each learning rate on the features as they are, then one for each on standardised features."""

    rates: np.ndarray
    steps: int
    batch: int
    class_weight: str
    seed: int

    @property
    def unchosen(self) -> int:
        """The one to take where there are too few patients to choose: the middle rate on standardised features."""
        return len(self.rates) + len(self.rates) // 2

    def coarse(self) -> list[list[int]]:
        """What is tried first: all, in one step, since all together cost little more than one."""
        return [list(range(len(FORMS) * len(self.rates)))]

    def around(self, scores: Mapping[int, float]) -> list[int]:
        """Nothing: no head is trained more finely."""
        return []

    def fits(self, features: np.ndarray, labels: np.ndarray, classes: int, final: bool = False) -> Predict:
        """Heads that are trained, all together or one alone, when predictions are asked for; see `Predict`."""
        standard, weight = standardiser(features), class_weights(labels, self.class_weight)

        def predict(rows: np.ndarray, which: Sequence[int], fine: bool = False) -> np.ndarray:
            grid, forms = self, slice(None)
            if len(which) == 1:
                form, rate = divmod(which[0], len(self.rates))
                grid, forms = replace(self, rates=self.rates[[rate]]), slice(form, form + 1)
            x, held = (with_bias(np.stack([part, standard(part)][forms])) for part in (features, rows))
            logits = _logits(held, grid.train(x, labels, classes, weight)).double()
            probabilities = torch.softmax(logits, 3).permute(0, 2, 1, 3).flatten(0, 1).numpy()
            return probabilities if len(which) == 1 else probabilities[list(which)]

        return predict

    def train(
        self, x: torch.Tensor, labels: np.ndarray, classes: int, weight: np.ndarray | None = None
    ) -> torch.Tensor:
        """Heads ``(F, D + 1, R, C)``, the last row the biases, for F forms ``x`` of the features of `with_bias`.

        ``weight`` (N,) has mean 1. A batch has at most N images. Rates, for 256 images, are scaled to its size.
        """
        y = torch.tensor(labels)
        w = torch.ones(len(y)) if weight is None else torch.from_numpy(weight).float()
        batch, random = min(self.batch, len(y)), torch.Generator().manual_seed(self.seed)
        heads = torch.zeros(len(x), x.shape[2], len(self.rates), classes)
        heads[:, :-1] = INITIAL_SPREAD * torch.randn(x.shape[2] - 1, 1, classes, generator=random)
        speed = torch.zeros_like(heads)
        scaled = torch.from_numpy(np.asarray(self.rates, dtype=np.float32) * batch / 256)[:, None]
        for step, rows in enumerate(batches(len(y), batch, self.steps, self.seed)):
            part = x[:, rows]
            residual = torch.softmax(_logits(part, heads), 3)
            residual[:, torch.arange(batch), :, y[rows]] -= 1
            residual *= (w[rows] / batch)[None, :, None, None]
            speed.mul_(MOMENTUM).add_(torch.einsum("fnd,fnrc->fdrc", part, residual))
            heads.sub_(scaled * (0.5 * (1 + np.cos(np.pi * step / self.steps))) * speed)
        return heads

    def settings(self, chosen: Sequence[int]) -> dict[str, Any]:
        """For ``result.json``: the rate (for 256 images) and form of each fold, and how all were trained."""
        forms, rates = np.divmod(chosen, len(self.rates))
        picked = {"rate": self.rates[rates].tolist(), "features": [FORMS[form] for form in forms]}
        grid = {"rate_grid": self.rates.tolist(), "steps": self.steps, "batch": self.batch}
        return {"solver": "sgd"} | picked | grid

    def notes(self, chosen: Sequence[int]) -> list[str]:
        """Notes on choices at an end of the grid of rates."""
        ends = sorted({index % len(self.rates) for index in chosen} & {0, len(self.rates) - 1})
        return [f"learning rate {self.rates[index]:.3g} lies at the end of the grid" for index in ends]

    def say(self, chosen: Sequence[int]) -> str:
        """The choice in words."""
        picked = [divmod(index, len(self.rates)) for index in chosen]
        return "SGD head " + ", ".join(f"{self.rates[rate]:.3g} on features {FORMS[form]}" for form, rate in picked)


def with_bias(forms: np.ndarray) -> torch.Tensor:
    """Forms of the features ``(F, N, D)`` as float32 with a last feature of 1, ``(F, N, D + 1)``."""
    return torch.from_numpy(np.pad(forms.astype(np.float32), ((0, 0), (0, 0), (0, 1)), constant_values=1))


def _logits(x: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """``(F, N, R, C)`` for features ``(F, N, D + 1)`` and heads ``(F, D + 1, R, C)``."""
    return torch.einsum("fnd,fdrc->fnrc", x, heads)


def batches(rows: int, batch: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Row indices ``(batch,)`` of each step, from one permutation after another; a short last batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        start = step % (rows // batch) * batch
        if start == 0:
            order = torch.randperm(rows, generator=generator)
        yield order[start : start + batch]
