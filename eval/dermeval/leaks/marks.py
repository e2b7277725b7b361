"""Marks: letters, logos and stamps that a few pictures share, wherever they stand and however large they are.

`overlays` finds what stands at one place in many pictures, before pairs are compared. A mark that is rare, or stands at
another place in each picture, shows only afterwards: its picture resembles those of many records, always by the same
small part. This part is left out, and the pairs of the picture are compared once more.
"""

import numpy as np
import pandas as pd

from dermeval.leaks.local_features import THUMBNAIL
from dermeval.leaks.matching import consensus, local_of
from dermeval.leaks.overlays import LEAST_CELLS, LEAST_RECORDS, SHARED_BY_COPIES, cell_numbers, with_neighbours
from dermeval.leaks.verify import LocalStore

LEAST_LIKELY = 8
"""Pictures are searched for marks if they are in likely pairs with so many other records. No photograph of
PAD-UFES-20 or HAM10000 is in more than five, each counted as a record of its own."""
MOST_COMPARED = 32
"""A picture is searched by comparing it with at most so many of these records: a large set of copies has more."""


def mark_cells(pairs: np.ndarray, mirrored: np.ndarray, groups: np.ndarray, store: LocalStore) -> np.ndarray:
    """Which cells of each picture a mark covers, ``(N, 16, 16)`` bool.

    ``pairs`` ``(L, 2)`` are rows of likely near-duplicates, ``mirrored`` ``(L,)`` says whether the second picture is
    mirrored, and ``groups`` ``(N,)`` are the integer records.
    """
    hidden = np.zeros((len(groups), THUMBNAIL, THUMBNAIL), bool)
    ends = pd.DataFrame({"pair": np.arange(len(pairs)).repeat(2), "row": pairs.ravel()})
    ends = ends.assign(record=groups[pairs[:, ::-1]].ravel()).drop_duplicates(["row", "record"])
    ends = ends.assign(records=ends.groupby("row")["pair"].transform("size"), number=ends.groupby("row").cumcount())
    ends = ends[ends["records"] >= LEAST_LIKELY]
    seen = {row: set[tuple[int, int]]() for row in ends["row"]}
    """For each suspect the cells that agree with a picture of another record, and this record."""
    for number in np.unique(ends["pair"][ends["number"] < MOST_COMPARED]):
        (a, b), turned = pairs[number].tolist(), mirrored[number]
        first, second = local_of(store.record(a)), local_of(store.record(b))
        agreeing = consensus(first, second.mirrored() if turned else second).agreeing
        cells = [
            np.bincount(cell_numbers(local.points[rows], local.size), minlength=THUMBNAIL**2)[None] > 0
            for local, rows in zip((first, second), agreeing, strict=True)
        ]
        if max(with_neighbours(one).mean() for one in cells) < SHARED_BY_COPIES:  # else one is a copy, maybe of a part
            for row, one, other in ((a, cells[0], b), (b, cells[1], a)):
                if row in seen:
                    seen[row] |= {(cell, int(groups[other])) for cell in np.flatnonzero(one).tolist()}
    for row, agreed in seen.items():
        shared = np.bincount([cell for cell, _ in agreed], minlength=THUMBNAIL**2) >= LEAST_RECORDS
        covered = with_neighbours(shared[None])[0]
        if shared.sum() >= LEAST_CELLS and covered.mean() < SHARED_BY_COPIES:
            hidden[row] = covered
    return hidden
