"""Projection heads, from lightly, with the parts that methods share."""

import warnings

from lightly.models.modules.heads import DINOProjectionHead, SimCLRProjectionHead
from torch import nn

from dermssl.methods.options import DinoOptions, SimclrOptions


def dino_head(in_dim: int, options: DinoOptions) -> DINOProjectionHead:
    """Three-layer MLP, L2-normalised bottleneck, weight-normalised last layer without bias.

    Weight normalisation forbids ``copy.deepcopy``: build a second head and load the first one's state.
    """
    with warnings.catch_warnings():
        # lightly uses PyTorch's older form of weight normalisation; the user can do nothing about it.
        warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
        return DINOProjectionHead(
            input_dim=in_dim,
            hidden_dim=options.hidden_dim,
            bottleneck_dim=options.bottleneck_dim,
            output_dim=options.out_dim,
            batch_norm=options.batch_norm,
            norm_last_layer=options.norm_last_layer,
        )


def simclr_head(in_dim: int, options: SimclrOptions) -> nn.Module:
    """Two-layer MLP, with BatchNorm as published unless switched off."""
    return SimCLRProjectionHead(in_dim, options.hidden_dim, options.out_dim, batch_norm=options.batch_norm)


def freeze(module: nn.Module) -> nn.Module:
    """Take a network out of the optimizer's reach."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module
