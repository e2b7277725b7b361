"""What an adapter is, and the two things that most of them do."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Weights = Mapping[str, Tensor]
Convert = Callable[[Weights], dict[str, Tensor] | None]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Adapter:
    """One layout of weights.

    Attributes:
        name: the project, as a message names it.
        convert: weights of this layout, as they stand in the file -> the same by names nearer to timm's, or None where
            the layout is another one. The registry calls adapters until none applies any more.
        normalisation: mean and std that the project trained with, where they may differ from those of timm's model.
        note: what of the project's own features is not reproduced.
    """

    name: str
    convert: Convert
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    note: str = ""


def part_under(*prefixes: str) -> Convert:
    """Keep only the network under the first of ``prefixes`` that the file has, and cut the prefix off."""

    def convert(weights: Weights) -> dict[str, Tensor] | None:
        for prefix in prefixes:
            found = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
            if found:
                return found
        return None

    return convert


def renamed(weights: Weights, rules: Mapping[str, str], drop: str = "$^") -> dict[str, Tensor]:
    """Names with the regular expressions of ``rules`` replaced, in their order, but for those that match ``drop``."""
    kept = {}
    for name, value in weights.items():
        if re.search(drop, name):
            continue
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        kept[name] = value
    return kept
