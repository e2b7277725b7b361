"""Vision transformers of Hugging Face's transformers: ViT, DINOv2 (with registers) and DINOv3."""

import re

import torch
from torch import Tensor

from dermssl.backbone.adapters.adapter import Adapter, Weights, renamed

RULES = {
    r"^(vit|dinov2|dinov2_with_registers|model)\.": "",
    r"^embeddings\.cls_token$": "cls_token",
    r"^embeddings\.register_tokens$": "reg_token",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.(projection\.)?": "patch_embed.proj.",
    r"^(encoder\.)?layer\.": "blocks.",
    r"^layernorm\.": "norm.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"\.attention\.attention\.(q|k|v)[a-z]+\.": r".attn.\1.",
    r"\.attention\.([qkv])_proj\.": r".attn.\1.",
    r"\.attention\.(output\.dense|o_proj)\.": ".attn.proj.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"\.output\.dense\.": ".mlp.fc2.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
    r"\.mlp\.weights_in\.": ".mlp.fc1.",
    r"\.mlp\.weights_out\.": ".mlp.fc2.",
    r"\.mlp\.gate_proj\.": ".mlp.fc1_g.",
    r"\.mlp\.up_proj\.": ".mlp.fc1_x.",
    r"\.mlp\.down_proj\.": ".mlp.fc2.",
}


def join_qkv(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``attn.q``, ``attn.k``, ``attn.v`` as one ``attn.qkv``; a bias that one of them lacks (DINOv3's keys) is zero."""
    joined = {name: value for name, value in weights.items() if not re.search(r"\.attn\.[qkv]\.", name)}
    for name, query in weights.items():
        if found := re.fullmatch(r"(.*\.attn)\.q\.(weight|bias)", name):
            parts = [weights.get(f"{found[1]}.{part}.{found[2]}", torch.zeros_like(query)) for part in "qkv"]
            joined[f"{found[1]}.qkv.{found[2]}"] = torch.cat(parts)
    return joined


def _convert(weights: Weights) -> dict[str, Tensor] | None:
    if not any(re.search(r"(^|\.)embeddings\.cls_token$", name) for name in weights):
        return None
    found = join_qkv(renamed(weights, RULES, drop=r"mask_token$|(^|\.)pooler\.|^classifier\.|inv_freq$"))
    if not any(".mlp.fc1_g." in name for name in found):  # a plain MLP, whose first layer DINOv3 calls up_proj
        found = renamed(found, {r"\.mlp\.fc1_x\.": ".mlp.fc1."})
    return found


ADAPTER = Adapter("transformers of Hugging Face", _convert)
