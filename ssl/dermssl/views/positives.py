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
    """The ``group`` of each pooled row ``(N,)``, -1 for none; the rows of group g: ``order[first[g] : first[g + 1]]``.

    Arrays, because a dictionary of millions of groups would be copied into every data worker.
    """

    group: np.ndarray
    order: np.ndarray
    first: np.ndarray

    @property
    def paired(self) -> int:
        """Number of rows whose group has another row."""
        sizes = np.diff(self.first)
        return int(sizes[sizes > 1].sum())

    def partner(self, row: int, share: float, draws: np.ndarray) -> int:
        """Another row of the group with probability ``share``, else ``row``; ``draws`` are of one view of the image."""
        group = self.group[row]
        if group < 0 or draws[SHARE_DRAW] >= share:
            return row
        rows = self.order[self.first[group] : self.first[group + 1]]
        others = rows[rows != row]
        return int(others[int(draws[CHOICE_DRAW] * len(others))]) if len(others) else row

    def shown(self, times_seen: np.ndarray) -> np.ndarray:
        """``times_seen`` (N,) with at least 1 for each row that a row of its group in a batch may have shown."""
        in_batch = np.bincount(self.group + 1, weights=times_seen > 0)[self.group + 1] > 0
        return np.maximum(times_seen, (self.group >= 0) & in_batch)


def find_partners(groups: np.ndarray, patients: np.ndarray) -> Partners:
    """Group the N rows of one group id and one patient. None is unknown; a row without group id is alone."""
    code, _ = pd.factorize(pd.MultiIndex.from_arrays([groups, pd.Series(patients, dtype=object).fillna("")]))
    code = np.where(pd.isna(groups), -1, code)
    order = np.argsort(code, kind="stable")
    return Partners(code, order, np.searchsorted(code[order], np.arange(code.max() + 2)))
