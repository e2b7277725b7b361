"""Candidate pairs: the nearest images of other records, by several cheap sources.

Raw similarities cannot be compared between images: a common motif has many near neighbours, a rare one has none. As in
SSCD (Pizzi et al. 2022), the mean similarity of each image's background neighbours is subtracted. They are the
neighbours of other records that follow the nearest ones, and are rarely copies.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from tqdm import tqdm

from dermeval.features.options import HASH_BITS
from dermeval.leaks.local_features import MIRRORED_BINS, Detail
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.records import AuditedImages, pools
from dermeval.leaks.verify import LocalStore
from dermssl import neighbours
from dermssl.parallel import thread_map

MOST_OF_OWN_GROUP = 50
"""Images of the own record that a search makes room for; in a larger record they may hide images of other records."""
BACKGROUND = 10
"""Number of background neighbours of an image."""
APPEARANCE_DIMENSIONS = 64
FLAT_SPREAD = 2.0
"""Standard deviation of the colour values (0 to 255) below which a picture is flat: such placeholders all match."""
COPIES_SEARCHED = 3
"""Of several images with the same pixels only so many are searched; more would only find each other."""
HASHES_AT_ONCE = 256
LARGEST_CLUSTER = 50
"""In a larger set of identical images, each image is paired with one other image instead of with all. Of images with
near hashes, each is paired with so many, the nearest."""
FIRST, FIRST_BY_FEATURES = 0.05, 0.2
"""Share of the nearest neighbours of an image that a source always nominates."""
FEATURES_FOUND = 16
"""Number of nearest local features that each local feature votes for."""
TURNS, SIZES = 12, 16
"""Votes for a pair count together if they imply the same turn (in steps of 30 degrees) and the same ratio of sizes (in
steps of a factor of 2)."""


def nominate(images: AuditedImages, options: LeaksOptions, store: LocalStore, appearance: np.ndarray) -> pd.DataFrame:
    """Candidate pairs of all sources, as `united` describes them; ``appearance`` is `LocalStore.appearance`.

    A data set whose licence forbids re-linking is paired with other data sets by hash only.
    """
    hashes = np.stack(images.frame["phash"].to_numpy())
    tables = [("hash", hash_pairs(hashes, images.groups, HASH_BITS))]
    flat = appearance["spread"] < FLAT_SPREAD
    copies = images.frame.groupby(["dataset", "pixel_sha256"]).cumcount().to_numpy()
    searched = ~flat & (copies < COPIES_SEARCHED)
    pool = pools(images)
    for number in np.unique(pool):
        rows = np.flatnonzero(searched & (pool == number))
        if len(np.unique(images.groups[rows])) > 1:
            nearest = min(len(rows), max(1, round(options.neighbours * store.detail.share)))
            tables += _within(images, rows, nearest, store, appearance, options.workers)
    return united(tables)


def _within(
    images: AuditedImages, rows: np.ndarray, nearest: int, store: LocalStore, appearance: np.ndarray, workers: int
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The candidates of each source among the images ``rows``."""
    groups, half = images.groups[rows], max(1, nearest // 2)
    first, first_by_features = (max(1, round(nearest * share)) for share in (FIRST, FIRST_BY_FEATURES))
    seen = appearance[rows]
    colour = _shortened([neighbours.normalise(seen["colour"])], store.detail)[0]
    yield "colour", within_budget([nearest_pairs(colour, colour, groups, half)], rows, first)
    upright = seen["thumbnail"]
    thumbnails = _shortened([centred(views) for views in (upright, upright[:, :, ::-1])], store.detail)
    # In a large set the nearest thumbnail is mostly chance, so only hashes and local features propose an alignment.
    turns = (-1, -1) if store.detail.scanned else (0, 4)
    turned = [
        nearest_pairs(queries, thumbnails[0], groups, half, turn)
        for queries, turn in zip(thumbnails, turns, strict=True)
    ]
    yield "thumbnail", within_budget(turned, rows, first)
    votes = Votes(store.blocks, store.detail, rows)
    worlds = [votes.pairs(groups, nearest, mirrored, workers) for mirrored in (False, True)]
    yield "local features", within_budget(worlds, rows, first_by_features)
    for one in images.embedded:
        inside = np.isin(one.rows, rows)
        ours = one.rows[inside]
        if len(ours) < 2:
            continue
        mean = np.mean(one.features[inside], axis=0, dtype=np.float64).astype(np.float32)
        plain = neighbours.normalise(one.features[inside] - mean)
        views = [plain, *(neighbours.normalise(view[inside] - mean) for view in one.views.values())]
        tables = [nearest_pairs(view, plain, images.groups[ours], nearest) for view in views]
        yield one.name, within_budget(tables, ours, first)


def _shortened(vectors: list[np.ndarray], detail: Detail) -> list[np.ndarray]:
    """In a coarse audit, the vectors ``(N, D)`` on their first `APPEARANCE_DIMENSIONS` principal directions."""
    if not detail.scanned:
        return vectors
    directions = neighbours.main_directions(vectors[0], APPEARANCE_DIMENSIONS)
    return [part @ directions for part in vectors]


def within_budget(tables: Sequence[pd.DataFrame], rows: np.ndarray, first: int) -> pd.DataFrame:
    """The candidates of one source: rows ``a`` < ``b`` of all images.

    These are the ``first`` neighbours of each image, and ``first`` times the number of images of the other neighbours,
    highest normalised similarity first. ``tables`` come from `nearest_pairs` or `Votes.pairs` on the images ``rows``.
    """
    both = pd.concat(tables, ignore_index=True)
    near = both["rank"] < first
    table = pd.concat([both[near], both[~near].nlargest(first * len(rows), "normalised")])
    ends = np.sort(rows[table[["a", "b"]].to_numpy(np.int64)], axis=1).reshape(-1, 2)
    return table.assign(a=ends[:, 0], b=ends[:, 1])


def united(tables: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """One row per pair ``a`` < ``b``, with a bool column per source.

    ``upright`` (0-3) and ``mirrored`` (4-7) are orientations of the second image from which an alignment may start, -1
    if none is known. ``hash_bits`` is null if the hashes are not near.
    """
    columns = ["a", "b", "rank", "orientation", "hash_bits"]
    both = pd.concat([table.reindex(columns=columns).assign(source=source) for source, table in tables])
    pairs = both[["a", "b"]].drop_duplicates().sort_values(["a", "b"], ignore_index=True)
    keys = pd.MultiIndex.from_frame(pairs)
    for source, part in both.groupby("source", sort=False):
        pairs[source] = keys.isin(pd.MultiIndex.from_frame(part[["a", "b"]]))
    starts = both[(both["orientation"] >= 0) & ((both["source"] == "hash") | (both["rank"] == 0))]
    for name, mirrored in (("upright", False), ("mirrored", True)):
        chosen = starts[(starts["orientation"] >= 4) == mirrored].drop_duplicates(["a", "b"]).set_index(["a", "b"])
        pairs[name] = chosen["orientation"].reindex(keys).fillna(-1).to_numpy(np.int8)
    bits = both.dropna(subset=["hash_bits"]).groupby(["a", "b"])["hash_bits"].min()
    pairs["hash_bits"] = bits.reindex(keys).to_numpy(np.float32)
    return pairs


def linked_pairs(likely: np.ndarray, compared: np.ndarray, groups: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Pairs ``(P, 2)`` of images that are both likely near-duplicates of a third image and are not compared yet.

    ``likely`` ``(L, 2)`` and ``compared`` ``(C, 2)`` are pairs of rows, first < second. Pairs within one record
    (integer ``groups``) or across pools (`records.pools`) are left out.
    """
    ends = pd.DataFrame(np.concatenate([likely, likely[:, ::-1]]), columns=["one", "other"])
    around = [sorted(part) for part in ends.groupby("one")["other"].agg(set) if 1 < len(part) <= LARGEST_CLUSTER]
    pairs = {pair for part in around for pair in combinations(part, 2)} - set(map(tuple, compared.tolist()))
    found = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    a, b = found.T
    return found[(groups[a] != groups[b]) & (pool[a] == pool[b])]


def nearest_pairs(
    queries: np.ndarray, gallery: np.ndarray, groups: np.ndarray, nearest: int, orientation: int = -1
) -> pd.DataFrame:
    """The ``nearest`` images of other records for each image: ``a`` < ``b``, ``normalised``, ``rank``, ``orientation``.

    ``rank`` counts from 0; if each image is among the other's nearest, it is the smaller of both ranks. ``queries`` and
    ``gallery`` are unit vectors ``(N, D)`` of the same images, and ``groups`` their integer records. ``orientation`` is
    that of the gallery image which resembles the query; -1 if the vectors do not depend on it.
    """
    own = min(int(np.bincount(groups).max(initial=1)), MOST_OF_OWN_GROUP)
    similarity, rows = neighbours.search_exact(queries, gallery, own + nearest + BACKGROUND)
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
            "rank": rank[image, column],
            "orientation": np.int8(orientation),
        }
    )
    return table.sort_values("rank", kind="stable").drop_duplicates(["a", "b"])


def centred(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails ``(N, 16, 16, 3)`` as unit vectors ``(N, 768)`` with mean 0."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    return neighbours.normalise(flat - flat.mean(axis=1, keepdims=True))


def hash_pairs(hashes: np.ndarray, groups: np.ndarray, bits: int) -> pd.DataFrame:
    """Pairs of different records whose perceptual hashes ``(N, 8)`` differ in at most ``bits`` bits in any orientation.

    Columns: rows ``a`` < ``b``, ``hash_bits``, ``orientation`` (the flip or turn of ``b`` that resembles ``a``).
    Each image has only its `LARGEST_CLUSTER` nearest pairs: placeholders that differ in noise would have too many.
    """
    parts = []
    for start in range(0, len(hashes), HASHES_AT_ONCE):
        a, b, view, distance = neighbours.near_images(hashes[start : start + HASHES_AT_ONCE], hashes, bits)
        near = pd.DataFrame({"a": a + start, "b": b, "hash_bits": distance, "orientation": view})
        near = near[groups[near["a"]] != groups[near["b"]]]
        near = near.sort_values(["a", "b", "hash_bits"]).drop_duplicates(["a", "b"])  # the best view of each image
        parts.append(near.sort_values(["a", "hash_bits"]).groupby("a").head(LARGEST_CLUSTER))
    table = pd.concat(parts)
    a, b, orientation = (table[name].to_numpy() for name in ("a", "b", "orientation"))
    # Exchanging a and b inverts the orientation: a turn is undone by the turn back, a mirrored view by itself.
    orientation = np.where((a > b) & (orientation < 4), -orientation % 4, orientation)
    table = table.assign(a=np.minimum(a, b), b=np.maximum(a, b), orientation=orientation)
    return table.sort_values(["a", "b", "hash_bits"]).drop_duplicates(["a", "b"], ignore_index=True)


def identical_pairs(images: AuditedImages) -> pd.DataFrame:
    """Pairs of different records with the same file or pixels: columns ``a``, ``b``, ``file``, ``pixels``."""
    file, pixels = (
        pd.DataFrame(pairs_of_equal(images.frame[column].to_numpy(), images.groups), columns=["a", "b"])
        for column in ("sha256", "pixel_sha256")
    )
    both = file.assign(file=True).merge(pixels.assign(pixels=True), on=["a", "b"], how="outer")
    return both.assign(**{kind: both[kind].notna() for kind in ("file", "pixels")})


def pairs_of_equal(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Pairs of rows ``(P, 2)``, first < second, with equal values and different groups."""
    pairs: list[tuple[int, int]] = []
    rows = pd.Series(np.arange(len(values))).groupby(values)
    for cluster in (members.to_numpy() for _, members in rows if len(members) > 1):
        if len(cluster) <= LARGEST_CLUSTER:
            pairs += [(a, b) for a, b in combinations(cluster, 2) if groups[a] != groups[b]]
        else:
            # Each is paired with the first image or, within the first image's group, with the first of another group.
            own = groups[cluster] == groups[cluster[0]]
            ends = [(a, b) for a in cluster[~own][:1] for b in cluster[own]] + [(cluster[0], b) for b in cluster[~own]]
            pairs += sorted({(min(pair), max(pair)) for pair in ends})
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


class Votes:
    """Votes of local features between the images ``rows``.

    Each feature votes for the images of its nearest features. The weight falls with the distance, to 0 at the last
    feature found (after Jegou et al. 2010, improving bag-of-features). Only votes that imply the same turn and ratio of
    sizes count together (weak geometric consistency, Jegou et al. 2008).
    """

    def __init__(
        self, blocks: Callable[[], Iterable[tuple[int, np.ndarray]]], detail: Detail, rows: np.ndarray
    ) -> None:
        self.blocks, self.voting, self.rows = blocks, detail.voting, rows
        parts = [(image.astype(np.int32), points[:, 2:].copy()) for _, image, points in self._parts("points")]
        self.image, (size, self.angle) = (np.concatenate(part).T for part in zip(*parts, strict=True))
        self.size = np.log2(size)
        self.cells = neighbours.build_cells(
            len(self.image), lambda: (part[2] for part in self._parts("descriptors")), detail.scanned
        )

    def _parts(self, name: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Of the voting features of each block: the number of the first, their images' positions, the values ``name``.

        Positions are those in ``rows``.
        """
        first = number = 0
        for start, block in self.blocks():
            part = block[self.rows[(self.rows >= start) & (self.rows < start + len(block))] - start]
            there = np.arange(self.voting) < part["count"][:, None]
            if len(part):
                yield first, number + np.nonzero(there)[0], part[name][:, : self.voting][there]
            first, number = first + int(there.sum()), number + len(part)

    def pairs(self, groups: np.ndarray, nearest: int, mirrored: bool, workers: int = 1) -> pd.DataFrame:
        """The ``nearest`` images of other records by votes: ``a`` < ``b``, ``normalised``, ``rank`` (from 0).

        ``groups`` ``(N,)`` are integer records. With ``mirrored`` the query image is mirrored. ``workers`` blocks are
        searched at once (0: one per core).
        """
        # One array holds all votes: many small arrays between large temporary ones would fragment the memory.
        rows, filled = np.zeros((len(groups) * nearest, 4)), 0
        name = "find candidates, mirrored" if mirrored else "find candidates"
        with thread_map(workers, neighbours.search_alone) as run:
            found = run(lambda part: self._votes(part, groups, nearest, mirrored), self._parts("descriptors"))
            for votes in tqdm(found, name, unit="block", disable=None, leave=False):
                rows[filled : filled + len(votes)] = votes
                filled += len(votes)
        table = pd.DataFrame(rows[:filled], columns=["a", "b", "normalised", "rank"])
        table = table.astype({"a": np.int64, "b": np.int64, "rank": np.int64})
        return table.groupby(["a", "b"], as_index=False).agg({"normalised": "max", "rank": "min"})

    def _votes(
        self, part: tuple[int, np.ndarray, np.ndarray], groups: np.ndarray, nearest: int, mirrored: bool
    ) -> np.ndarray:
        """Rows of `pairs` from all voting features of some images, one of the `_parts`."""
        first, _, features = part
        features = features[:, MIRRORED_BINS] if mirrored else features
        distance, found = neighbours.search_cells(self.cells, features, FEATURES_FOUND)
        distance = np.sqrt(np.maximum(distance, 0))
        weight = np.maximum(0, 1 - distance / np.maximum(distance[:, -1:], 1e-6))
        asking = np.broadcast_to(first + np.arange(len(features))[:, None], found.shape)
        image, other = self.image[asking], self.image[found]
        counted = (found >= 0) & (weight > 0) & (groups[other] != groups[image])
        image, other, weight, asking, found = (x[counted] for x in (image, other, weight, asking, found))
        angle = np.pi - self.angle[asking] if mirrored else self.angle[asking]
        turn, size = (self.angle[found] - angle) * (TURNS / (2 * np.pi)), self.size[found] - self.size[asking]
        pair = image.astype(np.int64) * len(groups) + other
        # Two sets of steps, half a step apart: votes that one set separates, the other keeps together.
        steps = [
            ((2 * pair + half) * TURNS + np.floor(turn + half / 2).astype(np.int64) % TURNS) * SIZES
            + np.clip(np.floor(size + half / 2).astype(np.int64) + SIZES // 2, 0, SIZES - 1)
            for half in (0, 1)
        ]
        step, which = np.unique(np.concatenate(steps), return_inverse=True)
        votes = np.bincount(which, np.tile(weight, 2), len(step))
        pair, starts = np.unique(step // (2 * TURNS * SIZES), return_index=True)
        votes = np.maximum.reduceat(votes, starts) if len(votes) else votes
        order = np.lexsort((-votes, pair // len(groups)))
        votes, (image, other) = votes[order], np.divmod(pair[order], len(groups))
        rank = np.arange(len(image)) - np.searchsorted(image, image)
        far = (rank >= nearest) & (rank < nearest + BACKGROUND)
        counts = np.bincount(image[far], minlength=len(groups))
        level = np.bincount(image[far], votes[far], len(groups)) / np.maximum(counts, 1)
        kept = rank < nearest
        image, other = image[kept], other[kept]
        ends = np.minimum(image, other), np.maximum(image, other)
        return np.column_stack([*ends, votes[kept] - level[image], rank[kept]])
