"""Image towers of CLIP: Hugging Face's names (MONET, PubMedCLIP), OpenAI's and open_clip's, open_clip around timm.

The features are the class token after the last norm, before the projection to the space shared with the text.
"""

from torch import Tensor

from dermssl.backbone.adapters.adapter import Adapter, Weights, part_under, renamed
from dermssl.backbone.adapters.hugging_face import join_qkv

HUGGING_FACE = {
    r"^vision_model\.": "",
    r"^embeddings\.class_embedding$": "cls_token",
    r"^embeddings\.patch_embedding\.": "patch_embed.proj.",
    r"^embeddings\.position_embedding\.weight$": "pos_embed",
    r"^pre_layrnorm\.": "norm_pre.",
    r"^post_layernorm\.": "norm.",
    r"^encoder\.layers\.": "blocks.",
    r"\.self_attn\.out_proj\.": ".attn.proj.",
    r"\.self_attn\.([qkv])_proj\.": r".attn.\1.",
    r"\.layer_norm([12])\.": r".norm\1.",
}
OPEN_CLIP = {
    r"^visual\.": "",
    r"^conv1\.": "patch_embed.proj.",
    r"^class_embedding$": "cls_token",
    r"^positional_embedding$": "pos_embed",
    r"^ln_pre\.": "norm_pre.",
    r"^ln_post\.": "norm.",
    r"^transformer\.resblocks\.": "blocks.",
    r"\.ln_([12])\.": r".norm\1.",
    r"\.attn\.in_proj_(weight|bias)$": r".attn.qkv.\1",
    r"\.attn\.out_proj\.": ".attn.proj.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
}


def _hugging_face(weights: Weights) -> dict[str, Tensor] | None:
    if "vision_model.embeddings.class_embedding" not in weights:
        return None
    found = renamed(weights, HUGGING_FACE, drop=r"^(?!vision_model\.)|position_ids$")
    return _shaped(join_qkv(found))


def _open_clip(weights: Weights) -> dict[str, Tensor] | None:
    if "visual.class_embedding" in weights:
        return _shaped(renamed(weights, OPEN_CLIP, drop=r"^(?!visual\.)|^visual\.proj$"))
    return part_under("visual.trunk.")(weights)


def _shaped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class token ``(D,)`` and positions ``(N, D)`` as timm has them, ``(1, 1, D)`` and ``(1, N, D)``."""
    width = weights["cls_token"].numel()
    return weights | {name: weights[name].reshape(1, -1, width) for name in ("cls_token", "pos_embed")}


ADAPTER = Adapter("CLIP of Hugging Face", _hugging_face)
OPEN_CLIP_ADAPTER = Adapter("open_clip", _open_clip)
