"""What the training loop asks of a method. The loop knows no method by name."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

Stats = dict[str, Tensor]


class Method(nn.Module):
    """Turns views into a loss, and holds all networks and buffers that this needs.

    Its constructor takes ``build_backbone``, ``drop_path`` and ``options``. ``build_backbone(drop_path)`` returns a new
    backbone; ``options`` is the method's section of the config (`dermssl.methods.registry`).
    """

    backbones: Mapping[str, str] = MappingProxyType({"student": "backbone"})
    """The attribute that holds each backbone: the ``student``, which gradients train, and the ``teacher``, if any."""

    def network(self, which: str) -> nn.Module:
        """The backbone ``which``, a key of `backbones`."""
        return getattr(self, self.backbones[which])

    def encoder(self) -> nn.Module:
        """The backbone that is evaluated and exported: by default the student, without its head."""
        return self.network("student")

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """The mean loss (float32 scalar) of the views of B images, and statistics (scalars).

        ``views`` holds the global crops ``(V, B, 3, S, S)``, then the local crops if any. ``at`` holds the values of
        this step's schedules. If the loss is a sum, the statistic ``loss`` is the part that `chance_loss` describes.
        """
        raise NotImplementedError

    def chance_loss(self, batch: int) -> float:
        """The loss of a network that gives all ``batch`` images of a forward pass the same output."""
        raise NotImplementedError

    def schedules(self, steps: int, steps_per_epoch: int) -> dict[str, np.ndarray]:
        """The method's own scheduled values over the global step, each ``(steps,)``."""
        return {}

    def before_update(self, at: dict[str, float]) -> None:
        """Called after gradients are averaged and clipped, before the optimizer changes the weights."""

    def after_update(self, at: dict[str, float]) -> None:
        """Called once per optimizer step, after the weights have changed."""

    def skip_update(self) -> None:
        """Called instead of the two above after a step that was not finite: forget what `forward` remembered."""


def place_among_ranks() -> tuple[int, int]:
    """This rank and the number of ranks; 0 and 1 for a single process."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def feature_spread(features: Tensor) -> Tensor:
    """Spread of the directions of ``features`` (N, D), a scalar: 0 if all are equal, 1 if they are uniform."""
    return functional.normalize(features.float(), dim=-1).std(dim=0).mean() * math.sqrt(features.shape[1])


def frozen_copy(source: nn.Module, target: nn.Module) -> nn.Module:
    """``target``, of the same architecture, with the weights and buffers of ``source`` and without gradients."""
    target.load_state_dict(source.state_dict())
    return target.requires_grad_(False)
