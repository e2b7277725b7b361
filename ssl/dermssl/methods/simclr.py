"""SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709): two views agree, all other images differ."""

import math
from collections.abc import Callable

import numpy as np
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torch.nn import functional

from dermssl.backbone.build import width
from dermssl.methods.heads import simclr_head
from dermssl.methods.method import Stats
from dermssl.methods.options import SimclrOptions


class Simclr(nn.Module):
    """Backbone, projection head and NT-Xent over the images of all ranks, with gradients through the gather."""

    def __init__(self, build_backbone: Callable[[float], nn.Module], drop_path: float, options: SimclrOptions) -> None:
        super().__init__()
        self.options = options
        self.backbone = build_backbone(drop_path)
        self.head = simclr_head(width(self.backbone), options)
        self.loss = NTXentLoss(temperature=options.temperature, gather_distributed=True)

    def encoder(self) -> nn.Module:
        """The backbone; the projection head is dropped, as in the paper."""
        return self.backbone

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """NT-Xent (equation 1) of the first two global crops ``views[0]`` (2, B, 3, S, S)."""
        features = self.backbone(views[0].flatten(0, 1))
        projections = self.head(features)
        with torch.autocast(projections.device.type, enabled=False):
            first, second = projections.float().chunk(2)
            assert first.dtype == torch.float32
            loss = self.loss(first, second)
            stats = self._stats(first, second, features.float())
        return loss, stats

    @torch.no_grad()
    def _stats(self, first: Tensor, second: Tensor, features: Tensor) -> Stats:
        agreement = functional.cosine_similarity(first, second)
        spread = functional.normalize(features, dim=-1).std(dim=0).mean() * math.sqrt(features.shape[1])
        return {"positive_similarity": agreement.mean(), "feature_std": spread}

    def schedules(self, steps: int, steps_per_epoch: int) -> dict[str, np.ndarray]:
        """None of its own."""
        return {}

    def before_update(self, at: dict[str, float]) -> None:
        """Nothing to do."""

    def after_update(self, at: dict[str, float]) -> None:
        """Nothing to do."""

    def skip_update(self) -> None:
        """Nothing to forget."""

    def chance_loss(self, batch: int) -> float:
        """ln(2B - 1): all similarities equal."""
        return math.log(2 * batch - 1)
