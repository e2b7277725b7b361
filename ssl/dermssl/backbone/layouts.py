"""Translates weights that other projects released to timm's names.

The function of one layout changes the names of weights towards timm's, or returns None if the weights have another
layout. `translate` applies the functions of `LAYOUTS` until none fits.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

Weights = Mapping[str, Tensor]
Convert = Callable[[Weights], dict[str, Tensor] | None]
LITE0 = "tf_efficientnet_lite0"


def part_under(*prefixes: str) -> Convert:
    """A layout with several networks: keeps the one under the first prefix that occurs, without the prefix."""

    def convert(weights: Weights) -> dict[str, Tensor] | None:
        for prefix in prefixes:
            found = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
            if found:
                return found
        return None

    return convert


def renamed(weights: Weights, rules: Mapping[str, str], drop: str = "$^") -> dict[str, Tensor]:
    """Weights with ``rules`` (expression -> replacement) applied to their names, without names that match ``drop``."""
    kept = {}
    for name, value in weights.items():
        if not re.search(drop, name):
            for pattern, replacement in rules.items():
                name = re.sub(pattern, replacement, name)
            kept[name] = value
    return kept


def join_qkv(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join ``attn.q``, ``attn.k`` and ``attn.v`` to ``attn.qkv``. A missing bias (of DINOv3's keys) becomes zero."""
    joined = {name: value for name, value in weights.items() if not re.search(r"\.attn\.[qkv]\.", name)}
    for name, query in weights.items():
        if found := re.fullmatch(r"(.*\.attn)\.q\.(weight|bias)", name):
            parts = [weights.get(f"{found[1]}.{part}.{found[2]}", torch.zeros_like(query)) for part in "qkv"]
            joined[f"{found[1]}.qkv.{found[2]}"] = torch.cat(parts)
    return joined


CLIP = {
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


def _clip(weights: Weights) -> dict[str, Tensor] | None:
    """Image towers of CLIP with Hugging Face's names (MONET, PubMedCLIP).

    The features are the class token after the last norm, before the projection to the space that text shares.
    """
    if "vision_model.embeddings.class_embedding" not in weights:
        return None
    return _with_token_axes(join_qkv(renamed(weights, CLIP, drop=r"^(?!vision_model\.)|position_ids$")))


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


def _open_clip(weights: Weights) -> dict[str, Tensor] | None:
    """Image towers of OpenAI's CLIP and of open_clip, which may hold a timm model; features as in `_clip`."""
    if "visual.class_embedding" in weights:
        return _with_token_axes(renamed(weights, OPEN_CLIP, drop=r"^(?!visual\.)|^visual\.proj$"))
    return part_under("visual.trunk.")(weights)


def _with_token_axes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class token ``(D,)`` and positions ``(N, D)`` with timm's shapes ``(1, 1, D)`` and ``(1, N, D)``."""
    width = weights["cls_token"].numel()
    return weights | {name: weights[name].reshape(1, -1, width) for name in ("cls_token", "pos_embed")}


HUGGING_FACE = {
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


def _hugging_face(weights: Weights) -> dict[str, Tensor] | None:
    """ViT, DINOv2 (with registers) and DINOv3 of Hugging Face's transformers."""
    if not any(re.search(r"(^|\.)embeddings\.cls_token$", name) for name in weights):
        return None
    found = join_qkv(renamed(weights, HUGGING_FACE, drop=r"mask_token$|(^|\.)pooler\.|^classifier\.|inv_freq$"))
    if not any(".mlp.fc1_g." in name for name in found):  # a plain MLP, whose first layer DINOv3 calls up_proj
        found = renamed(found, {r"\.mlp\.fc1_x\.": ".mlp.fc1."})
    return found


def _panderm(weights: Weights) -> dict[str, Tensor] | None:
    """PanDerm: a CAE transformer with separate biases of queries and values, and layer scale as ``gamma_1``.

    Only the large checkpoint holds the whole pretraining network. timm's DeiT-III of the same width computes the same.
    """
    mark, rules = "blocks.0.attn.q_bias", {r"\.gamma_1$": ".ls1.gamma", r"\.gamma_2$": ".ls2.gamma"}
    if f"encoder.{mark}" in weights:
        weights = {name[8:]: value for name, value in weights.items() if name.startswith("encoder.")}
    if mark not in weights or "pos_embed" not in weights:
        return None
    found = renamed(weights, rules, drop=r"[qv]_bias$|relative_position|^mask_token$|^(fc_norm|query_token|attentive)")
    for name, query in weights.items():
        if block := re.fullmatch(r"(blocks\.\d+\.attn)\.q_bias", name):
            value = weights[f"{block[1]}.v_bias"]
            found[f"{block[1]}.qkv.bias"] = torch.cat([query, torch.zeros_like(value), value])
    return found


DINOV3 = {
    r"^storage_tokens$": "reg_token",
    r"\.mlp\.w1\.": ".mlp.fc1_g.",
    r"\.mlp\.w2\.": ".mlp.fc1_x.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}


def _dinov3(weights: Weights) -> dict[str, Tensor] | None:
    """DINOv3: registers with the name storage tokens, rotary positions, masked biases of keys."""
    if "storage_tokens" not in weights:
        return None
    return renamed(weights, DINOV3, drop=r"^mask_token$|^rope_embed\.|bias_mask$|^local_cls_norm|^projectors\.")


DINOV2 = {
    r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.",
    r"^register_tokens$": "reg_token",
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}


def _dinov2(weights: Weights) -> dict[str, Tensor] | None:
    """DINOv2: mask token, registers, fused SwiGLU.

    A training checkpoint has ``teacher.backbone.`` before the names of a released backbone and, under FSDP,
    ``blocks.<chunk>.<block>.`` for ``blocks.<block>.``.
    """
    if "backbone.mask_token" in weights:
        return part_under("backbone.")(weights)
    is_vit = "patch_embed.proj.weight" in weights and "pos_embed" in weights
    foreign = any(name == "mask_token" or re.match("|".join(DINOV2), name) for name in weights)
    return renamed(weights, DINOV2, drop=r"^mask_token$") if is_vit and foreign else None


def _efficientnet_lite(weights: Weights) -> dict[str, Tensor] | None:
    """EfficientNet-lite0 with lukemelas' names: the tensors of timm's network in the same order."""
    if "_conv_stem.weight" not in weights:
        return None
    with torch.device("meta"):
        own = timm.create_model(LITE0).state_dict()
    if [value.shape for value in weights.values()] != [value.shape for value in own.values()]:
        return None
    return dict(zip(own, weights.values(), strict=True))


def _sscd(weights: Weights) -> dict[str, Tensor] | None:
    """SSCD: its files ``*.torchvision.pt``."""
    is_sscd = any(name.startswith("embeddings.") for name in weights) and "backbone.conv1.weight" in weights
    return part_under("backbone.")(weights) if is_sscd else None


TORCHVISION_CHILDREN = {r"^0\.": "conv1.", r"^1\.": "bn1."} | {rf"^{n + 3}\.": f"layer{n}." for n in range(1, 5)}
"""The children of torchvision's ResNet by number; 2 and 3 (activation, pooling) have no weights."""


def _lightly(weights: Weights) -> dict[str, Tensor] | None:
    """lightly's examples: a teacher or student backbone, often the sequence of the children of torchvision's ResNet."""
    if "0.weight" in weights and any(re.match(r"7\.\d+\.conv1\.", name) for name in weights):
        return renamed(weights, TORCHVISION_CHILDREN)
    return part_under("teacher_backbone.", "student_backbone.", "vit.")(weights)


def _dino(weights: Weights) -> dict[str, Tensor] | None:
    """DINO and iBOT: ``teacher`` and ``student`` each have ``backbone.``, with timm's names, and ``head.``."""
    if "masked_embed" in weights:  # iBOT's mask token
        return renamed(weights, {}, drop=r"^masked_embed$")
    if any(name.startswith("head.last_layer.") for name in weights):
        return part_under("backbone.")(weights) or renamed(weights, {}, drop=r"^head\.")
    return part_under("teacher.", "student.")(weights)


@dataclass(frozen=True)
class WeightLayout:
    """The layout of weights of one project, whose ``name`` is used in messages.

    ``convert`` gives weights with names nearer to timm's, None for another layout. ``normalisation`` is the mean and
    std of the project's training, None if timm's are right. ``note`` says which features differ from the project's.
    """

    name: str
    convert: Convert
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    note: str = ""


IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
LIGHTLY_TRAIN = [
    f"{who}embedding_model.wrapped_model.{inner}"
    for who in ("teacher_", "student_", "")
    for inner in ("_model.", "_features.", "")
]
SSCD_NOTE = "of SSCD the averaged features of its ResNet are read, not its own pooling and descriptor"

LAYOUTS = (
    WeightLayout("", part_under("module.", "_orig_mod.", "_fsdp_wrapped_module.")),  # PyTorch's own, around a network
    WeightLayout("CLIP of Hugging Face", _clip),
    WeightLayout("open_clip", _open_clip),
    WeightLayout("transformers of Hugging Face", _hugging_face),
    WeightLayout("PanDerm", _panderm, IMAGENET),
    WeightLayout("DINOv3", _dinov3, IMAGENET),
    WeightLayout("DINOv2", _dinov2, IMAGENET),
    WeightLayout("EfficientNet-lite0", _efficientnet_lite),
    WeightLayout("SSCD", _sscd, IMAGENET, SSCD_NOTE),
    WeightLayout("lightly-train", part_under(*LIGHTLY_TRAIN), IMAGENET),
    WeightLayout("lightly", _lightly, IMAGENET),
    WeightLayout("MoCo", part_under("encoder_q.", "base_encoder."), IMAGENET),  # not its momentum copy
    WeightLayout("DINO", _dino, IMAGENET),
    WeightLayout("solo-learn or the like", part_under("backbone.", "encoder."), IMAGENET),
    WeightLayout("Digital-Dermatology", part_under("net.", "convnet.", "model."), IMAGENET),
)
"""More special layouts come first. After one applied, all are tried again."""


@dataclass(frozen=True)
class Translated:
    """Weights with timm's names, and the names, notes and first normalisation of the layouts that applied."""

    weights: dict[str, Tensor]
    layouts: tuple[str, ...]
    notes: tuple[str, ...]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None


def translate(weights: Weights) -> Translated:
    """``weights`` with timm's names if their layout is known, else unchanged."""
    found, used = dict(weights), []
    while step := next(((one, new) for one in LAYOUTS if (new := one.convert(found)) is not None), None):
        used.append(step[0])
        found = step[1]
    names = tuple(dict.fromkeys(layout.name for layout in used if layout.name))
    notes = tuple(layout.note for layout in used if layout.note)
    normalisation = next((layout.normalisation for layout in used if layout.normalisation), None)
    return Translated(found, names, notes, normalisation)
