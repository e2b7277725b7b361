"""Positives from other photographs: further views of an image may show its case, lesion or patient in another picture.

After MICLe (Azizi et al. 2021, "Big self-supervised models advance medical image classification"). The second global
view and every second local view come from the other photograph; where an image has none, from the image itself.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SHARE_DRAW, CHOICE_DRAW = 33, 34
"""Which of a view's uniform numbers decide whether another photograph is taken, and which one."""


@dataclass(frozen=True)
class Partners:
    """The pooled rows sorted by what they show: members of one group lie side by side in ``order``.

    ``place`` is where a row lies in ``order``; its group begins at ``start`` and has ``count`` members.
    """

    order: np.ndarray
    place: np.ndarray
    start: np.ndarray
    count: np.ndarray

    def partner(self, row: int, share: float, draws: np.ndarray) -> int:
        """Another row of the group with probability ``share``, all others alike; else ``row``.

        ``draws`` are the uniform numbers of one view of the image.
        """
        others = int(self.count[row]) - 1
        if others < 1 or draws[SHARE_DRAW] >= share:
            return row
        start = int(self.start[row])
        chosen = start + int(draws[CHOICE_DRAW] * others)
        return int(self.order[chosen + (chosen >= self.place[row])])


def find_partners(groups: np.ndarray, patients: np.ndarray) -> Partners:
    """Group rows of the same group id (case, lesion or patient) and the same patient, ``(N,)``, None where unknown.

    A row without a group id stands alone.
    """
    known = ~pd.isna(groups)
    code, _ = pd.factorize(pd.MultiIndex.from_arrays([groups, pd.Series(patients, dtype=object).fillna("")]))
    code = np.where(known, code, code.max(initial=0) + 1 + np.arange(len(code)))
    order = np.argsort(code, kind="stable")
    _, first, inverse, counts = np.unique(code[order], return_index=True, return_inverse=True, return_counts=True)
    place = np.empty(len(code), np.int64)
    place[order] = np.arange(len(code))
    return Partners(order, place, first[inverse][place], counts[inverse][place])
