"""From four kinds of evidence to one table of confirmed pairs of images."""

import logging
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dermeval.leaks.alignment import Match
from dermeval.leaks.candidates import embedding_candidates
from dermeval.leaks.fingerprints import hash_pairs, identical_pairs
from dermeval.leaks.groups import side
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.records import Records
from dermeval.leaks.verify import verify

_MATCH = list(Match._fields)
KINDS = ("file", "pixels", "hash", "embedding")
BACKGROUND_PAIRS = 300
SPREADS_ABOVE_BACKGROUND = 8
log = logging.getLogger("dermssl")


class Found(NamedTuple):
    """Confirmed pairs, and what the search did on the way (for ``summary.json``)."""

    pairs: pd.DataFrame
    search: dict[str, Any]


def find_pairs(records: Records, options: LeaksOptions) -> Found:
    """All pairs of images of different groups that file, pixels, or aligned structure prove to be near-duplicates."""
    identical = _identical(records)
    hashed = hash_pairs(np.stack(records.frame["phash"].to_numpy()), records.groups, options.hash_bits)
    pools = matching_pools(records)
    parts, background, thresholds = [], [], {}
    for names, rows in pools.items():
        views = [view[rows] for view in records.views.values()]
        found = embedding_candidates(
            records.features[rows], records.groups[rows], options.neighbours, options.budget, views
        )
        parts.append(found.pairs.assign(a=rows[found.pairs["a"]], b=rows[found.pairs["b"]]))
        background.append(found.background.assign(a=rows[found.background["a"]], b=rows[found.background["b"]]))
        thresholds[" + ".join(names)] = found.threshold
    candidates = hashed.merge(pd.concat(parts), on=["a", "b"], how="outer")
    candidates = candidates.merge(identical[["a", "b"]], on=["a", "b"], how="left", indicator="known")
    candidates = candidates[candidates.pop("known") == "left_only"].reset_index(drop=True)
    log.info("comparing the pixels of %d candidate pairs", len(candidates))
    level = _background_level(pd.concat(background), records, options.workers)
    agreement = max(options.agreement, level["median"] + SPREADS_ABOVE_BACKGROUND * level["spread"])
    matches = verify(_to_verify(candidates), records.pictures, options.workers)
    confirmed = pd.concat([candidates, matches], axis=1)[matches["agreement"] >= agreement]
    search = {
        "candidates": {"hash": len(hashed), "embedding": sum(map(len, parts)), "compared": len(candidates)},
        "normalised_similarity_threshold": {name: value for name, value in thresholds.items() if np.isfinite(value)},
        "background": level | {"budget": options.budget},
        "agreement_threshold": float(agreement),
        "embedding_pools": [list(names) for names in pools],
        "views": list(records.views),
    }
    return Found(_describe(pd.concat([identical, confirmed], ignore_index=True), records), search)


def matching_pools(records: Records) -> dict[tuple[str, ...], np.ndarray]:
    """Rows whose embeddings may be compared with each other, by names of data sets.

    A set whose licence forbids re-linking is compared by embedding only within itself.
    """
    closed = {entry["dataset"] for entry in records.licences if not entry["relinking"]}
    names = records.frame["dataset"].unique().tolist()
    pools = [tuple(name for name in names if name not in closed), *[(name,) for name in names if name in closed]]
    dataset = records.frame["dataset"]
    return {pool: np.flatnonzero(dataset.isin(pool)) for pool in pools if pool}


def _identical(records: Records) -> pd.DataFrame:
    """Pairs of one file or of the same pixels: columns ``a``, ``b``, ``file``, ``pixels``."""
    tables = [
        pd.DataFrame(identical_pairs(records.frame[column].to_numpy(), records.groups), columns=["a", "b"]).assign(
            **{kind: True}
        )
        for kind, column in (("file", "sha256"), ("pixels", "pixel_sha256"))
    ]
    return tables[0].merge(tables[1], on=["a", "b"], how="outer")


def _to_verify(candidates: pd.DataFrame) -> pd.DataFrame:
    """Hash pairs are compared in the orientation that the hash gives; those near by embedding in any other too."""
    return candidates[["a", "b"]].assign(
        orientation=candidates["orientation"].fillna(-1).astype(int), searched=candidates["similarity"].notna()
    )


def _background_level(background: pd.DataFrame, records: Records, workers: int) -> dict[str, Any]:
    """Agreement that similar images of different groups reach by chance: median and robust spread of a sample."""
    sample = background.sample(min(BACKGROUND_PAIRS, len(background)), random_state=0).reset_index(drop=True)
    pairs = sample[["a", "b"]].assign(orientation=-1, searched=True)
    reached = verify(pairs, records.pictures, workers, least=-1.0, label="background")["agreement"]
    if reached.empty:
        return {"pairs": 0, "median": 0.0, "spread": 0.0, "highest": 0.0}
    median = float(reached.median())
    spread = 1.4826 * float((reached - median).abs().median())
    return {"pairs": len(reached), "median": median, "spread": spread, "highest": float(reached.max())}


def _describe(pairs: pd.DataFrame, records: Records) -> pd.DataFrame:
    """The columns of ``pairs.parquet``, strongest evidence first; ``a`` and ``b`` are kept as rows."""
    pairs = pairs.reindex(columns=["a", "b", "file", "pixels", "hash_bits", "similarity", "normalised", *_MATCH])
    present = {
        "file": pairs["file"].notna(),
        "pixels": pairs["pixels"].notna(),
        "hash": pairs["hash_bits"].notna(),
        "embedding": pairs["similarity"].notna(),
    }
    table = pairs[["a", "b"]].astype(int)
    for name in ("image_id", "group_id", "dataset", "split"):
        for end in ("a", "b"):
            table[f"{name}_{end}"] = records.frame[name].to_numpy()[table[end]]
    evidence = [[kind for kind in KINDS if present[kind][row]] for row in pairs.index]
    table["evidence"] = pd.Series(evidence, index=pairs.index, dtype=object)
    table = table.join(pairs[["hash_bits", "similarity", "normalised", *_MATCH]])
    table["mirrored"] = table["mirrored"].astype("boolean")
    table["hash_bits"] = table["hash_bits"].astype("Int64")
    table["across_splits"] = side(table["split_a"]) != side(table["split_b"])
    table["across_datasets"] = table["dataset_a"] != table["dataset_b"]
    table["labels_agree"] = _labels_agree(table, records)
    order = table.assign(rank=[KINDS.index(kinds[0]) for kinds in evidence])
    return table.loc[order.sort_values(["rank", "agreement"], ascending=[True, False]).index].reset_index(drop=True)


def _labels_agree(table: pd.DataFrame, records: Records) -> pd.Series:
    """Whether all labels that both images have are equal; null where they share none."""
    shared = np.zeros(len(table), dtype=bool)
    equal = np.ones(len(table), dtype=bool)
    for column in records.labels:
        a, b = (records.frame[column].reset_index(drop=True)[table[end]].reset_index(drop=True) for end in ("a", "b"))
        both = (a.notna() & b.notna()).to_numpy()
        shared |= both
        equal &= ~both | (a == b).to_numpy()
    return pd.Series(equal, index=table.index).astype("boolean").mask(~shared)
