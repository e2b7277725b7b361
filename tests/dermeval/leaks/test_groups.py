"""From pairs to leak groups, and the split without leaks."""

import numpy as np
import pandas as pd

from dermeval.leaks.groups import LARGE, group_table, leak_groups, repaired, straddling


def pairs(*rows, expected=0.0):
    return pd.DataFrame(list(rows), columns=["a", "b"]).assign(expected_false=expected)


def frame(splits, labels=None):
    count = len(splits)
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(count)],
            "group_id": [f"g{n}" for n in range(count)],
            "split": splits,
            "dataset": "d",
            "dx": labels or ["a"] * count,
        }
    )


def test_strong_pairs_chain_records():
    leaks = leak_groups(np.array([0, 0, 1, 2, 3]), pairs((0, 2), (2, 3)))
    assert leaks.tolist() == [1, 1, 1, 1, 0]


def test_a_weak_pair_joins_two_records_that_have_no_other():
    assert leak_groups(np.arange(4), pairs((0, 1), expected=0.5)).tolist() == [1, 1, 0, 0]


def test_weak_pairs_never_chain_many_records():
    leaks = leak_groups(np.arange(6), pairs((0, 1), (1, 2), (2, 3), (3, 4), expected=0.5))
    assert leaks.max() == 0


def test_two_weak_pairs_of_images_of_the_same_two_records_count_as_strong():
    groups = np.array([0, 0, 1, 1, 2])
    leaks = leak_groups(groups, pairs((0, 2), (1, 3), (3, 4), expected=0.5))
    assert leaks.tolist() == [1, 1, 1, 1, 0]


def test_two_weak_pairs_between_two_groups_join_them():
    strong = pairs((0, 1), (2, 3))
    weak = pairs((0, 2), (1, 3), expected=0.5)
    assert set(leak_groups(np.arange(4), pd.concat([strong, weak], ignore_index=True))) == {1}


def test_the_repaired_split_has_no_leak_group_on_two_sides_and_moves_the_fewest_records():
    # Two records of the first group are in test and one in train, so the one in train moves.
    table = frame(["test", "test", "train", "val", None, "test", "test"])
    leaks = np.array([1, 1, 1, 2, 2, 3, 3])
    assert straddling(leaks, table["split"]).tolist() == [1, 2]
    fixed = repaired(leaks, table, pd.Series("a", index=table.index))
    assert fixed.fillna("none").tolist()[:3] == ["test", "test", "test"]
    assert fixed.tolist()[5:] == ["test", "test"]
    assert len(straddling(leaks, fixed)) == 0
    assert (fixed.fillna("none") != table["split"].fillna("none")).sum() == 2


def test_unsplit_images_keep_no_split_where_their_group_stays_in_train():
    table = frame([None, "train", "train", "test"])
    fixed = repaired(np.array([1, 1, 1, 1]), table, pd.Series("a", index=table.index))
    assert fixed.isna().tolist() == [True, False, False, False] and fixed.iloc[3] == "train"


def test_the_table_of_groups_says_what_is_wrong_with_each():
    count = LARGE + 1
    table = frame(["train"] * count + ["train", "test"], labels=["a"] * count + ["a", "b"])
    shown = group_table(table, np.array([1] * count + [2, 2]), ["dx"])
    first, second = (shown[shown["leak_group"] == number].iloc[0] for number in (1, 2))
    assert first["large"] and not first["straddles"] and not first["conflict"]
    assert second["straddles"] and second["conflict"] and not second["large"]
