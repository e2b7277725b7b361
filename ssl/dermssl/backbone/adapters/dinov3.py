"""DINOv3 (facebookresearch/dinov3): registers called storage tokens, rotary positions, biases of keys masked out."""

from torch import Tensor

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, Weights, renamed

RULES = {
    r"^storage_tokens$": "reg_token",
    r"\.mlp\.w1\.": ".mlp.fc1_g.",
    r"\.mlp\.w2\.": ".mlp.fc1_x.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}


def _convert(weights: Weights) -> dict[str, Tensor] | None:
    if "storage_tokens" not in weights:
        return None
    return renamed(weights, RULES, drop=r"^mask_token$|^rope_embed\.|bias_mask$|^local_cls_norm|^projectors\.")


ADAPTER = Adapter("DINOv3", _convert, IMAGENET)
