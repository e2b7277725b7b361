"""What the training loop asks of a method; it knows none of them by name."""

from typing import Protocol

import numpy as np
from torch import Tensor, nn

Stats = dict[str, Tensor]


class Method(Protocol):
    """An ``nn.Module`` that turns views into a loss and keeps its own extra networks and buffers."""

    def encoder(self) -> nn.Module:
        """The backbone worth keeping: what is evaluated and exported."""

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """Views (``(V, B, 3, S, S)`` each: global crops, then local ones) -> mean loss in float32, and statistics.

        ``at`` holds this step's value of each of the method's `schedules`.
        """

    def schedules(self, steps: int, steps_per_epoch: int) -> dict[str, np.ndarray]:
        """The method's own scheduled values over the global step, each ``(steps,)``."""

    def before_update(self, at: dict[str, float]) -> None:
        """After gradients are averaged and clipped, before the optimizer moves the weights."""

    def after_update(self, at: dict[str, float]) -> None:
        """Once per optimizer step, after the weights moved."""

    def skip_update(self) -> None:
        """Instead of the two above when a step was not finite: forget what `forward` remembered."""

    def chance_loss(self, batch: int) -> float:
        """The loss of a network that tells nothing apart; ``batch`` is the number of images compared."""
