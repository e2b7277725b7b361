"""MoCo (facebookresearch/moco, moco-v3): the encoder that gradients reach, not its momentum copy."""

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, part_under

ADAPTER = Adapter("MoCo", part_under("encoder_q.", "base_encoder."), IMAGENET)
