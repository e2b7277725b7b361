"""Options of the data commands. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

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
class SynthOptions:
    """Make a synthetic stand-in in PASSION's own layout, to try everything before the real data arrives."""

    out: str
    """Folder to write: label.csv, PASSION_split.csv, images/, truth.csv, SYNTHETIC.json."""
    patients: PositiveInt = 400
    """Number of patients (ignored with --labels)."""
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
