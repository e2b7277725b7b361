"""SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709): two views agree, all other images differ."""

import math
from collections.abc import Callable

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, nn
from torch.nn import functional

from dermssl.backbone.build import width
from dermssl.methods.method import Method, Stats, feature_spread
from dermssl.methods.registry import SimclrOptions


class Simclr(Method):
    """A backbone, a projection head, and NT-Xent over the images of all ranks (gradients pass through the gather)."""

    def __init__(self, build_backbone: Callable[[float], nn.Module], drop_path: float, options: SimclrOptions) -> None:
        super().__init__()
        self.backbone = build_backbone(drop_path)
        dim = width(self.backbone)
        self.head = SimCLRProjectionHead(dim, options.hidden_dim, options.out_dim, batch_norm=options.batch_norm)
        self.loss = NTXentLoss(temperature=options.temperature, gather_distributed=True)

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """NT-Xent (equation 1) of the two global crops ``views[0]`` (2, B, 3, S, S)."""
        features = self.backbone(views[0].flatten(0, 1))
        projections = self.head(features)
        with torch.autocast(projections.device.type, enabled=False):
            first, second = projections.float().chunk(2)
            loss = self.loss(first, second)
            with torch.no_grad():
                similarity = functional.cosine_similarity(first, second).mean()
                return loss, {"positive_similarity": similarity, "feature_std": feature_spread(features)}

    def chance_loss(self, batch: int) -> float:
        """ln(2B - 1): all similarities are equal."""
        return math.log(2 * batch - 1)
