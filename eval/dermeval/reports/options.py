"""Options of the report commands. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from dermssl.commandline import positional


@dataclass
class CompareOptions:
    """Results of several encoders or probes side by side, each against the first, on the same patients.

    A folder that holds results folders (trained/0, trained/1, ...) is one encoder with several seeds. Its scores are
    averaged over them (scores, not probabilities). Intervals and p come from draws of patients that all seeds share;
    they do not carry the luck of the seeds, whose standard deviation is given apart.
    """

    results: list[str] = positional()
    """Results folders written by `dermeval knn` or `dermeval linear` with --out, or folders of them, one per seed; the
    first is the reference."""
    out: str | None = None
    """Folder to write: comparison.csv, comparison.tex and comparison.html."""
    draws: PositiveInt = 2000
    """Paired bootstrap draws of patients behind every interval and p."""
    seed: NonNegativeInt = 0
    """Seed of the bootstrap."""
    overwrite: bool = False
    """Replace an existing output folder."""


@dataclass
class EvaluateOptions:
    """Run a data set's whole published protocol on frozen features, with per-group tables and intervals."""

    embeddings: list[str] = positional()
    """Embeddings folders made by `dermeval embed`, all with one encoder; several are pooled."""
    protocol: Literal["passion", "ham10000", "pad_ufes_20", "generic"] = "generic"
    """passion: official split, folds within train, unseen centres and ages. ham10000, pad_ufes_20: five folds by
    lesion or patient. generic: every target, on the split where there is one, else in folds."""
    probe: Literal["knn", "linear", "both"] = "both"
    """Which classifier judges the features: weighted kNN (k 20), logistic regression, or each in turn."""
    folds: PositiveInt = 5
    """Number of patient-grouped folds."""
    draws: PositiveInt = 2000
    """Bootstrap draws of patients behind every interval."""
    seed: NonNegativeInt = 0
    """Seed of folds, size-matched samples and bootstrap."""
    out: str | None = None
    """Results folder to write: result.json, predictions.parquet, groups.csv and report.html."""
    overwrite: bool = False
    """Replace an existing results folder."""
