"""Same-lesion and same-patient recall@1: is the nearest other image one of the same lesion (patient)?"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.pool import PooledEmbeddings
from dermeval.probes.intervals import interval_json
from dermeval.statistics.bootstrap import bootstrap_mean
from dermssl import neighbours


def recall_hits(features: np.ndarray, frame: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Data set, ``lesion`` or ``patient``, the query rows, and whether each query's nearest image shares its id.

    Only for data sets in which such ids repeat.
    """
    for dataset, rows in frame.groupby("dataset", sort=False).indices.items():
        for kind in ("lesion", "patient"):
            ids = frame[f"{kind}_id"].iloc[rows].astype(object)
            queries, hits = neighbours.recall_at_1(np.asarray(features)[rows], ids.where(ids.notna(), None).to_numpy())
            if len(queries):
                yield str(dataset), kind, rows[queries], hits


def same_id_recall(pool: PooledEmbeddings, draws: int, seed: int) -> list[dict[str, Any]]:
    """Recall@1 for lesions and patients of each data set of ``pool``, with intervals by group.

    ``contaminated`` counts the queries that the encoder saw in pretraining; None where that is not known.
    """
    found = []
    seen = pool.seen.flags(pool.frame["image_id"])
    groups = pool.frame["group_id"].to_numpy(dtype=object)
    for dataset, kind, queries, hits in recall_hits(pool.features, pool.frame):
        interval = bootstrap_mean(hits.astype(float), groups[queries], draws, seed)
        contaminated = None if seen.isna().all() else int(seen.iloc[queries].sum())
        entry = {"kind": kind, "dataset": dataset, "queries": len(queries), "contaminated": contaminated}
        found.append(entry | interval_json(interval))
    return found
