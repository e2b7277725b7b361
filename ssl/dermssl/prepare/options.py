"""Options of `dermssl sources` and `dermssl prepare`; free of heavy imports, so that ``--help`` answers at once."""

from dataclasses import dataclass

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt


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
    follow: str | None = None
    """A folder outside the root, such as a download cache, into which links may lead; other links are left out."""
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
