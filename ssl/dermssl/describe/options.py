"""Options of `dermssl describe`. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

from dermssl.parser import positional


@dataclass
class DescribeOptions:
    """Count a dataset folder in the tables that a data paper prints, and plot them."""

    folder: str = positional()
    """Dataset folder made by `dermssl prepare`."""
    out: str | None = None
    """Folder to write: a CSV per table, tables.json, plots.png, and describe.html with all tables and plots."""
    overwrite: bool = False
    """Replace an existing --out folder."""
