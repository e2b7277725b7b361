"""Low-rank adapters (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685) on a backbone's weights."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dermssl.errors import InputError


class LowRank(nn.Module):
    """``weight`` -> ``weight + up down``; at first ``down`` (rank, inputs) is random and ``up`` (outputs, rank) 0."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        inputs = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inputs, generator=generator) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The layer's weight with the adapter."""
        return weight + (self.up @ self.down).view_as(weight)


def add_low_rank(backbone: nn.Module, rank: int, seed: int, option: str) -> None:
    """Freeze the backbone, and add an adapter to every trainable linear layer and ungrouped convolution.

    Raises InputError, naming ``option``: ``rank`` is too high for all these layers.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [
        layer
        for layer in backbone.modules()
        if (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1))
        and layer.weight.requires_grad
        and rank < min(len(layer.weight), layer.weight[0].numel())
    ]
    if not layers:
        raise InputError(f"{option} {rank}: the backbone has no layer for adapters of that rank: lower it")
    backbone.requires_grad_(False)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, generator))


def merge_low_rank(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the backbone without adapters: each adapter is added to its weight."""
    mark = ".parametrizations.weight."
    merged = {name: value for name, value in weights.items() if mark not in name}
    for name, value in weights.items():
        if name.endswith(f"{mark}original"):
            up, down = (weights[name.replace("original", f"0.{part}")] for part in ("up", "down"))
            merged[name.replace(f"{mark}original", ".weight")] = value + (up @ down).view_as(value)
    return merged
