"""Options of the commands that serve pages. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeInt, PositiveInt

from dermssl.parser import positional

MAX_CASES = 100
"""Cases that one search shows."""


@dataclass
class ServeOptions:
    """Similar-case search in the browser, with a JSON API. Photos given to it are searched for and not kept."""

    index: str = positional()
    """Index made by `dermeval index`: a folder, or an address s3://bucket/index."""
    where: str | None = None
    """Serve only the images that pass this filter (see docs/search.md)."""
    k: PositiveInt = 12
    """Number of cases to show when a page is opened, at most 100."""
    encoder: str | None = None
    """Where the encoder that made the index is now (default: where it was then)."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own need a token, which the command prints, and are refused for
    data that may not be passed on."""
    port: NonNegativeInt = 8765
    """Port to listen on (0: any free one)."""
    token: str | None = None
    """Secret that a browser must know where others can reach --host (default: a new one each time)."""


@dataclass
class ReviewOptions:
    """Decide about what an audit found in the browser, or in the terminal, one key each.

    Pairs of a leaks folder; of an audit folder off-topic images and label errors too. The keys are a accept, r reject,
    u unsure, z undo; b blinks in the browser, q ends a part in the terminal. Every decision is saved at once, and the
    same command goes on later. At the end the tables are written anew. The confirmed pairs come first, then those below
    the threshold. After 58 rejections in a row one is 95% sure that fewer than 5% of the rest are what is looked for,
    so the review may end.
    """

    folder: str = positional()
    """Folder made by `dermeval leaks` or `dermeval audit`."""
    terminal: bool = False
    """Ask in the terminal."""
    port: NonNegativeInt = 8766
    """Port of the page, on this machine only (0: any free one)."""
