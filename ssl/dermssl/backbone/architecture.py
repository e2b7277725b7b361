"""timm's name of the network that some weights belong to, by their names and shapes."""

import re
from collections.abc import Sequence

import timm

from dermssl.backbone.layouts import LITE0, Weights

WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


def guess_architecture(weights: Weights, layouts: Sequence[str]) -> str | None:
    """The network of translated ``weights``, or None where names and shapes leave it open.

    ``layouts`` are those that applied, see `dermssl.backbone.layouts.translate`.
    """
    name = None
    if "patch_embed.proj.weight" in weights:
        name = _transformer(weights, layouts)
    elif "layer4.0.conv1.weight" in weights:
        name = _resnet(weights)
    elif "conv_stem.weight" in weights and "EfficientNet-lite0" in layouts:
        name = LITE0
    return name if name and timm.is_model(name) else None


def _transformer(weights: Weights, layouts: Sequence[str]) -> str | None:
    patches = weights["patch_embed.proj.weight"]
    size, side = WIDTHS.get(patches.shape[0]), patches.shape[-1]
    registers = f"_reg{weights['reg_token'].shape[1]}" if "reg_token" in weights else ""
    if "open_clip" in layouts:
        return None  # whether its activation is OpenAI's approximation or exact cannot be seen in weights
    if "norm_pre.weight" in weights:
        return f"vit_{size}_patch{side}_clip_quickgelu_224"
    if "pos_embed" not in weights:
        biased = any(bool(value.any()) for name, value in weights.items() if name.endswith("qkv.bias"))
        plus = "_plus" if any(".mlp.fc1_g." in name for name in weights) and size in ("small", "huge") else ""
        return f"vit_{size}{plus}_patch{side}_dinov3" + ("_qkvb" if biased else "")
    if "blocks.0.ls1.gamma" in weights:
        return f"vit_{size}_patch{side}{registers}_dinov2" if side == 14 else f"deit3_{size}_patch{side}_224"
    return f"vit_{size}_patch{side}_224"


def _resnet(weights: Weights) -> str | None:
    counts = tuple(
        len({found[1] for name in weights if (found := re.match(rf"layer{stage}\.(\d+)\.", name))})
        for stage in range(1, 5)
    )
    plain = weights["layer1.0.conv1.weight"].shape[0] == 64
    return RESNETS.get((counts, "layer1.0.conv3.weight" in weights)) if plain else None
