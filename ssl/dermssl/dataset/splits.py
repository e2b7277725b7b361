"""Splits by group: all images with one ``group_id`` lie in the same split."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dermssl.errors import InputError

SPLITS = ("train", "val", "test")


def draw_split(groups: Sequence[str], strata: Sequence[object], fractions: dict[str, float], seed: int) -> np.ndarray:
    """The split of each row ``(N,)`` of str. Groups stay together, and each stratum is divided by ``fractions``.

    A group's stratum is the most frequent one of its rows. The groups of a stratum are shuffled and dealt by largest
    remainder. Remainders are carried from stratum to stratum, so that small strata do not all go to the same split.
    """
    names, targets = list(fractions), np.array(list(fractions.values()), dtype=float)
    if (targets < 0).any() or not np.isclose(targets.sum(), 1):
        raise InputError(f"split fractions {fractions} must not be negative and must add up to 1")
    table = pd.DataFrame({"group": list(groups), "stratum": [str(value) for value in strata]})
    counts = table.value_counts().rename("rows").reset_index()
    counts = counts.sort_values(["group", "rows", "stratum"], ascending=[True, False, True])
    units = counts.drop_duplicates("group").set_index("group")["stratum"]
    random = np.random.default_rng(seed)
    assigned: dict[str, str] = {}
    owed = np.zeros(len(names))
    for _, members in units.groupby(units):
        for group in random.permutation(members.index.to_numpy()):
            owed += targets
            choice = int(np.argmax(owed))
            owed[choice] -= 1
            assigned[group] = names[choice]
    return table["group"].map(assigned).to_numpy()


def group_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The other rows and the rows of each fold: scikit-learn's StratifiedGroupKFold, shuffled by ``seed``.

    Raises ValueError where no label has as many rows as there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow, and needed for folds alone

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label with fewer rows than folds does no harm
        return list(splitter.split(np.zeros(len(labels)), labels, groups))


def join_copies(groups: pd.Series, pixels: pd.Series) -> pd.Series:
    """The unit of each row ``(N,)`` for a draw: its group, joined with the groups of images with the same pixels."""
    return groups.groupby(connected([groups, pixels])).transform("min")


def connected(columns: Sequence[pd.Series]) -> np.ndarray:
    """The component of each row ``(N,)`` of int. Rows that share a value in one of ``columns`` are connected."""
    rows = pd.Series(range(len(columns[0])))
    first = [rows.groupby(column.to_numpy()).transform("min").fillna(rows) for column in columns]
    edges = np.concatenate(first).astype(int), np.tile(rows, len(columns))
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(len(rows), len(rows)))
    return connected_components(graph, directed=False)[1]


def check_split(frame: pd.DataFrame, where: str) -> None:
    """Raise InputError naming groups (``group_id``) that lie in two splits (``split``). Missing values do not count."""
    if "split" not in frame:
        return
    sides = frame.dropna(subset=["split"]).groupby("group_id")["split"].nunique()
    straddling = sides[sides > 1].index.tolist()
    if straddling:
        shown = ", ".join(straddling[:5]) + (f" ... ({len(straddling)} in all)" if len(straddling) > 5 else "")
        raise InputError(f"{where}: patients, lesions or images lie in two splits: {shown}: give each one split")


def copies_across(frame: pd.DataFrame) -> pd.DataFrame:
    """Images with the same pixels as an image in test (else in val), while they lie in another split.

    ``frame`` has ``file``, ``split`` and ``pixel_sha256``, the result ``file``, ``other`` (that image), its ``side``.
    """
    known = frame.dropna(subset=["split"])
    known = known[known.groupby("pixel_sha256")["split"].transform("nunique") > 1]
    strictest = known.sort_values("split", key=lambda sides: sides.map(SPLITS[::-1].index), kind="stable")
    kept = strictest.groupby("pixel_sha256").first()
    other, side = (known["pixel_sha256"].map(kept[name]) for name in ("file", "split"))
    return known.assign(other=other, side=side).loc[known["split"] != side, ["file", "other", "side"]]
