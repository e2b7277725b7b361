"""Same-lesion and same-patient recall@1: is the nearest other image one of the same lesion (patient)?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

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


def recall_at_1(features: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are queries ``(Q,)`` and whether the most similar other image shares their id ``(Q,)``.

    Queries are all rows whose id another row has; the gallery is every other row, also those without an id (None).
    Cosine similarity on ``features`` (N, D).
    """
    codes, _ = pd.factorize(np.asarray(ids, dtype=object))
    queries = np.flatnonzero((codes >= 0) & (np.bincount(codes + 1)[codes + 1] > 1))
    if not len(queries):
        return queries, np.zeros(0, dtype=bool)
    unit = neighbours.normalise(features)
    _, rows = neighbours.search(unit[queries], unit, 2)
    # The query itself is one of the two, except among exact copies, where any other row is as near.
    nearest = np.where(rows[:, 0] == queries, rows[:, 1], rows[:, 0])
    return queries, codes[nearest] == codes[queries]


def same_id_recall(pool: Pool, draws: int, seed: int) -> list[Recall]:
    """Recall@1 for lesions and patients of each data set of ``pool`` in which such ids repeat."""
    found = []
    for dataset, rows in pool.frame.groupby("dataset", sort=False).indices.items():
        frame, features = pool.frame.iloc[rows], np.asarray(pool.features)[rows]
        for kind in ("lesion", "patient"):
            ids = frame[f"{kind}_id"].astype(object)
            queries, hits = recall_at_1(features, ids.where(ids.notna(), None).to_numpy())
            if len(queries):
                groups = frame["group_id"].to_numpy(dtype=object)[queries]
                interval = bootstrap_mean(hits.astype(float), groups, draws, seed)
                found.append(Recall(kind, str(dataset), len(queries), interval))
    return found
