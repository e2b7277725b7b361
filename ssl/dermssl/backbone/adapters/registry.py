"""Which adapters there are, and weights of any known layout by timm's names."""

from dataclasses import dataclass

from torch import Tensor

from dermssl.backbone.adapters import (
    clip,
    digital_dermatology,
    dino,
    dinov2,
    dinov3,
    efficientnet_lite,
    hugging_face,
    lightly,
    lightly_train,
    moco,
    panderm,
    parallel,
    solo_learn,
    sscd,
)
from dermssl.backbone.adapters.adapter import Weights

ADAPTERS = (
    parallel.ADAPTER,
    clip.ADAPTER,
    clip.OPEN_CLIP_ADAPTER,
    hugging_face.ADAPTER,
    panderm.ADAPTER,
    dinov3.ADAPTER,
    dinov2.ADAPTER,
    efficientnet_lite.ADAPTER,
    sscd.ADAPTER,
    lightly_train.ADAPTER,
    lightly.ADAPTER,
    moco.ADAPTER,
    dino.ADAPTER,
    solo_learn.ADAPTER,
    digital_dermatology.ADAPTER,
)
"""The more particular first: each is asked in turn, and all again after one applied."""


@dataclass(frozen=True)
class Translated:
    """Weights by timm's names.

    ``layouts`` are the names of the adapters that applied, ``notes`` what is not reproduced. ``normalisation`` is the
    mean and std that the first of them trained with, None where timm's own count.
    """

    weights: dict[str, Tensor]
    layouts: tuple[str, ...]
    notes: tuple[str, ...]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None


def translate(weights: Weights) -> Translated:
    """Weights of a known layout by timm's names; others as they are."""
    found, used = dict(weights), []
    while step := next(((a, new) for a in ADAPTERS if (new := a.convert(found)) is not None), None):
        used.append(step[0])
        found = step[1]
    layouts = tuple(dict.fromkeys(adapter.name for adapter in used if adapter.name))
    notes = tuple(adapter.note for adapter in used if adapter.note)
    normalisation = next((adapter.normalisation for adapter in used if adapter.normalisation), None)
    return Translated(found, layouts, notes, normalisation)
