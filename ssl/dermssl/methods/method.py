"""What the training loop asks of a method. The loop knows no method by name."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

Stats = dict[str, Tensor]


class Method(nn.Module):
    """Turns views into a loss and keeps its own further networks and buffers.

    It is built as ``Class(build_backbone, drop_path, options)``: ``build_backbone(drop_path)`` gives a new backbone,
    ``options`` is the method's section of the config (`dermssl.methods.registry`).
    """

    backbones: Mapping[str, str] = MappingProxyType({"student": "backbone"})
    """The attribute of each backbone: the ``student``, which gradients reach, and perhaps a ``teacher``."""

    def network(self, which: str) -> nn.Module:
        """The ``student`` or the ``teacher`` of `backbones`."""
        return getattr(self, self.backbones[which])

    def encoder(self) -> nn.Module:
        """The backbone that is evaluated and exported: by default the student, without its head."""
        return self.network("student")

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """Views (``(V, B, 3, S, S)`` each: global crops, then local ones) -> mean loss in float32, and statistics.

        ``at`` holds this step's value of each of the method's `schedules`. A method of several losses reports the one
        that `chance_loss` speaks of as the statistic ``loss``.
        """
        raise NotImplementedError

    def chance_loss(self, batch: int) -> float:
        """The loss of a network that gives all images the same output; ``batch`` is the number of images compared."""
        raise NotImplementedError

    def schedules(self, steps: int, steps_per_epoch: int) -> dict[str, np.ndarray]:
        """The method's own scheduled values over the global step, each ``(steps,)``; by default none."""
        return {}

    def before_update(self, at: dict[str, float]) -> None:
        """Runs after gradients are averaged and clipped, before the optimizer moves the weights."""

    def after_update(self, at: dict[str, float]) -> None:
        """Runs once per optimizer step, after the weights have moved."""

    def skip_update(self) -> None:
        """Runs instead of the two above after a step that was not finite: forget what `forward` remembered."""


def place_among_ranks() -> tuple[int, int]:
    """This rank and the number of ranks; 0 and 1 where there is one process."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def feature_spread(features: Tensor) -> Tensor:
    """Spread of unit-length ``features`` (N, D): 0 where all are equal, 1 where they point everywhere (a scalar)."""
    return functional.normalize(features.float(), dim=-1).std(dim=0).mean() * math.sqrt(features.shape[1])


def freeze(module: nn.Module) -> nn.Module:
    """Exclude a network from training."""
    return module.requires_grad_(False)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> nn.Module:
    """Give ``target`` the weights and buffers of ``source``, which has the same architecture."""
    target.load_state_dict(source.state_dict())
    return target
