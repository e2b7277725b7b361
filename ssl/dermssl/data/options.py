"""Options of the data commands. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt

from dermssl.commandline import positional


@dataclass
class SourcesOptions:
    """List the known data sets: licence, patient key, layout, and how to get each."""


@dataclass
class PrepareOptions:
    """Read a raw data set once and write a dataset folder: manifest, image store, splits, problems.csv."""

    source: str
    """Which data set this is: a name from `dermssl sources`."""
    root: str
    """Folder with the raw data set."""
    out: str
    """Dataset folder to write."""
    name: str | None = None
    """Name of the data set, the first part of every image_id (default: the source's name)."""
    short_side: PositiveInt = 384
    """Longest short side stored, in pixels; 160-256 is enough for small crops. Images are never enlarged."""
    seed: NonNegativeInt = 0
    """Seed of the patient-grouped split that is drawn where the data set has none."""
    test_fraction: ClosedUnitInterval = 0.2
    """Share of patients (groups) held out as test where the data set has labels but no split; 0 draws none."""
    workers: NonNegativeInt = 0
    """Processes that decode (0: one per core; 1: this process)."""
    strict: bool = False
    """Treat any line of problems.csv as bad input (exit code 2)."""
    overwrite: bool = False
    """Replace an existing dataset folder."""


@dataclass
class DescribeOptions:
    """Print the tables that a data paper prints, and draw the plots of a dataset folder."""

    folder: str = positional()
    """Dataset folder made by `dermssl prepare`."""
    out: str | None = None
    """Folder to write: a CSV per table, tables.json, and the page of plots as plots.png and describe.html."""
    overwrite: bool = False
    """Replace an existing --out folder."""


@dataclass
class SplitOptions:
    """Draw a split, or folds of the training part, by patient; recorded in the dataset folder."""

    folder: str = positional()
    """Dataset folder made by `dermssl prepare`."""
    fractions: list[float] = field(default_factory=list)
    """Shares of train and test, or of train, val and test; none: the split stays and only folds are drawn."""
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


@dataclass
class SynthOptions:
    """Make a synthetic stand-in in PASSION's own layout, to try everything before the real data arrives."""

    out: str
    """Folder to write: label.csv, PASSION_split.csv, images/, truth.csv, SYNTHETIC.json."""
    patients: PositiveInt | None = None
    """Number of patients (default: 400; with --labels those of that table)."""
    labels: str | None = None
    """A real label.csv whose patients and conditions are imitated; PASSION_split.csv beside it is used."""
    image_size: PositiveInt = 160
    """Longer side of the pictures, pixels."""
    duplicates: NonNegativeInt = 12
    """Patients planted a second time under a new id, as re-saved or re-photographed copies."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""
    workers: NonNegativeInt = 0
    """Processes that draw (0: one per core; 1: this process)."""
    overwrite: bool = False
    """Replace an existing folder."""
