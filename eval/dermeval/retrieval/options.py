"""Options of the retrieval commands. Nothing heavy is imported here, so that ``--help`` answers at once."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import PositiveInt

from dermssl.commandline import positional


@dataclass
class IndexOptions:
    """Make a similar-case search index from an embeddings folder, or add one more to a finished index."""

    out: str
    """Index folder to write; with --append the finished one to add to."""
    embeddings: str | None = positional(default=None)
    """Embeddings folder made by `dermeval embed`."""
    append: str | None = None
    """Embeddings folder of the same encoder to add to the finished index at --out, instead of EMBEDDINGS."""
    type: Literal["flat", "hnsw", "ivf"] | None = None
    """flat is exact; hnsw and ivf are approximate, for millions of images, and state their measured recall
    (default: flat; with --append the index keeps its type)."""
    overwrite: bool = False
    """Replace an existing index folder."""


@dataclass
class SearchOptions:
    """Find the cases most similar to a photo, or to an indexed image, leaving out the query's own patient."""

    index: str = positional()
    """Index folder made by `dermeval index`."""
    photo: str | None = positional(default=None)
    """Image file to search for."""
    image_id: str | None = None
    """Image of the index to search for, instead of PHOTO."""
    k: PositiveInt = 10
    """Number of cases to show."""
    out: str | None = None
    """Contact sheet to draw, a .png file: the query at the left, the hits beside it."""
    include_own: bool = False
    """Also show other images of the query's own patient (or lesion, where the data set has no patient key)."""
    per_image: bool = False
    """Show every similar image; without it the images of one patient (or lesion) collapse to the best."""
