"""Linear heads trained by stochastic gradient descent, all settings of a grid together.

This is DINOv2's linear evaluation (Oquab et al. 2023, appendix B.3, and its ``eval/linear.py``): momentum 0.9, no
weight decay, a cosine to 0, weights from N(0, 0.01). There is one head per learning rate and form of the features.
Every head sees the same batches, so one batched product serves them all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""DINOv2's learning rates per 256 images of a batch."""
MOMENTUM, INITIAL_SPREAD = 0.9, 0.01


@dataclass(frozen=True)
class Heads:
    """``weights`` ``(F, D, R, C)`` and ``biases`` ``(F, R, C)`` for F forms of the features and R learning rates."""

    weights: torch.Tensor
    biases: torch.Tensor

    def logits(self, forms: torch.Tensor) -> torch.Tensor:
        """``(F, N, R, C)`` for features in all their ``forms`` ``(F, N, D)``."""
        return torch.einsum("fnd,fdrc->fnrc", forms, self.weights) + self.biases[:, None]


def fit_heads(
    forms: np.ndarray,
    labels: np.ndarray,
    classes: int,
    rates: np.ndarray,
    steps: int,
    batch: int,
    seed: int,
    sample_weight: np.ndarray | None = None,
) -> Heads:
    """Train F x R heads on ``forms`` ``(F, N, D)`` of the same N images, float32, with ``labels`` ``(N,)`` in 0..C-1.

    The ``rates`` ``(R,)`` are per 256 images and scaled to the batch, which is clipped to N. ``seed`` sets the first
    weights and the order of the images. ``sample_weight`` ``(N,)`` has mean 1.
    """
    x, y = torch.from_numpy(forms), torch.tensor(labels)
    w = torch.ones(len(y)) if sample_weight is None else torch.from_numpy(sample_weight).float()
    batch = min(batch, len(y))
    start = INITIAL_SPREAD * torch.randn(x.shape[2], 1, classes, generator=torch.Generator().manual_seed(seed))
    heads = Heads(
        start.repeat(len(x), 1, len(rates), 1).contiguous(),
        torch.zeros(len(x), len(rates), classes),
    )
    speed = Heads(torch.zeros_like(heads.weights), torch.zeros_like(heads.biases))
    scaled = torch.from_numpy(np.asarray(rates, dtype=np.float32) * batch / 256)[:, None]
    for step, rows in enumerate(batches(len(y), batch, steps, seed)):
        part = x[:, rows]
        residual = torch.softmax(heads.logits(part), 3)
        residual[:, torch.arange(batch), :, y[rows]] -= 1
        residual *= (w[rows] / batch)[None, :, None, None]
        speed.weights.mul_(MOMENTUM).add_(torch.einsum("fnd,fnrc->fdrc", part, residual))
        speed.biases.mul_(MOMENTUM).add_(residual.sum(1))
        now = scaled * (0.5 * (1 + np.cos(np.pi * step / steps)))
        heads.weights.sub_(now * speed.weights)
        heads.biases.sub_(now * speed.biases)
    return heads


def batches(rows: int, batch: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Row indices ``(batch,)`` of each step: one permutation after the other, the last short part of each left out."""
    generator = torch.Generator().manual_seed(seed)
    made = 0
    while made < steps:
        order = torch.randperm(rows, generator=generator)
        for start in range(0, rows - batch + 1, batch):
            yield order[start : start + batch]
            made += 1
            if made == steps:
                return
