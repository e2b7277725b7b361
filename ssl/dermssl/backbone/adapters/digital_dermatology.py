"""Digital-Dermatology's self-supervised models: the layout of DINO and iBOT, or a ResNet under a prefix."""

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, part_under

ADAPTER = Adapter("Digital-Dermatology", part_under("net.", "convnet.", "model."), IMAGENET)
