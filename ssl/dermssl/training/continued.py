"""Continued pretraining: protects the weights that a run starts from, by `KeepOptions`."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from dermssl.backbone.low_rank import add_low_rank
from dermssl.errors import InputError
from dermssl.methods.method import Stats
from dermssl.training.options import KeepOptions


def hold_start(backbones: Sequence[nn.Module], options: KeepOptions, seed: int) -> None:
    """Freeze first layers and batch statistics, and add low-rank adapters, in student and teacher (``backbones``).

    Raises InputError: the backbone has too few layers, no layer for adapters, or no BatchNorm.
    """
    for backbone in backbones:
        learns = any(parameter.requires_grad for parameter in backbone.parameters())
        backbone.requires_grad_(True)  # adapters go to layers that learn: the same in student and teacher
        if options.frozen_layers:
            freeze_layers(backbone, options.frozen_layers)
        if options.adapter_rank:
            add_low_rank(backbone, options.adapter_rank, seed, "keep.adapter_rank")
        if options.frozen_batch_norm and not keep_statistics(backbone.modules()):
            raise InputError("keep.frozen_batch_norm: the backbone has no BatchNorm: leave it out")
        if not learns:
            backbone.requires_grad_(False)


def freeze_layers(backbone: nn.Module, count: int) -> None:
    """Freeze the first ``count`` layers as timm groups them: the stem, then the blocks (transformers) or stages."""
    matcher = backbone.group_matcher(coarse=True)  # type: ignore[operator]
    layers: dict[str, int] = group_parameters(backbone, matcher, reverse=True)
    if count > max(layers.values()):
        raise InputError(f"keep.frozen_layers {count}: the backbone has {max(layers.values()) + 1} layers: give fewer")
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(layers[name] >= count)
    keep_statistics(m for name, m in backbone.named_modules() if layers.get(f"{name}.weight", count) < count)


def keep_statistics(modules: Iterable[nn.Module]) -> int:
    """Make every BatchNorm use its running statistics and never change them. Returns the number of BatchNorms."""

    def evaluate(module: nn.Module, _: object) -> None:
        module.eval()

    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.register_forward_pre_hook(evaluate)
    return len(norms)


class Distilled(nn.Module):
    """A method with a further loss: ``weight`` x mean of 1 - cosine(student's feature, feature of ``method.start``)."""

    def __init__(self, method: Any, student: nn.Module, weight: float) -> None:
        super().__init__()
        self.method, self.weight = method, weight
        self.features: list[Tensor] = []
        student.register_forward_hook(lambda _module, _images, features: self.features.append(features))

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """The sum of both losses, and statistics with the method's own ``loss`` and the mean ``start_distance``."""
        self.features.clear()
        loss, stats = self.method(views, at)
        with torch.no_grad():
            start = self.method.start.eval()(views[0].flatten(0, 1))
        with torch.autocast(start.device.type, enabled=False):
            distance = 1 - functional.cosine_similarity(self.features[0].float(), start.float()).mean()
            stats = {"loss": loss.detach(), **stats, "start_distance": distance.detach()}
            return loss + self.weight * distance, stats
