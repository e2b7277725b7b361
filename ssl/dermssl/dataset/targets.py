"""Targets: what can be predicted from a data set. The order of classes is declared, never taken from a file."""

from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Target:
    """One prediction task of a data set.

    The manifest's ``column`` holds the class name (null: unlabelled). ``positive`` is the positive class of a binary
    task. ``level`` says whether scores count images or cases (all images with one ``case_id``).
    """

    column: str
    classes: tuple[str, ...]
    kind: Literal["multiclass", "binary"] = "multiclass"
    positive: str | None = None
    level: Literal["image", "case"] = "image"

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class occurs twice")
        if self.positive is not None and self.positive not in self.classes:
            raise ValueError(f"the positive class '{self.positive}' is not among the classes")


TARGETS = TypeAdapter(dict[str, Target])
"""Makes targets by name from what JSON holds of them."""
