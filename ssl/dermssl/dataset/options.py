"""Options of `dermssl split` and `dermssl licence`. Nothing heavy is imported here, so ``--help`` is quick."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt

from dermssl.parser import positional


@dataclass
class SplitOptions:
    """Draw a split by patient, or folds of everything but test, or apply a repaired split, in a dataset folder."""

    folder: str = positional()
    """Dataset folder made by `dermssl prepare`."""
    fractions: list[float] = field(default_factory=list)
    """Shares of train and test, or of train, val and test (default: the split stays as it is)."""
    apply: str | None = None
    """Leaks or audit folder, or a split_repaired.csv, whose repaired split replaces the present one."""
    together: str | None = None
    """Leaks or audit folder, each of whose leak groups --fractions and --folds put on one side and in one fold."""
    by: Literal["patient", "lesion", "group"] = "group"
    """Unit that must stay together: the command stops if it would not. group: the data set's own unit, which always
    stays together."""
    stratify: list[str] = field(default_factory=list)
    """Columns whose values are spread evenly, such as condition,fitzpatrick (default: the first target)."""
    folds: NonNegativeInt = 0
    """Number of folds of everything but test, written to the column `fold` for other programs (0: none)."""
    seed: NonNegativeInt = 0
    """Seed of the draws of --fractions and --folds."""
    replace_official: bool = False
    """Allow --fractions to replace the split that came with the data set."""


@dataclass
class LicenceOptions:
    """Show what the licences of everything in a folder allow and require."""

    folder: str = positional()
    """Any folder that dermssl or dermeval wrote: data set, run, encoder, embeddings, index, results or report."""
