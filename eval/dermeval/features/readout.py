"""Which numbers inside an encoder are its features: the pooled output, CLS with patch mean, or four blocks."""

from typing import Any

import torch
from torch import nn

from dermeval.features.options import FeatureKind
from dermeval.features.pixels import PixelPCA
from dermssl.backbone.build import width
from dermssl.errors import InputError

LAST = 4
"""Blocks (of a transformer) or stages (of a convolutional network) that ``last4`` joins."""


def check_readable(model: nn.Module, kind: FeatureKind, name: str) -> None:
    """Raise InputError where the encoder called ``name`` has no features of this ``kind``."""
    if kind == "cls":
        return
    if isinstance(model, PixelPCA):
        raise InputError(f"--features {kind}: {name} is no network, it has only its components: use --features cls")
    tokens = getattr(model, "num_prefix_tokens", None)
    if kind == "cls+mean" and not tokens:
        raise InputError(f"--features cls+mean: {name} has no class token beside its patches: use cls or last4")
    if kind == "last4" and (tokens == 0 or len(_stages(model)) < LAST):
        what = "no class token" if tokens == 0 else f"fewer than {LAST} blocks or stages to read"
        raise InputError(f"--features last4: {name} has {what}: use --features cls")


def _stages(model: nn.Module) -> list[Any]:
    """The blocks of a transformer, else the stages; none where timm cannot hand them out."""
    return list(getattr(model, "feature_info", [])) if hasattr(model, "forward_intermediates") else []


def features_width(model: nn.Module, kind: FeatureKind) -> int:
    """Number of features D that `read_features` gives."""
    if kind == "last4":
        return sum(int(stage["num_chs"]) for stage in _stages(model)[-LAST:])
    return width(model) * (2 if kind == "cls+mean" else 1)


def read_features(model: Any, images: torch.Tensor, kind: FeatureKind) -> torch.Tensor:
    """Features ``(B, D)`` of normalised images ``(B, 3, S, S)``.

    ``cls``: timm's pooled output (of a vision transformer the class token, of a ResNet the global average).
    ``cls+mean``: class token of the last block, then the mean of its patch tokens, both after the final norm.
    ``last4``: class tokens of the last four blocks, each after the final norm, earliest first (DINO's ``eval_linear``,
    Caron et al. 2021); of a ResNet the global averages of its four stages.
    """
    if kind == "cls":
        return model(images)
    if kind == "cls+mean":
        tokens = model.forward_features(images)
        return torch.cat([tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(1)], dim=1)
    if hasattr(model, "num_prefix_tokens"):
        blocks = model.forward_intermediates(
            images, indices=LAST, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        return torch.cat([prefix[:, 0] for _, prefix in blocks], dim=1)
    stages = model.forward_intermediates(images, indices=LAST, intermediates_only=True)
    return torch.cat([stage.mean((2, 3)) for stage in stages], dim=1)
