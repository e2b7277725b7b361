"""Leak groups: connected components of records that share near-duplicate images, and the split without them."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

TRAINING_SIDE = "train"


def leak_groups(groups: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """The leak group of each image ``(N,)``, counted from 1; 0 where its record shares no near-duplicate.

    Args:
        groups: ``(N,)`` integer record (patient, else lesion) of each image.
        pairs: confirmed pairs, columns ``a`` and ``b`` are rows of images.
    """
    count = int(groups.max(initial=-1)) + 1
    edges = (np.ones(len(pairs)), (groups[pairs["a"]], groups[pairs["b"]]))
    _, component = connected_components(coo_array(edges, shape=(count, count)), directed=False)
    linked = np.unique(component[groups[pairs[["a", "b"]].to_numpy().ravel()]])
    numbers = np.zeros(count, dtype=np.int64)
    numbers[linked] = np.arange(1, len(linked) + 1)
    return numbers[component[groups]]


def side(split: pd.Series) -> pd.Series:
    """The side that an image is used on: its split; images without one are pretrained on, so they count as train."""
    return split.fillna(TRAINING_SIDE)


def straddling(leaks: np.ndarray, split: pd.Series) -> np.ndarray:
    """Leak groups that lie on several sides."""
    linked = pd.DataFrame({"leak": leaks, "side": side(split).to_numpy()})[leaks > 0]
    sides = linked.groupby("leak")["side"].nunique()
    return sides[sides > 1].index.to_numpy()


def repaired(leaks: np.ndarray, split: pd.Series) -> pd.Series:
    """The split with every straddling leak group moved to train, so that the test side stays clean.

    Images without a split keep none: they are on the training side already.
    """
    moved = np.isin(leaks, straddling(leaks, split)) & split.notna().to_numpy()
    return split.mask(moved, TRAINING_SIDE)


def group_table(frame: pd.DataFrame, leaks: np.ndarray) -> pd.DataFrame:
    """``groups.csv``: one row per record of a leak group."""
    rows = frame.assign(leak_group=leaks, side=side(frame["split"]))[leaks > 0]
    table = rows.groupby(["leak_group", "group_id"], sort=True).agg(
        dataset=("dataset", "first"), images=("image_id", "size"), split=("side", lambda s: "+".join(sorted(set(s))))
    )
    table["straddles"] = table.index.get_level_values(0).isin(straddling(leaks, frame["split"]))
    return table.reset_index()
