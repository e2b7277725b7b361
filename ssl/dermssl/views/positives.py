"""Positives from other photographs: some views of an image show another photograph of its case, lesion or patient.

After MICLe (Azizi et al. 2021, "Big self-supervised models advance medical image classification"). The second global
view and every second local view come from the other photograph. Without one, all views come from the image itself.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SHARE_DRAW, CHOICE_DRAW = 33, 34
"""The uniform numbers of a view that decide whether another photograph is taken, and which one."""


@dataclass(frozen=True)
class Partners:
    """The pooled rows sorted by group: the rows of one group stand side by side in ``order``.

    Row ``i`` stands at ``place[i]`` in ``order``; its group begins at ``start[i]`` and has ``count[i]`` rows.
    """

    order: np.ndarray
    place: np.ndarray
    start: np.ndarray
    count: np.ndarray

    def partner(self, row: int, share: float, draws: np.ndarray) -> int:
        """Another row of the group with probability ``share``, else ``row``; ``draws`` are of one view of the image."""
        others = int(self.count[row]) - 1
        if others < 1 or draws[SHARE_DRAW] >= share:
            return row
        start = int(self.start[row])
        chosen = start + int(draws[CHOICE_DRAW] * others)
        return int(self.order[chosen + (chosen >= self.place[row])])


def find_partners(groups: np.ndarray, patients: np.ndarray) -> Partners:
    """Group the N rows of one group id and one patient. None is unknown; a row without group id is alone."""
    known = ~pd.isna(groups)
    code, _ = pd.factorize(pd.MultiIndex.from_arrays([groups, pd.Series(patients, dtype=object).fillna("")]))
    code = np.where(known, code, code.max(initial=0) + 1 + np.arange(len(code)))
    order = np.argsort(code, kind="stable")
    return Partners(order, np.argsort(order), np.searchsorted(code[order], code), np.bincount(code)[code])
