"""SSCD (facebookresearch/sscd-copy-detection): the files that end in ``.torchvision.pt``."""

from torch import Tensor

from dermssl.backbone.adapters.adapter import IMAGENET, Adapter, Weights, part_under


def _convert(weights: Weights) -> dict[str, Tensor] | None:
    is_sscd = any(name.startswith("embeddings.") for name in weights) and "backbone.conv1.weight" in weights
    return part_under("backbone.")(weights) if is_sscd else None


NOTE = "of SSCD the averaged features of its ResNet are read, not its own pooling and descriptor"
ADAPTER = Adapter("SSCD", _convert, IMAGENET, NOTE)
