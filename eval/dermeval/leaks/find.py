"""From images to scored pairs: describe, nominate, compare, score. What is finished is kept for a second start."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dermeval.leaks import candidates, certainty
from dermeval.leaks.fingerprints import identical_pairs
from dermeval.leaks.local_features import MOST_POINTS
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.records import Records, pools
from dermeval.leaks.signatures import Signatures, Votes, signatures
from dermeval.leaks.verify import compare_pairs, describe_images

MANY_IMAGES, FEWER_POINTS = 20_000, 300
VOTING, VOTING_MANY = 200, 100
"""Local features of an image that vote for candidates; fewer where there are `MANY_IMAGES`."""
COPIES_SEARCHED = 3
"""Of more images with the same pixels, only so many look for others: they would only find each other."""
log = logging.getLogger("dermssl")


class Found(NamedTuple):
    """Scored candidate pairs with their evidence, pairs of identical images, and the background.

    ``candidates`` has a row per pair (columns of `candidates.united`, and ``score``, ``world``, ``expected_false``,
    ``false_discovery_rate``); ``evidence`` (`verify.EVIDENCE`) the same rows.
    """

    candidates: pd.DataFrame
    evidence: np.ndarray
    identical: pd.DataFrame
    background: certainty.Background
    sources: list[str]


def find_pairs(records: Records, options: LeaksOptions, work: Path) -> Found:
    """All candidate pairs of images of different records, compared and scored.

    Args:
        records: the images.
        options: of the command.
        work: folder for what is finished; it may hold that of an earlier start.
    """
    many = len(records.frame) > MANY_IMAGES
    store = describe_images(records.pictures, FEWER_POINTS if many else MOST_POINTS, work, options.workers)
    blocks = store.blocks()
    identical = identical_images(records)
    nominated = nominate(records, options, blocks, signatures(blocks))
    key = nominated["a"].to_numpy(np.int64) * len(records.frame) + nominated["b"].to_numpy(np.int64)
    identical_keys = identical["a"].to_numpy(np.int64) * len(records.frame) + identical["b"].to_numpy(np.int64)
    fresh = ~np.isin(key, identical_keys)
    nominated = nominated[fresh].reset_index(drop=True)
    log.info("comparing the pixels of %d candidate pairs", len(nominated))
    evidence = compare_pairs(nominated, records.pictures, store, work, options.workers, "compare pairs")
    return scored(nominated, evidence, identical)


def scored(nominated: pd.DataFrame, evidence: np.ndarray, identical: pd.DataFrame) -> Found:
    """Score compared pairs against the background that they give themselves."""
    scores = certainty.world_scores(evidence)
    background = certainty.background_of(evidence)
    best = scores.max(axis=1, initial=0)
    expected = certainty.expected_false(best, background)
    table = nominated.assign(
        score=best,
        world=scores.argmax(axis=1) if len(scores) else 0,
        expected_false=expected,
        false_discovery_rate=certainty.false_discovery_rate(best, expected),
    )
    sources = [name for name in table.columns if f"{name}_above" in table or name == "hash"]
    return Found(table, evidence, identical, background, sources)


def nominate(records: Records, options: LeaksOptions, blocks: list[np.ndarray], vectors: Signatures) -> pd.DataFrame:
    """Candidate pairs of all sources, see `candidates.united`."""
    hashes = np.stack(records.frame["phash"].to_numpy())
    tables = [("hash", candidates.hash_table(hashes, records.groups, options.hash_bits))]
    searched = ~vectors.flat & _among_first_copies(records.frame)
    for pool in pools(records).values():
        rows = pool[searched[pool]]
        if len(rows) < 2 or len(np.unique(records.groups[rows])) < 2:
            continue
        tables += _nominate_within(records, rows, options, blocks, vectors)
    return candidates.united(tables)


def _nominate_within(
    records: Records,
    rows: np.ndarray,
    options: LeaksOptions,
    blocks: list[np.ndarray],
    vectors: Signatures,
) -> list[tuple[str, pd.DataFrame]]:
    """Candidates among the images ``rows``."""
    groups, found = records.groups[rows], []
    part = Signatures(vectors.thumbnail[rows], vectors.colour[rows], vectors.flat[rows])
    for query in candidates.signature_queries(part):
        found.append((query.source, candidates.nearest_pairs(query, groups, max(1, options.neighbours // 2)), rows))
    votes = Votes(_chosen(blocks, rows), VOTING_MANY if len(rows) > MANY_IMAGES else VOTING)
    for mirrored in (False, True):
        pairs = votes.pairs(groups, options.neighbours, mirrored)
        found.append(("local features", pairs.assign(first=False, orientation=-1), rows))
    for one in records.embedded:
        inside = np.isin(one.rows, rows)
        ours = one.rows[inside]
        if len(ours) > 1:
            views = {name: view[inside] for name, view in one.views.items()}
            for query in candidates.embedding_queries(one.name, one.features[inside], views):
                found.append(
                    (query.source, candidates.nearest_pairs(query, records.groups[ours], options.neighbours), ours)
                )
    return [(source, _renumbered(table, numbers)) for source, table, numbers in found]


def _renumbered(table: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    ends = np.sort(rows[table[["a", "b"]].to_numpy(np.int64)], axis=1).reshape(-1, 2)
    return table.assign(a=ends[:, 0], b=ends[:, 1])


def _chosen(blocks: list[np.ndarray], rows: np.ndarray) -> list[np.ndarray]:
    """The records of some rows, block by block; whole blocks stay memory-mapped."""
    starts = np.cumsum([0, *map(len, blocks)])
    parts = []
    for start, block in zip(starts[:-1], blocks, strict=True):
        inside = rows[(rows >= start) & (rows < start + len(block))] - start
        if len(inside):
            parts.append(block if len(inside) == len(block) else block[inside])
    return parts


def _among_first_copies(frame: pd.DataFrame) -> np.ndarray:
    return (frame.groupby(["dataset", "pixel_sha256"]).cumcount() < COPIES_SEARCHED).to_numpy()


def identical_images(records: Records) -> pd.DataFrame:
    """Pairs of one file or of the same pixels: columns ``a``, ``b``, ``file``, ``pixels``."""
    tables = [
        pd.DataFrame(identical_pairs(records.frame[column].to_numpy(), records.groups), columns=["a", "b"]).assign(
            **{kind: True}
        )
        for kind, column in (("file", "sha256"), ("pixels", "pixel_sha256"))
    ]
    both = tables[0].merge(tables[1], on=["a", "b"], how="outer")
    return both.assign(**{kind: both[kind].notna() for kind in ("file", "pixels")})


def summary(found: Found, confirmed: pd.DataFrame) -> dict[str, Any]:
    """What each source nominated, confirmed and alone contributed."""
    named = found.candidates[found.sources]
    alone = named.sum(axis=1) == 1
    kept = confirmed.index
    return {
        source: {
            "nominated": int(named[source].sum()),
            "confirmed": int(named.loc[kept, source].sum()),
            "alone": int((named.loc[kept, source] & alone[kept]).sum()),
        }
        for source in found.sources
    }
