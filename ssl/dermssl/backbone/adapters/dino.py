"""DINO and iBOT (facebookresearch/dino, bytedance/ibot).

``teacher`` and ``student`` each have ``backbone.`` and ``head.``. The backbones, vision transformers and torchvision's
ResNets, have timm's names already.
"""

from torch import Tensor

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, Weights, part_under, renamed


def _convert(weights: Weights) -> dict[str, Tensor] | None:
    if "masked_embed" in weights:  # iBOT's token of hidden patches
        return renamed(weights, {}, drop=r"^masked_embed$")
    if any(name.startswith("head.last_layer.") for name in weights):
        return part_under("backbone.")(weights) or renamed(weights, {}, drop=r"^head\.")
    return part_under("teacher.", "student.")(weights)


ADAPTER = Adapter("DINO", _convert, IMAGENET)
