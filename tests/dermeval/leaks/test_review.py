"""Decisions: saved at once, undone, resumed, and what follows for groups."""

import pandas as pd
import pytest
from PIL import Image

from dermeval.leaks import review as reviewing
from dermeval.leaks.decisions import decided, kept_pairs, read_decisions, rejected_in_a_row, write_decisions
from dermeval.leaks.leaks import leaks
from dermeval.leaks.options import LeaksOptions, ReviewOptions
from dermssl.errors import InputError


@pytest.fixture
def audited(make_dataset, draw_skin, tmp_path):
    """Four patients, of whom two have copies of the first two images under new ids."""
    images = [draw_skin(n) for n in range(4)]
    images += [images[0], images[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    folder = make_dataset("set", images, ["p0", "p1", "p2", "p3", "c0", "c1"], ["train"] * 4 + ["test"] * 2)
    out = tmp_path / "leaks"
    leaks(LeaksOptions(str(out), [str(folder)], planted=0, workers=1, neighbours=3, expected_false=2.0))
    return out


def press(monkeypatch, keys):
    waiting = iter(keys)
    monkeypatch.setattr(reviewing, "_read_key", lambda: next(waiting, "q"))


def test_a_rejected_pair_leaves_the_groups_and_an_undone_one_does_not(audited, monkeypatch):
    before = pd.read_parquet(audited / "pairs.parquet")
    assert {"set/c0", "set/c1"} <= set(before["group_id_b"])
    press(monkeypatch, "rzr" + "a" * len(before))
    reviewing.review(ReviewOptions(str(audited)))
    decisions = read_decisions(audited)
    assert decisions["decision"].tolist() == ["reject"] + ["accept"] * (len(before) - 1)
    assert "set/c0" not in set(pd.read_csv(audited / "groups.csv")["group_id"])
    assert "set/c1" in set(pd.read_csv(audited / "groups.csv")["group_id"])


def test_a_review_goes_on_where_it_was(audited, monkeypatch):
    press(monkeypatch, "uq")
    reviewing.review(ReviewOptions(str(audited)))
    press(monkeypatch, "aq")
    report = reviewing.review(ReviewOptions(str(audited)))
    assert report.data["decisions"] == {"accept": 1, "reject": 0, "unsure": 1}


def test_decisions_about_pairs_that_are_gone_are_kept_and_told(audited, monkeypatch):
    row = {"image_id_a": "set/x", "image_id_b": "set/y", "decision": "reject"}
    write_decisions(audited, pd.DataFrame([row]))
    press(monkeypatch, "q")
    report = reviewing.review(ReviewOptions(str(audited)))
    assert report.data["without_pair"] == 1 and "does not have" in report.text and len(read_decisions(audited)) == 1


def test_a_damaged_file_of_decisions_is_named(tmp_path):
    (tmp_path / "decisions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="needs the columns"):
        read_decisions(tmp_path)


def test_accepted_pairs_need_no_second_one_and_rejected_ones_go():
    pairs = pd.DataFrame({"image_id_a": ["a", "b", "c"], "image_id_b": ["x", "y", "z"], "expected_false": 0.5})
    decisions = pd.DataFrame({"image_id_a": ["a", "b"], "image_id_b": ["x", "y"], "decision": ["accept", "reject"]})
    assert decided(pairs, decisions).isna().tolist() == [False, False, True]
    kept = kept_pairs(pairs, decisions)
    assert kept["image_id_a"].tolist() == ["a", "c"] and kept["expected_false"].tolist() == [0.0, 0.5]


def test_only_rejections_since_the_last_other_decision_count():
    assert rejected_in_a_row(["reject", "accept", "reject", "reject"]) == 2
