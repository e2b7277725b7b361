"""Options of `dermssl synth`. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeInt, PositiveInt


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
