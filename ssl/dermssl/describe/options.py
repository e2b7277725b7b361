"""Options of `dermssl describe`. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

from dermssl.parser import positional


@dataclass
class DescribeOptions:
    """Print the tables that a data paper prints, and draw the plots of a dataset folder."""

    folder: str = positional()
    """Dataset folder made by `dermssl prepare`."""
    out: str | None = None
    """Folder to write: a CSV per table, tables.json, and the page of plots as plots.png and describe.html."""
    overwrite: bool = False
    """Replace an existing --out folder."""
