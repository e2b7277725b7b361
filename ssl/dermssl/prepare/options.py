"""Options of `dermssl sources` and `dermssl prepare`. Nothing heavy is imported here, so ``--help`` is quick."""

from dataclasses import dataclass

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt


@dataclass
class SourcesOptions:
    """List the known data sets with licence, units, layout, and how to get each."""


@dataclass
class PrepareOptions:
    """Read a raw data set and write a dataset folder: manifest, image store, targets, split, problems.csv."""

    source: str
    """Which data set this is: a name from `dermssl sources`."""
    root: str
    """Folder with the raw data set."""
    out: str
    """Dataset folder to write."""
    name: str | None = None
    """Name of the data set, the first part of every image_id (default: the source's name; of synthetic data with
    `synthetic_` before it)."""
    licence: str | None = None
    """Licence of your own data, an id from `dermssl sources` (default: that in columns.yaml, else unknown)."""
    citation: str | None = None
    """Who is named as the source of your own data, for instance a paper (default: that in columns.yaml)."""
    follow: str | None = None
    """A folder outside the root, such as a download cache. Links into it are followed, other links out are not."""
    short_side: PositiveInt = 384
    """Larger images are shrunk to this short side, in pixels; 160-256 is enough for small crops."""
    seed: NonNegativeInt = 0
    """Seed of the split that is drawn if the data set has none."""
    test_fraction: ClosedUnitInterval = 0.2
    """Share of the groups (patients) that a drawn split puts into test. A split is drawn if the data set has labels
    but no split; 0: none is drawn."""
    workers: NonNegativeInt = 0
    """Processes that decode images (0: one per core; 1: this process)."""
    strict: bool = False
    """End with exit code 2 if there is any problem, instead of listing it in problems.csv."""
    overwrite: bool = False
    """Replace an existing dataset folder."""
