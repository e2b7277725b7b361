"""``decisions.csv``: what a person decided about pairs, saved at once, and what follows for groups and split."""

from pathlib import Path

import numpy as np
import pandas as pd

from dermeval.leaks.groups import group_table, leak_groups, repaired, strata
from dermeval.leaks.records import Records
from dermssl.errors import InputError
from dermssl.files import write_csv

FILE = "decisions.csv"
ACCEPT, REJECT, UNSURE = "accept", "reject", "unsure"
COLUMNS = ["image_id_a", "image_id_b", "decision"]
STOP_AFTER = 58
"""Rejections in a row after which one is 95% sure that fewer than 5% of what is left are near-duplicates."""


def read_decisions(folder: Path) -> pd.DataFrame:
    """The decisions of a leaks folder, the last one of each pair; empty where none was made yet.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS, dtype=object)
    try:
        table = pd.read_csv(path, dtype=str)[COLUMNS]
    except (KeyError, ValueError, UnicodeDecodeError):
        raise InputError(f"{path} is damaged: it needs the columns {', '.join(COLUMNS)}; mend or remove it") from None
    if not table["decision"].isin([ACCEPT, REJECT, UNSURE]).all():
        raise InputError(f"{path}: a decision is one of {ACCEPT}, {REJECT}, {UNSURE}: mend or remove the others")
    return table.drop_duplicates(COLUMNS[:2], keep="last", ignore_index=True)


def write_decisions(folder: Path, decisions: pd.DataFrame) -> None:
    """Save all decisions."""
    write_csv(folder / FILE, decisions[COLUMNS])


def decided(pairs: pd.DataFrame, decisions: pd.DataFrame) -> pd.Series:
    """The decision about each pair, ``(P,)``; null where there is none."""
    known = decisions.set_index(COLUMNS[:2])["decision"]
    keys = pd.MultiIndex.from_frame(pairs[COLUMNS[:2]])
    return pd.Series(known.reindex(keys).to_numpy(dtype=object), index=pairs.index, dtype=object)


def kept_pairs(pairs: pd.DataFrame, decisions: pd.DataFrame) -> pd.DataFrame:
    """The pairs that groups are made of: rejected ones are out, accepted ones need no second pair."""
    verdict = decided(pairs, decisions)
    kept = pairs.assign(expected_false=pairs["expected_false"].mask(verdict == ACCEPT, 0.0))
    return kept[verdict != REJECT].reset_index(drop=True)


def rejected_in_a_row(verdicts: list[str]) -> int:
    """Rejections since the last other decision."""
    count = 0
    for verdict in reversed(verdicts):
        if verdict != REJECT:
            break
        count += 1
    return count


def write_groups(folder: Path, records: Records, pairs: pd.DataFrame) -> np.ndarray:
    """Write ``groups.csv`` and ``split_repaired.csv`` of the kept pairs; returns the leak group of each image."""
    frame = records.frame
    groups = leak_groups(records.groups, pairs)
    split = repaired(groups, frame, strata(frame, records.labels))
    write_csv(folder / "groups.csv", group_table(frame, groups, records.labels))
    columns = {"image_id": frame["image_id"], "split": frame["split"], "split_repaired": split}
    write_csv(folder / "split_repaired.csv", pd.DataFrame(columns))
    return groups
