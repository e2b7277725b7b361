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
    """The group of each pooled row ``(N,)``, and the rows of each group that has several, in ascending order."""

    group: np.ndarray
    rows: dict[int, np.ndarray]

    def partner(self, row: int, share: float, draws: np.ndarray) -> int:
        """Another row of the group with probability ``share``, else ``row``; ``draws`` are of one view of the image."""
        rows = self.rows.get(int(self.group[row]))
        if rows is None or draws[SHARE_DRAW] >= share:
            return row
        others = rows[rows != row]
        return int(others[int(draws[CHOICE_DRAW] * len(others))])


def find_partners(groups: np.ndarray, patients: np.ndarray) -> Partners:
    """Group the N rows of one group id and one patient. None is unknown; a row without group id is alone."""
    code, _ = pd.factorize(pd.MultiIndex.from_arrays([groups, pd.Series(patients, dtype=object).fillna("")]))
    code = np.where(pd.isna(groups), -1, code)
    known = pd.Series(code[code >= 0], index=np.flatnonzero(code >= 0))
    several = known[known.duplicated(keep=False)]
    return Partners(code, {group: rows.index.to_numpy() for group, rows in several.groupby(several)})
