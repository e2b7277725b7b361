"""Options of the leak audit. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, OpenUnitInterval, PositiveInt

from dermeval.features.options import HASH_BITS
from dermssl.parser import positional


@dataclass
class LeaksOptions:
    """Find records that share near-duplicate images, across splits and data sets, and repair the split.

    A command that was killed goes on where it was when it is given again.
    """

    out: str
    """Leaks folder to write: ranking.csv, pairs.parquet, groups.csv, split_repaired.csv, summary.json, report.html."""
    folders: list[str] = positional()
    """Dataset folders made by `dermssl prepare`; embeddings folders of them add an encoder's neighbours."""
    since: str | None = None
    """Leaks folder of an earlier audit: only pairs with an image that it did not have are compared."""
    precision: OpenUnitInterval = 0.95
    """Least share of true near-duplicates among the confirmed pairs, with 95% confidence; it sets the threshold."""
    expected_false: NonNegativeFloat | None = None
    """Instead of --precision: how many false pairs may be expected among the confirmed."""
    neighbours: PositiveInt = 30
    """Images that each image may nominate as candidates by its local features or its embedding; half as many by its
    colours and its thumbnail. More find weaker pairs and take longer."""
    hash_bits: NonNegativeInt = HASH_BITS
    """Perceptual hashes (64 bits, any flip or quarter turn) that differ in at most this many bits are compared."""
    every_image: bool = False
    """Take each image for a record of its own, so that near-duplicates within a record are found too."""
    planted: NonNegativeInt = 100
    """Copies of the audited images that are planted to measure which kinds of copies are found (0: none)."""
    ranked: NonNegativeInt = 500
    """Least number of pairs in ranking.csv, the strongest first, whether confirmed or not."""
    shown: NonNegativeInt = 200
    """Pairs drawn in report.html, the strongest first; pairs.parquet always holds all that are confirmed."""
    truth: str | None = None
    """truth.csv of `dermssl synth`: also count how many of the planted duplicates were found."""
    workers: NonNegativeInt = 0
    """Processes that compare pixels (0: one per core)."""
    overwrite: bool = False
    """Replace an existing leaks folder."""


@dataclass
class AuditOptions:
    """Audit a data set: near-duplicates (as `dermeval leaks`), off-topic images and label errors, on one page.

    A command that was killed goes on where it was when it is given again.
    """

    out: str
    """Audit folder to write: report.html, leaks/, off_topic.csv, label_errors.csv, audit.json."""
    folders: list[str] = positional()
    """Dataset folders made by `dermssl prepare`, or embeddings folders of them. Label errors need embeddings."""
    target: str | None = None
    """Label whose errors are looked for (default: the first one of the data set)."""
    shown: PositiveInt = 48
    """Images of each kind on the page and in audit.json; the tables rank all."""
    workers: NonNegativeInt = 0
    """Processes that compare pixels (0: one per core)."""
    overwrite: bool = False
    """Replace an existing audit folder."""
