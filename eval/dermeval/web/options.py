"""Options of the commands that serve pages. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeInt, PositiveInt

from dermssl.parser import positional

MAX_CASES = 100
"""Largest number of cases that one search shows."""


@dataclass
class ServeOptions:
    """Search for similar cases in the browser, or by a JSON API. Photos of a query are not kept."""

    index: str = positional()
    """Index made by `dermeval index`: a folder, or an address s3://bucket/index."""
    where: str | None = None
    """Serve only the images that pass this filter (see docs/search.md)."""
    k: PositiveInt = 12
    """Number of cases to show unless a search asks for another number, at most 100."""
    encoder: str | None = None
    """Present path of the encoder that made the index (default: the path that the index records)."""
    host: str = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs a token, which the command prints, and is
    refused for data that may not be passed on."""
    port: NonNegativeInt = 8765
    """Port to listen on (0: any free one)."""
    token: str | None = None
    """Secret that a browser must give (default: none on this machine alone, else a new one each time)."""


@dataclass
class ReviewOptions:
    """Review the pairs of a leaks folder, or the pairs, off-topic images and label errors of an audit folder.

    One key decides: a accept, r reject, u unsure, z undo; b blinks in the browser, q ends a part in the terminal. Every
    decision is saved at once, and the same command continues later. At the end the tables are rewritten with the
    decisions. Confirmed pairs come first, then pairs below the threshold. After 58 rejections in a row the review may
    end: with 95% confidence fewer than 5% of the rest are true.
    """

    folder: str = positional()
    """Folder made by `dermeval leaks` or `dermeval audit`."""
    terminal: bool = False
    """Review in the terminal instead of the browser."""
    port: NonNegativeInt = 8766
    """Without --terminal: port of the page, on this machine only (0: any free one)."""
