"""PanDerm (SiyuanYan1/PanDerm): a CAE transformer, biases of queries and values apart, layer scale as ``gamma_1``.

The large checkpoint has the encoder beside the rest of the pretraining network; the base one is bare. timm's DeiT-III
of the same width computes the same.
"""

import re

import torch
from torch import Tensor

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, Weights, renamed

MARK = "blocks.0.attn.q_bias"
RULES = {r"\.gamma_1$": ".ls1.gamma", r"\.gamma_2$": ".ls2.gamma"}


def _convert(weights: Weights) -> dict[str, Tensor] | None:
    if f"encoder.{MARK}" in weights:
        weights = {name[8:]: value for name, value in weights.items() if name.startswith("encoder.")}
    if MARK not in weights or "pos_embed" not in weights:
        return None
    found = renamed(weights, RULES, drop=r"[qv]_bias$|relative_position|^mask_token$|^(fc_norm|query_token|attentive)")
    for name, query in weights.items():
        if block := re.fullmatch(r"(blocks\.\d+\.attn)\.q_bias", name):
            value = weights[f"{block[1]}.v_bias"]
            found[f"{block[1]}.qkv.bias"] = torch.cat([query, torch.zeros_like(value), value])
    return found


ADAPTER = Adapter("PanDerm", _convert, IMAGENET)
