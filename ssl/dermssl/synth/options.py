"""Options of `dermssl synth`. Nothing heavy is imported here, so ``--help`` is quick."""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeInt, PositiveInt


@dataclass
class SynthOptions:
    """Draw a synthetic data set in PASSION's layout, to try all commands before the real data arrive."""

    out: str
    """Folder to write: label.csv, PASSION_split.csv, images/, truth.csv, SYNTHETIC.json."""
    patients: PositiveInt | None = None
    """Number of patients (default: 400; with --labels, the patients of that table)."""
    labels: str | None = None
    """A real label.csv whose patients are drawn; PASSION_split.csv beside it is used if there is one."""
    image_size: PositiveInt = 160
    """Long side of the images, in pixels."""
    duplicates: NonNegativeInt = 12
    """Number of patients who get a second record under a new id, with near-duplicates of their images."""
    seed: NonNegativeInt = 0
    """Seed of all random numbers."""
    workers: NonNegativeInt = 0
    """Processes that draw images (0: one per core; 1: this process)."""
    overwrite: bool = False
    """Replace an existing folder."""
