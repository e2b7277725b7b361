"""Options of `dermssl split` and `dermssl licence`; free of heavy imports, so that ``--help`` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt

from dermssl.parser import positional


@dataclass
class SplitOptions:
    """Draw a split or folds of its training part by patient, or take a split over; the dataset folder records it."""

    folder: str = positional()
    """Dataset folder made by `dermssl prepare`."""
    fractions: list[float] = field(default_factory=list)
    """Shares of train and test, or of train, val and test; none: the split stays and only folds are drawn."""
    apply: str | None = None
    """Leaks folder (or its split_repaired.csv) whose repaired split replaces the one of the data set."""
    by: Literal["patient", "lesion", "group"] = "group"
    """What is kept whole: patients, lesions (only without patients), or the data set's own unit."""
    stratify: list[str] = field(default_factory=list)
    """Columns whose mix each side keeps, such as condition,fitzpatrick (default: the first target)."""
    folds: NonNegativeInt = 0
    """Folds drawn over everything but test, as column `fold` (0: none)."""
    seed: NonNegativeInt = 0
    """Seed of the draw."""
    replace_official: bool = False
    """Let a drawn split replace the one that came with the data set."""


@dataclass
class LicenceOptions:
    """Say what the licences of a folder allow and ask: data set, embeddings, index, results, report, run or encoder."""

    folder: str = positional()
    """Any folder written by dermssl or dermeval."""
