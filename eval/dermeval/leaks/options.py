"""Options of the leak audit. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, OpenUnitInterval, PositiveInt

from dermssl.parser import positional

PRECISION = 0.95
"""The precision of an audit for which neither --precision nor --expected-false is given."""


@dataclass
class LeaksOptions:
    """Find records that share near-duplicate images, within and across splits and data sets, and repair the split.

    If the command was killed, give it again: it continues where it stopped.
    """

    out: str
    """Leaks folder to write: ranking.csv, pairs.parquet, groups.csv, split_repaired.csv, summary.json, report.html."""
    folders: list[str] = positional()
    """Dataset folders (`dermssl prepare`) or embeddings folders (`dermeval embed`). Embeddings add an encoder's nearest
    neighbours to the candidates."""
    since: str | None = None
    """Leaks folder of an earlier audit. Only pairs with an image that is new since then are compared; the results of
    the other pairs are taken over."""
    precision: OpenUnitInterval | None = None
    """Precision: the share of true near-duplicates among the confirmed pairs (default: 0.95). The threshold is the
    lowest score that keeps this precision with 95% confidence."""
    expected_false: NonNegativeFloat | None = None
    """Expected number of false pairs among the confirmed pairs. It sets the threshold instead of --precision: give one
    of the two."""
    neighbours: PositiveInt = 30
    """Nearest neighbours of each image that are considered as candidates, by local features and by embedding; half as
    many by colours and by thumbnail. Above 20,000 images all these numbers are halved. More neighbours find weaker
    pairs and take longer."""
    every_image: bool = False
    """Count each image as a record of its own, so that near-duplicates within a record are found too."""
    planted: NonNegativeInt = 100
    """Number of changed copies of audited images that are compared with their originals (0: none). They measure which
    kinds of copy would be confirmed once they are compared; the search for candidates is not measured."""
    ranked: NonNegativeInt = 500
    """Smallest number of pairs in ranking.csv, strongest first, confirmed or not."""
    shown: NonNegativeInt = 200
    """Number of confirmed pairs shown in report.html, strongest first; pairs.parquet holds all of them."""
    workers: NonNegativeInt = 0
    """Processes, or threads, that work in parallel (0: one per core)."""
    overwrite: bool = False
    """Replace an existing leaks folder."""


@dataclass
class AuditOptions:
    """Audit a data set for near-duplicates (as `dermeval leaks`), off-topic images and label errors, on one page.

    If the command was killed, give it again: it continues where it stopped.
    """

    out: str
    """Audit folder to write: report.html, leaks/, off_topic.csv, label_errors.csv, audit.json."""
    folders: list[str] = positional()
    """Dataset folders (`dermssl prepare`) or embeddings folders (`dermeval embed`). Label errors need embeddings."""
    target: str | None = None
    """Label that is checked for errors (default: the first one in alphabetical order)."""
    shown: PositiveInt = 48
    """Number of images of each kind on the page and in audit.json; the tables rank more."""
    workers: NonNegativeInt = 0
    """Processes, or threads, that work in parallel (0: one per core)."""
    overwrite: bool = False
    """Replace an existing audit folder."""
