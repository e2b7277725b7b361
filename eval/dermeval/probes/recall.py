"""Same-lesion and same-patient recall@1: is the nearest other image one of the same lesion (patient)?"""

from dataclasses import dataclass

import numpy as np

from dermeval.features.pool import Pool
from dermeval.statistics.bootstrap import Interval, bootstrap_mean
from dermssl import neighbours


@dataclass(frozen=True)
class Recall:
    """Recall@1 of one kind of id in one data set, over ``queries`` images, with its interval by group."""

    kind: str
    dataset: str
    queries: int
    interval: Interval


def same_id_recall(pool: Pool, draws: int, seed: int) -> list[Recall]:
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
                found.append(Recall(kind, str(dataset), len(queries), interval))
    return found
