"""EfficientNet-lite0 by lukemelas' names, as the package of the extra ``weights`` holds it.

Its tensors are those of timm's ``tf_efficientnet_lite0`` in the same order under other names.
"""

import timm
import torch
from torch import Tensor

from dermssl.backbone.adapters.adapter import Adapter, Weights

ARCHITECTURE = "tf_efficientnet_lite0"


def _convert(weights: Weights) -> dict[str, Tensor] | None:
    if "_conv_stem.weight" not in weights:
        return None
    with torch.device("meta"):
        own = timm.create_model(ARCHITECTURE).state_dict()
    shapes = [value.shape for value in weights.values()]
    if shapes != [value.shape for value in own.values()]:
        return None
    return dict(zip(own, weights.values(), strict=True))


ADAPTER = Adapter("EfficientNet-lite0", _convert)
