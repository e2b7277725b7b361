"""The methods by name."""

from collections.abc import Callable

from torch import nn

from dermssl.methods.dino import Dino
from dermssl.methods.options import DinoOptions, SimclrOptions
from dermssl.methods.simclr import Simclr


def build_method(
    name: str,
    build_backbone: Callable[[float], nn.Module],
    drop_path: float,
    dino: DinoOptions,
    simclr: SimclrOptions,
) -> Dino | Simclr:
    """``dino`` or ``simclr`` around backbones made by ``build_backbone(drop_path)``."""
    if name == "dino":
        return Dino(build_backbone, drop_path, dino)
    return Simclr(build_backbone, drop_path, simclr)
