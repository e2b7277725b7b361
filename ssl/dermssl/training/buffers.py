"""What the forward pass changes beside the gradients, kept so that a step can be left out entirely."""

import torch
from torch import nn


class Buffers:
    """A network's floating-point buffers (BatchNorm's running statistics) and how they were before a step.

    The forward pass moves them, so leaving out a step that was not finite must put them back, and so must a backward
    pass that computes activations again.
    """

    def __init__(self, network: nn.Module) -> None:
        self.buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self.before = [buffer.clone() for buffer in self.buffers]

    def keep(self) -> None:
        """Remember them as they are."""
        if self.buffers:
            torch._foreach_copy_(self.before, self.buffers)

    def put_back(self) -> None:
        """As they were when last kept."""
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.before)
