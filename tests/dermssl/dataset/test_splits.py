"""Splits keep groups whole and classes balanced, and are fixed by the seed."""

import numpy as np
import pandas as pd
import pytest

from dermssl.dataset.splits import check_split, connected, copies_across, draw_split, join_copies
from dermssl.errors import InputError

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    groups = np.repeat([f"p{n}" for n in range(500)], random.integers(1, 6, 500))
    label_of = {f"p{n}": "rare" if n % 10 == 0 else "common" for n in range(500)}
    return pd.DataFrame({"group_id": groups, "label": [label_of[g] for g in groups]})


def test_no_group_straddles_a_split(images):
    split = draw_split(images["group_id"], images["label"], FRACTIONS, seed=0)
    assert images.assign(split=split).groupby("group_id")["split"].nunique().max() == 1


def test_every_stratum_keeps_the_fractions_to_one_group(images):
    images["split"] = draw_split(images["group_id"], images["label"], FRACTIONS, seed=0)
    groups = images.drop_duplicates("group_id")
    for label, members in groups.groupby("label"):
        for name, fraction in FRACTIONS.items():
            assert abs((members["split"] == name).sum() - fraction * len(members)) <= 1.5, (label, name)


def test_the_seed_fixes_the_split_and_another_seed_changes_it(images):
    first, again, other = (draw_split(images["group_id"], images["label"], FRACTIONS, seed=s) for s in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_the_order_of_rows_does_not_change_a_groups_split(images):
    shuffled = images.sample(frac=1, random_state=0)
    split = pd.Series(draw_split(images["group_id"], images["label"], FRACTIONS, 0), images.index)
    again = pd.Series(draw_split(shuffled["group_id"], shuffled["label"], FRACTIONS, 0), shuffled.index)
    assert (split == again[split.index]).all()


def test_fractions_must_add_up():
    with pytest.raises(InputError, match="add up to 1"):
        draw_split(["a"], ["x"], {"train": 0.9, "test": 0.3}, 0)


def test_a_group_in_two_splits_is_named():
    frame = pd.DataFrame({"group_id": ["p", "p", "q"], "split": ["train", "test", None]})
    with pytest.raises(InputError, match="images lie in two splits: p: give each one split"):
        check_split(frame, "labels")
    check_split(frame.iloc[1:], "labels")


def test_groups_that_share_pixels_are_drawn_as_one_whatever_the_order_of_rows():
    frame = pd.DataFrame({"group": list("dbbcae"), "pixels": list("121233")}, index=list("uvwxyz"))
    expected = pd.Series(list("bbbbaa"), index=frame.index)
    for rows in (frame, frame[::-1]):
        units = join_copies(rows["group"], rows["pixels"])
        assert units.loc[frame.index].tolist() == expected.tolist()
    assert join_copies(frame["group"], pd.Series(range(6), frame.index)).tolist() == frame["group"].tolist()


def test_rows_are_connected_by_any_column_and_never_by_a_missing_value():
    patients, lesions = pd.Series(["a", None, "b", None, None]), pd.Series(["x", "x", None, "y", None])
    assert connected([patients, lesions]).tolist() == [0, 0, 1, 2, 3]


def test_a_copy_in_a_less_strict_split_is_found_with_the_image_in_the_strictest():
    rows = [("a", "train", 0), ("b", "val", 0), ("c", "test", 0), ("d", "test", 0), ("e", None, 0), ("f", "train", 1)]
    rows += [("g", "train", 2), ("h", "val", 2), ("i", "train", 3), ("j", "train", 3)]
    found = copies_across(pd.DataFrame(rows, columns=["file", "split", "pixel_sha256"]))
    assert found.to_numpy().tolist() == [["a", "c", "test"], ["b", "c", "test"], ["g", "h", "val"]]
    assert copies_across(found.head(0).assign(split="", pixel_sha256="")).empty
