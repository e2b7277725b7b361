"""Leak groups: records that share near-duplicate images.

A single weak pair cannot chain many records: it joins two records only if neither has another pair. Two weak pairs
between the same groups join these groups.
"""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dermssl.dataset.manifest import TONE_GROUPS

CERTAIN = 0.01
"""A pair is strong if at most so many false pairs with its score are expected in the whole audit."""
LARGE = 10
"""A group of more records is flagged: a ruler, a phantom or one often copied picture may connect it."""
TRAINING_SIDE = "train"


def leak_groups(groups: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """The leak group of each image ``(N,)``, counted from 1; 0 if its record is in no leak group.

    ``groups`` (N,) are integer records. ``pairs`` of images are the confirmed ones, with rows ``a``, ``b`` and
    ``expected_false`` (0 for identical images).
    """
    count = int(groups.max(initial=-1)) + 1
    ends = np.sort(groups[pairs[["a", "b"]].to_numpy(np.int64)], axis=1).reshape(-1, 2)
    links = pd.DataFrame({"one": ends[:, 0], "other": ends[:, 1], "expected": pairs["expected_false"].to_numpy(float)})
    links = links.groupby(["one", "other"])["expected"].agg(["size", "min"]).reset_index()
    strong = (links["min"] <= CERTAIN) | (links["size"] > 1)
    component, weak = _components(count, links[strong]), links[~strong]
    ends = np.sort(component[weak[["one", "other"]].to_numpy(np.int64)], axis=1).reshape(-1, 2)
    keys, inverse, times = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    size = np.bincount(component, minlength=count)
    used = np.bincount(keys.ravel(), minlength=count) if len(keys) else np.zeros(count, np.int64)
    lonely = (size[ends] == 1).all(axis=1) & (used[ends] == 1).all(axis=1)
    joined = pd.concat([links[strong], weak[lonely | (times[inverse.ravel()] > 1)]])
    component = _components(count, joined)
    linked = np.unique(component[joined[["one", "other"]].to_numpy(np.int64).ravel()])
    numbers = np.zeros(count, dtype=np.int64)
    numbers[linked] = np.arange(1, len(linked) + 1)
    return numbers[component[groups]]


def _components(count: int, links: pd.DataFrame) -> np.ndarray:
    edges = (np.ones(len(links)), (links["one"].to_numpy(np.int64), links["other"].to_numpy(np.int64)))
    return connected_components(coo_array(edges, shape=(count, count)), directed=False)[1]


def side(split: pd.Series) -> pd.Series:
    """The side of each image: its split, or train if it has none, since such images are used for pretraining."""
    return split.fillna(TRAINING_SIDE)


def straddling(leaks: np.ndarray, split: pd.Series) -> np.ndarray:
    """The leak groups whose images lie on several sides."""
    linked = pd.DataFrame({"leak": leaks, "side": side(split).to_numpy()})[leaks > 0]
    sides = linked.groupby("leak")["side"].nunique()
    return sides[sides > 1].index.to_numpy()


def repaired(leaks: np.ndarray, frame: pd.DataFrame, stratum: pd.Series) -> pd.Series:
    """The split with every leak group on one side: the side to which the fewest records must move.

    Ties go to the side that changes the counts of the strata least, then to the training side. Images without a split
    keep none if their group stays on the training side. ``stratum`` (N,) is a string such as class and skin type, whose
    frequencies on each side are to be kept.
    """
    before = side(frame["split"])
    kinds = pd.factorize(stratum)[0]
    sides, names = pd.factorize(before, sort=True)
    wanted = np.zeros((kinds.max(initial=0) + 1, len(names)))
    np.add.at(wanted, (kinds, sides), 1)
    present = wanted.copy()

    def moved_to(target: int) -> np.ndarray:
        after = present - counts
        after[:, target] += counts.sum(axis=1)
        return after

    members = pd.Series(leaks).groupby(leaks).indices
    for leak in straddling(leaks, frame["split"]):
        rows = members[leak]
        counts = np.zeros_like(wanted)
        np.add.at(counts, (kinds[rows], sides[rows]), 1)
        options = []
        for target in np.unique(sides[rows]):
            moves = frame["group_id"].iloc[rows[sides[rows] != target]].nunique()
            change = float(np.abs(moved_to(target) - wanted).sum())
            options.append((moves, change, names[target] != TRAINING_SIDE, int(target)))
        target = min(options)[-1]
        present = moved_to(target)
        sides[rows] = target
    after = pd.Series(names.to_numpy()[sides], index=frame.index)
    return frame["split"].mask(after != before, after)


def strata(frame: pd.DataFrame, labels: list[str]) -> pd.Series:
    """Class and skin type of each image as one string, for `repaired`."""
    columns = [*(frame[name] for name in labels[:1]), frame["fitzpatrick"].map(TONE_GROUPS)]
    parts = [column.astype(object).where(column.notna(), "none").map(str) for column in columns]
    return parts[0].str.cat(parts[1:], sep=" / ")


def group_table(frame: pd.DataFrame, leaks: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """``groups.csv``: one row per record of a leak group.

    ``straddles``: the group lies on several sides of the split. ``conflict``: its labels differ. ``large``: it has more
    than `LARGE` records.
    """
    rows = frame.assign(leak_group=leaks, side=side(frame["split"]), split=frame["split"].fillna("none"))[leaks > 0]
    table = rows.groupby(["leak_group", "group_id"], sort=True).agg(
        dataset=("dataset", "first"), images=("image_id", "size"), split=("split", lambda s: "+".join(sorted(set(s))))
    )
    several = rows.groupby("leak_group")[["side", "dataset", *labels]].nunique() > 1
    several = several.loc[table.index.get_level_values(0)].set_axis(table.index)
    table["straddles"], table["across_datasets"] = several["side"], several["dataset"]
    table["conflict"] = several[labels].any(axis=1)
    table["large"] = table.groupby(level=0)["images"].transform("size") > LARGE
    return table.reset_index()
