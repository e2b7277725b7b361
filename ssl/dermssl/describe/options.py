"""Options of `dermssl describe`. Nothing heavy is imported here, so ``--help`` is quick."""

from dataclasses import dataclass

from dermssl.parser import positional


@dataclass
class DescribeOptions:
    """Count images, patients and labels of a dataset folder in the tables of a data paper, and plot them."""

    folder: str = positional()
    """Dataset folder made by `dermssl prepare`."""
    out: str | None = None
    """Folder to write: a CSV per table, tables.json, plots.png, and describe.html with all tables and plots."""
    overwrite: bool = False
    """Replace an existing --out folder."""
