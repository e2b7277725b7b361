"""Options of the leak audit. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt

from dermeval.features.options import HASH_BITS
from dermssl.commandline import positional


@dataclass
class LeaksOptions:
    """Find records that share near-duplicate images, across splits and data sets, and repair the split."""

    out: str
    """Leaks folder to write: pairs.parquet, groups.csv, split_repaired.csv, summary.json, report.html, images/."""
    embeddings: list[str] = positional()
    """Embeddings folders made by `dermeval embed` with one encoder."""
    hash_bits: NonNegativeInt = HASH_BITS
    """Perceptual hashes (64 bits, any flip or quarter turn) that differ in at most this many bits are compared."""
    neighbours: PositiveInt = 10
    """Nearest images of other records, per image, whose embeddings make them candidates."""
    budget: ClosedUnitInterval = 0.1
    """Share of background pairs (similar images known to be no nearest ones) whose embeddings may pass for
    candidates. More finds more and takes longer; the stored pixels decide about every candidate."""
    agreement: ClosedUnitInterval = 0.6
    """Least median correlation of small blocks, after alignment, that confirms a near-duplicate; raised where the
    background pairs come near it."""
    shown: NonNegativeInt = 200
    """Pairs drawn in report.html, the strongest first; pairs.parquet always holds all."""
    truth: str | None = None
    """truth.csv of `dermssl synth`: also count how many of the planted duplicates were found."""
    workers: NonNegativeInt = 0
    """Processes that compare pixels (0: one per core)."""
    overwrite: bool = False
    """Replace an existing leaks folder."""
