"""lightly's examples: a teacher or student backbone, often torchvision's ResNet as a sequence of its children."""

import re

from torch import Tensor

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, Weights, part_under, renamed

CHILDREN = {
    r"^0\.": "conv1.",
    r"^1\.": "bn1.",
    r"^4\.": "layer1.",
    r"^5\.": "layer2.",
    r"^6\.": "layer3.",
    r"^7\.": "layer4.",
}
"""Of torchvision's ResNet; 2 and 3 are the activation and the pooling, which have no weights."""


def _convert(weights: Weights) -> dict[str, Tensor] | None:
    if "0.weight" in weights and any(re.match(r"7\.\d+\.conv1\.", name) for name in weights):
        return renamed(weights, CHILDREN)
    return part_under("teacher_backbone.", "student_backbone.", "vit.")(weights)


ADAPTER = Adapter("lightly", _convert, IMAGENET)
