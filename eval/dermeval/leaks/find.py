"""From images to scored pairs: describe, nominate, compare, score."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dermeval.features.alignment import SCENE_CORRELATION
from dermeval.leaks import certainty
from dermeval.leaks.earlier import EarlierAudit
from dermeval.leaks.local_features import COARSE, FINE
from dermeval.leaks.marks import mark_cells
from dermeval.leaks.nominate import identical_pairs, linked_pairs, nominate, united
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.overlays import overlay_cells, packed, unpacked
from dermeval.leaks.records import AuditedImages, pools
from dermeval.leaks.verify import EVIDENCE, LocalStore, compare_colours, compare_pairs, describe_images
from dermeval.leaks.work import Work
from dermssl.errors import counted

MANY_IMAGES = 20_000
"""In an audit of more images, each image is described coarsely to save time."""
LIKELY = 0.5
"""Largest false-discovery rate of a pair whose images are compared with each other's near-duplicates too."""
log = logging.getLogger("dermssl")


class ScoredPairs(NamedTuple):
    """Scored candidate pairs with their evidence, pairs of identical images, and the background.

    ``candidates`` has the columns of `nominate.united`, ``score``, ``world`` and ``false_discovery_rate``. ``evidence``
    (`verify.EVIDENCE`) has the same rows.
    """

    candidates: pd.DataFrame
    evidence: np.ndarray
    identical: pd.DataFrame
    background: certainty.Background
    sources: list[str]
    store: LocalStore

    def hidden(self) -> dict[str, Any]:
        """The number of images of which an overlay is left out, and the share of their area that this is."""
        cells = unpacked(self.store.hidden).mean(axis=(1, 2))
        count = int((cells > 0).sum())
        return {"images": count, "share": round(float(cells.sum() / max(count, 1)), 3)}

    def shares_of_sources(self, threshold: float) -> dict[str, Any]:
        """For each source the number of pairs it nominated, of these confirmed, and confirmed from no other source."""
        named = self.candidates[self.sources]
        kept = named[self.candidates["score"] >= threshold]
        counts = {"nominated": named.sum(), "confirmed": kept.sum(), "alone": kept[kept.sum(axis=1) == 1].sum()}
        return pd.DataFrame(counts).astype(int).to_dict(orient="index")


def find_pairs(
    images: AuditedImages, options: LeaksOptions, work: Work, earlier: EarlierAudit | None = None
) -> ScoredPairs:
    """Compare and score all candidate pairs of images of different records; every rank returns the same pairs.

    Finished blocks are saved in ``work`` and reused after a kill. Pairs known from the ``earlier`` audit are left out.
    """
    count = len(images.frame)
    earlier = earlier or EarlierAudit(np.zeros(count, bool))
    if count and earlier.known.all():
        return _nothing_new(images, work, earlier)
    log.info("describing %s", counted(count, "image"))
    store = describe_images(images.pictures, COARSE if count > MANY_IMAGES else FINE, work)
    store = _hiding(
        store, work, "overlays", lambda: overlay_cells(store.blocks, images.groups, pools(images), store.detail.voting)
    )
    identical, appearance = identical_pairs(images), store.appearance()
    log.info("looking for candidate pairs")
    nominated = work.decided(
        f"candidates-{_nominated_by(images, options, store)}.parquet",
        lambda: nominate(images, options, store, appearance),
        kept=True,
    )
    known = pd.MultiIndex.from_frame(nominated[["a", "b"]]).isin(pd.MultiIndex.from_frame(identical[["a", "b"]]))
    nominated = nominated[~known & ~earlier.compared(nominated[["a", "b"]])].reset_index(drop=True)
    pool = pools(images)

    def compare(pairs: pd.DataFrame, store: LocalStore) -> tuple[pd.DataFrame, np.ndarray]:
        ends = pairs[["a", "b"]].to_numpy(np.int64)
        log.info("comparing the pixels of %s", counted(len(pairs), "candidate pair"))
        evidence = compare_pairs(pairs, images.pictures, store, work)
        compare_colours(evidence, ends, appearance)
        # Across pools only copies of images may be found.
        apart = pool[ends[:, 0]] != pool[ends[:, 1]]
        kept = ~apart | (evidence["correlation"].max(axis=1, initial=0) >= SCENE_CORRELATION)
        return pairs[kept].reset_index(drop=True), evidence[kept]

    table, evidence = compare(nominated, store)
    found = scored(table, evidence, identical, store, earlier)
    likely, mirrored = _likely(found)
    unmarked = _hiding(store, work, "marks", lambda: mark_cells(likely, mirrored, images.groups, store))
    if unmarked is not store:
        changed = (unmarked.hidden != store.hidden).any(axis=1)
        again = changed[table[["a", "b"]].to_numpy(np.int64)].any(axis=1)
        store = unmarked
        more, further = compare(table[again], store)
        table = pd.concat([table[~again], more], ignore_index=True)
        evidence = np.concatenate([evidence[~again], further])
        found = scored(table, evidence, identical, store, earlier)
        likely, _ = _likely(found)
    compared = pd.concat([nominated, identical])[["a", "b"]].to_numpy(np.int64)
    ends = linked_pairs(np.concatenate([likely, earlier.likely(LIKELY)]), compared, images.groups, pool)
    ends = pd.DataFrame(ends[~earlier.compared(ends)], columns=["a", "b"])
    linked = work.decided("candidates-linked.parquet", lambda: united([("linked", ends)]))
    if not len(linked):
        return found
    more, further = compare(linked, store)
    both = pd.concat([table.assign(linked=False), more], ignore_index=True)
    both[found.sources] = both[found.sources].fillna(False).astype(bool)
    return scored(both, np.concatenate([evidence, further]), identical, store, earlier)


def _nothing_new(images: AuditedImages, work: Work, earlier: EarlierAudit) -> ScoredPairs:
    """The earlier audit compared all these images, so none is described: only identical images are paired."""
    log.info("no image is new since the earlier audit: its results are taken over")
    detail = COARSE if len(images.frame) > MANY_IMAGES else FINE
    store = LocalStore(work.folder, detail, np.zeros((0, 32), np.uint8))
    none = united([("linked", pd.DataFrame(columns=["a", "b"], dtype=np.int64))])
    return scored(none, np.zeros(0, EVIDENCE), identical_pairs(images), store, earlier)


def _likely(found: ScoredPairs) -> tuple[np.ndarray, np.ndarray]:
    """The pairs ``(L, 2)`` of rows that may well be near-duplicates, and whether the second picture is mirrored."""
    table = found.candidates[found.candidates["false_discovery_rate"] <= LIKELY]
    return table[["a", "b"]].to_numpy(np.int64), table["world"].to_numpy() == 1


def _hiding(store: LocalStore, work: Work, name: str, cells: Callable[[], np.ndarray]) -> LocalStore:
    """The store without the ``cells`` (N, 16, 16) of its pictures, which rank 0 finds; unchanged if there are none."""

    def find() -> pd.DataFrame:
        bits = packed(cells())
        rows = np.flatnonzero(bits.any(axis=1))
        return pd.DataFrame({"row": rows, "cells": [one.tobytes() for one in bits[rows]]})

    found = work.decided(f"hidden-{name}.parquet", find)
    if not len(found):
        return store
    hidden = store.hidden.copy()
    hidden[found["row"]] |= np.stack([np.frombuffer(cells, np.uint8) for cells in found["cells"]])
    return store._replace(hidden=hidden)


def _nominated_by(images: AuditedImages, options: LeaksOptions, store: LocalStore) -> str:
    """A hash of everything that the nominated pairs depend on besides the pixels."""
    digest = hashlib.sha256(repr((options.neighbours, store.detail, images.licences)).encode())
    for array in (images.groups, store.hidden):
        digest.update(np.ascontiguousarray(array).data)
    for one in images.embedded:
        digest.update(one.digest().encode())
    return digest.hexdigest()[:16]


def scored(
    nominated: pd.DataFrame, evidence: np.ndarray, identical: pd.DataFrame, store: LocalStore, earlier: EarlierAudit
) -> ScoredPairs:
    """Score compared pairs against the background of their own mirrored scores and those of the earlier audit."""
    scores = certainty.world_scores(evidence)
    mirrored = scores[~certainty.mirrored_copies(evidence), 1]
    background = certainty.background_of(np.concatenate([mirrored, earlier.background]))
    best = scores.max(axis=1, initial=0)
    every = np.concatenate([best, earlier.pairs["score"].to_numpy(np.float64)])
    table = nominated.assign(
        score=best,
        world=scores.argmax(axis=1) if len(scores) else 0,
        false_discovery_rate=certainty.false_discovery_rate(every, background.most_false(every))[: len(best)],
    )
    sources = [name for name in nominated if name not in ("a", "b", "upright", "mirrored", "hash_bits")]
    return ScoredPairs(table, evidence, identical, background, sources, store)
