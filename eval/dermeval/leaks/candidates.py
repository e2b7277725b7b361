"""Which pairs of images are worth comparing: the nearest of other records by several cheap sources, united.

A raw score ranks pairs badly across a data set: common motifs have many near neighbours, rare ones none. As in the
descriptor evaluation of SSCD (Pizzi et al. 2022), the mean score of each image's background neighbours is taken off.
Background are the neighbours of other records that come after the nearest, which a copy rarely is.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from dermeval.leaks.fingerprints import hash_pairs
from dermeval.leaks.signatures import BACKGROUND, Signatures, oriented
from dermssl import neighbours

MOST_OF_OWN_GROUP = 50
"""Of a record with more images than this, the nearest ones may fill the search and hide those of other records."""
SOURCES = ("hash", "colour", "thumbnail", "local features")


class Query(NamedTuple):
    """One search: how each image (``queries``) looks for the images of the ``gallery``, all ``(N, D)``.

    ``orientation`` is that of the gallery image which the query resembles, -1 where the vectors do not tell.
    """

    source: str
    queries: np.ndarray
    gallery: np.ndarray
    orientation: int = -1


def signature_queries(found: Signatures) -> Iterator[Query]:
    """The searches by colours and thumbnail; upright and mirrored alike, see `certainty`."""
    yield Query("colour", found.colour, found.colour)
    plain = oriented(found.thumbnail, 0)
    for orientation in (0, 4):
        yield Query("thumbnail", oriented(found.thumbnail, orientation), plain, orientation)


def embedding_queries(name: str, features: np.ndarray, views: Mapping[str, np.ndarray]) -> Iterator[Query]:
    """The searches by an encoder's embeddings ``(N, D)`` and by those of further views of the same images."""
    mean = np.mean(features, axis=0, dtype=np.float64).astype(np.float32)
    plain = neighbours.normalise(features - mean)
    yield Query(name, plain, plain)
    for view in views.values():
        yield Query(name, neighbours.normalise(view - mean), plain)


def nearest_pairs(query: Query, groups: np.ndarray, nearest: int) -> pd.DataFrame:
    """The ``nearest`` images of other records of each image: ``a`` < ``b``, ``normalised``, ``first``, ``orientation``.

    ``first`` says whether one is the other's very nearest.
    """
    own = min(int(np.bincount(groups).max(initial=1)), MOST_OF_OWN_GROUP)
    similarity, rows = neighbours.search(query.queries, query.gallery, own + nearest + BACKGROUND)
    other = groups[rows] != groups[:, None]
    rank = np.where(other, np.cumsum(other, axis=1) - 1, nearest + BACKGROUND)
    far = (rank >= nearest) & (rank < nearest + BACKGROUND)
    level = np.where(far, similarity, 0).sum(axis=1) / np.maximum(far.sum(axis=1), 1)
    image, column = np.nonzero(rank < nearest)
    found = rows[image, column]
    table = pd.DataFrame(
        {
            "a": np.minimum(image, found),
            "b": np.maximum(image, found),
            "normalised": similarity[image, column] - (level[image] + level[found]) / 2,
            "first": rank[image, column] == 0,
            "orientation": np.int8(query.orientation),
        }
    )
    return table.sort_values("normalised", ascending=False, kind="stable").drop_duplicates(["a", "b"])


def united(tables: list[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """One row per pair ``a`` < ``b``: a bool column per source, and how its second image may be turned to align it.

    ``upright`` and ``mirrored`` are orientations (0-3 and 4-7) from which an alignment may start, -1 where none is
    known. ``hash_bits`` is null where no hash was near.
    """
    columns = ["a", "b", "normalised", "first", "orientation", "hash_bits"]
    parts = [table.reindex(columns=columns).assign(source=source) for source, table in tables]
    both = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*columns, "source"])
    pairs = both[["a", "b"]].drop_duplicates().sort_values(["a", "b"], ignore_index=True)
    keys = pd.MultiIndex.from_frame(pairs)
    for source, part in both.groupby("source", sort=False):
        best = part.groupby(["a", "b"])["normalised"].max()
        pairs[source] = keys.isin(best.index)
        if source != "hash":
            pairs[f"{source}_above"] = best.reindex(keys).to_numpy(np.float32)
    starts = both[(both["orientation"] >= 0) & ((both["source"] == "hash") | (both["first"] == True))]  # noqa: E712
    for name, mirrored in (("upright", False), ("mirrored", True)):
        chosen = starts[(starts["orientation"] >= 4) == mirrored].drop_duplicates(["a", "b"]).set_index(["a", "b"])
        pairs[name] = chosen["orientation"].reindex(keys).fillna(-1).to_numpy(np.int8)
    bits = both.dropna(subset=["hash_bits"]).groupby(["a", "b"])["hash_bits"].min()
    pairs["hash_bits"] = bits.reindex(keys).to_numpy(np.float32)
    return pairs


def hash_table(hashes: np.ndarray, groups: np.ndarray, bits: int) -> pd.DataFrame:
    """Pairs by perceptual hash in the columns of `nearest_pairs`, with ``hash_bits``."""
    return hash_pairs(hashes, groups, bits).assign(normalised=np.nan, first=True)
