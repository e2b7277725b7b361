"""Same-lesion and same-patient recall@1: is the nearest other image one of the same lesion (patient)?"""

from typing import Any

import numpy as np

from dermeval.features.pool import Pool
from dermeval.probes.intervals import interval_json
from dermeval.statistics.bootstrap import bootstrap_mean
from dermssl import neighbours


def same_id_recall(pool: Pool, draws: int, seed: int) -> list[dict[str, Any]]:
    """Recall@1 for lesions and patients of each data set of ``pool`` in which such ids repeat."""
    found = []
    for dataset, rows in pool.frame.groupby("dataset", sort=False).indices.items():
        frame, features = pool.frame.iloc[rows], np.asarray(pool.features)[rows]
        for kind in ("lesion", "patient"):
            ids = frame[f"{kind}_id"].astype(object)
            queries, hits = neighbours.recall_at_1(features, ids.where(ids.notna(), None).to_numpy())
            if len(queries):
                groups = frame["group_id"].to_numpy(dtype=object)[queries]
                interval = bootstrap_mean(hits.astype(float), groups, draws, seed)
                found.append({"kind": kind, "dataset": str(dataset), "queries": len(queries)} | interval_json(interval))
    return found
