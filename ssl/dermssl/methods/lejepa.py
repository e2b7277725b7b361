"""LeJEPA (Balestriero and LeCun 2025, https://arxiv.org/abs/2511.08544): views agree, features are Gaussian.

There is no teacher, no negative and no stopped gradient. The loss draws the projections of all views of an image to the
mean of its global views; SIGReg draws the projections of all images towards an isotropic Gaussian.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torchvision.ops import MLP

from dermssl.backbone.build import width
from dermssl.methods.method import Method, Stats, feature_spread, place_among_ranks
from dermssl.methods.registry import LejepaOptions

LARGEST, KNOTS = 5.0, 17
"""SIGReg compares characteristic functions at 17 points from -5 to 5."""
COLLAPSED = math.sqrt(2 * math.pi) - 2 * math.sqrt(math.pi) + math.sqrt(2 * math.pi / 3)
"""SIGReg per image if all projections are 0: the integral of (1 - exp(-t^2/2))^2 exp(-t^2/2)."""


class Lejepa(Method):
    """A backbone, a three-layer projection head, and the loss (1 - weight) x invariance + weight x SIGReg."""

    def __init__(self, build_backbone: Callable[[float], nn.Module], drop_path: float, options: LejepaOptions) -> None:
        super().__init__()
        self.options = options
        self.backbone = build_backbone(drop_path)
        sizes = [options.hidden_dim, options.hidden_dim, options.out_dim]
        self.head = MLP(width(self.backbone), sizes, norm_layer=nn.BatchNorm1d)

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """Algorithm 2 of the paper, on global and local crops."""
        features = [self.backbone(group.flatten(0, 1)) for group in views]
        projections = self.head(torch.cat(features))
        with torch.autocast(projections.device.type, enabled=False):
            by_view = projections.float().unflatten(0, (-1, views[0].shape[1]))
            invariance = (by_view - by_view[: len(views[0])].mean(dim=0)).square().mean()
            regularisation = sigreg(by_view, self.options.slices, int(at["slice_seed"]))
            weight = self.options.weight
            loss = (1 - weight) * invariance + weight * regularisation
            stats = {"invariance": invariance, "sigreg": regularisation, "feature_std": feature_spread(features[0])}
            return loss, {name: value.detach() for name, value in stats.items()}

    def schedules(self, steps: int, steps_per_epoch: int) -> dict[str, np.ndarray]:
        """The seed of the random directions of each step, which all ranks and micro-batches share."""
        return {"slice_seed": np.arange(steps)}

    def chance_loss(self, batch: int) -> float:
        """The loss if all projections are 0: the views agree and SIGReg is largest."""
        return self.options.weight * batch * COLLAPSED


def sigreg(projections: Tensor, slices: int, seed: int) -> Tensor:
    """Distance of the projections' distribution from an isotropic Gaussian (section 4 of the paper, algorithm 1).

    The statistic of Epps and Pulley along a random direction is N times the integral of |empirical - Gaussian
    characteristic function|^2 exp(-t^2/2), where N counts the images of all ranks. ``projections`` are ``(V, B, D)``
    float32, of B images of this rank. Returns the mean over views and ``slices`` directions, a scalar.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(projections.shape[-1], slices, generator=generator).to(projections.device)
    t = torch.linspace(-LARGEST, LARGEST, KNOTS, device=projections.device)
    gauss = torch.exp(-t.square() / 2)
    angles = (projections @ (directions / directions.norm(dim=0))).unsqueeze(-1) * t
    real, imaginary = (part(angles).mean(dim=1) for part in (torch.cos, torch.sin))
    if (ranks := place_among_ranks()[1]) > 1:
        real, imaginary = (all_reduce(part) / ranks for part in (real, imaginary))  # with their gradients
    error = ((real - gauss).square() + imaginary.square()) * gauss
    return torch.trapezoid(error, t).mean() * projections.shape[1] * ranks
