"""DINOv2 (facebookresearch/dinov2): mask token, registers, blocks in chunks, fused SwiGLU.

A released backbone has its names bare; a training checkpoint has ``teacher.backbone.`` before them and, under FSDP,
``blocks.<chunk>.<block>.`` for ``blocks.<block>.``.
"""

import re

from torch import Tensor

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, Weights, part_under, renamed

RULES = {
    r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.",
    r"^register_tokens$": "reg_token",
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}


def _convert(weights: Weights) -> dict[str, Tensor] | None:
    if "backbone.mask_token" in weights:
        return part_under("backbone.")(weights)
    is_vit = "patch_embed.proj.weight" in weights and "pos_embed" in weights
    foreign = any(name == "mask_token" or re.match("|".join(RULES), name) for name in weights)
    return renamed(weights, RULES, drop=r"^mask_token$") if is_vit and foreign else None


ADAPTER = Adapter("DINOv2", _convert, IMAGENET)
