"""Decisions: saved at once, undone, resumed, and what follows for groups."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermeval.leaks import terminal
from dermeval.leaks.decisions import COLUMNS, FILE, decided, kept_pairs, read_decisions
from dermeval.leaks.leaks import confirmed_ranking, leaks, moved_by_review
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.session import PairReview
from dermeval.web.options import ReviewOptions
from dermeval.web.review import review
from dermssl.dataset.options import SplitOptions
from dermssl.dataset.split import split
from dermssl.errors import InputError
from dermssl.files import read_json, write_json


@pytest.fixture
def audited(make_dataset, draw_skin, tmp_path):
    """Four patients, of whom two have copies of the first two images under new ids."""
    images = [draw_skin(n) for n in range(4)]
    images += [images[0], images[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    folder = make_dataset("set", images, ["p0", "p1", "p2", "p3", "c0", "c1"], ["train"] * 4 + ["test"] * 2)
    out = tmp_path / "leaks"
    leaks(LeaksOptions(str(out), [str(folder)], planted=0, workers=1, neighbours=3, expected_false=0.5))
    return out


def press(monkeypatch, keys):
    waiting = iter(keys)
    monkeypatch.setattr(terminal, "read_key", lambda: next(waiting, "q"))


def test_a_rejected_pair_leaves_the_groups_and_an_undone_one_does_not(audited, monkeypatch):
    before = pd.read_parquet(audited / "pairs.parquet")
    assert {"set/c0", "set/c1"} <= set(before["group_id_b"])
    press(monkeypatch, "rzr" + "a" * (len(before) - 1))
    review(ReviewOptions(str(audited), terminal=True))
    decisions = read_decisions(audited / FILE)
    assert decisions["decision"].tolist() == ["reject"] + ["accept"] * (len(before) - 1)
    assert "set/c0" not in set(pd.read_csv(audited / "groups.csv")["group_id"])
    assert "set/c1" in set(pd.read_csv(audited / "groups.csv")["group_id"])
    page = (audited / "report.html").read_text()
    assert "1 rejected" in page and "set/5" in page and "set/4" not in page
    summary = read_json(audited / "summary.json", "dermeval leaks")
    assert (summary["pairs"], summary["reviewed"]["pairs"]) == (len(before), len(before) - 1)


def test_a_review_after_the_repaired_split_was_applied_tells_of_the_present_split(audited, monkeypatch):
    assert pd.read_parquet(audited / "pairs.parquet")["across_splits"].any()
    data = read_json(audited / "summary.json", "dermeval leaks")["datasets"][0]["path"]
    split(SplitOptions(data, apply=str(audited)))
    press(monkeypatch, "q")
    review(ReviewOptions(str(audited), terminal=True))
    pairs = pd.read_parquet(audited / "pairs.parquet")
    assert len(pairs) and not pairs["across_splits"].any() and (pairs["split_a"] == pairs["split_b"]).all()
    assert read_json(audited / "summary.json", "dermeval leaks")["reviewed"]["pairs_across_splits"] == 0


def test_a_review_keeps_the_notes_of_the_audit(audited, monkeypatch):
    """One may say that an earlier review moved the threshold, which the audit alone knows."""
    summary = read_json(audited / "summary.json", "dermeval leaks")
    summary["notes"].append("the threshold was moved")
    write_json(audited / "summary.json", summary)
    press(monkeypatch, "r")
    review(ReviewOptions(str(audited), terminal=True))
    assert "the threshold was moved" in (audited / "report.html").read_text()
    assert "notes" not in read_json(audited / "summary.json", "dermeval leaks")["reviewed"]


def test_a_summary_that_lacks_a_result_is_refused_before_anything_is_decided(audited, monkeypatch):
    summary = read_json(audited / "summary.json", "dermeval leaks")
    del summary["certainty"]["compared"]  # as an older version may have left it
    write_json(audited / "summary.json", summary)
    press(monkeypatch, "r")
    with pytest.raises(
        InputError, match=r"summary.json is damaged \('compared'\): make it again with `dermeval leaks`"
    ):
        review(ReviewOptions(str(audited), terminal=True))
    assert not (audited / FILE).exists()


def test_an_unknown_key_is_answered_with_the_keys_and_decides_nothing(audited, monkeypatch, capsys):
    press(monkeypatch, "xz")
    review(ReviewOptions(str(audited), terminal=True))
    told = capsys.readouterr().out
    assert "no such key: a accept, r reject" in told and "no decision to undo" in told
    assert not len(read_decisions(audited / FILE))


def test_a_review_goes_on_where_it_was_and_leaves_no_picture_behind(audited, monkeypatch):
    def interrupted():
        assert (audited / terminal.PICTURE).is_file()
        raise KeyboardInterrupt

    press(monkeypatch, "uq")
    review(ReviewOptions(str(audited), terminal=True))
    monkeypatch.setattr(terminal, "read_key", interrupted)
    with pytest.raises(KeyboardInterrupt):
        review(ReviewOptions(str(audited), terminal=True))
    assert not (audited / terminal.PICTURE).exists()
    press(monkeypatch, "aq")
    report = review(ReviewOptions(str(audited), terminal=True))
    assert report.data["decisions"] == {"accept": 1, "reject": 0, "unsure": 1}


def test_an_audit_of_another_version_is_not_reviewed_since_its_frames_may_be_cut_otherwise(audited):
    summary = read_json(audited / "summary.json", "dermeval leaks")
    write_json(audited / "summary.json", summary | {"version": summary["version"] - 1})
    with pytest.raises(InputError, match="was made by another version: give the command that made it again"):
        review(ReviewOptions(str(audited), terminal=True))


def test_a_framed_copy_is_laid_on_its_original(make_dataset, draw_skin, tmp_path):
    images = [draw_skin(n) for n in range(4)]
    framed = Image.new("RGB", (130, 150), "white")
    framed.paste(images[0], (20, 40))
    folder = make_dataset("set", [*images, framed], ["p0", "p1", "p2", "p3", "c0"])
    out = tmp_path / "leaks"
    leaks(LeaksOptions(str(out), [str(folder)], planted=0, workers=1, neighbours=3, expected_false=0.5))
    first, second, laid = PairReview(out).pictures(0)
    assert first.shape == second.shape == laid.shape == (96, 96, 3)
    assert np.abs(laid.astype(int) - first).mean() < 5


def test_decisions_about_pairs_that_are_gone_are_kept_and_told(audited, monkeypatch):
    row = {"image_id_a": "set/x", "image_id_b": "set/y", "decision": "reject"}
    pd.DataFrame([row]).to_csv(audited / FILE, index=False)
    press(monkeypatch, "q")
    report = review(ReviewOptions(str(audited), terminal=True))
    assert report.data["without_pair"] == 1 and "1 decision without effect" in report.text
    assert len(read_decisions(audited / FILE)) == 1


def test_rejected_pairs_raise_the_threshold_of_the_next_audit():
    columns = {"image_id_a": list("abcd"), "image_id_b": list("wxyz"), "score": [6.0, 5.0, 4.0, 3.0]}
    ranking = pd.DataFrame(columns).assign(expected_false=0.01, most_false=0.01)
    options = LeaksOptions("leaks", [], precision=0.8)
    rejections = pd.DataFrame({"image_id_a": ["c"], "image_id_b": ["y"], "decision": ["reject"]})
    assert confirmed_ranking(ranking, read_decisions(Path("nowhere")), options)[0]["confirmed"].all()
    confirmed, threshold = confirmed_ranking(ranking, rejections, options)
    assert confirmed["confirmed"].tolist() == [True, True, False, False]
    (note,) = moved_by_review(ranking, rejections, threshold, options)
    assert "moved the threshold from 3.00 to 5.00" in note
    assert moved_by_review(ranking, rejections.iloc[:0], 3.0, options) == []


def test_accepted_pairs_lower_the_threshold_of_the_next_audit():
    columns = {"image_id_a": list("abc"), "image_id_b": list("wxy"), "score": [6.0, 5.0, 4.0]}
    ranking = pd.DataFrame(columns).assign(expected_false=1.0, most_false=1.0)
    options = LeaksOptions("leaks", [], precision=0.8)
    accepted = pd.DataFrame({"image_id_a": list("ab"), "image_id_b": list("wx"), "decision": "accept"})
    assert not confirmed_ranking(ranking, read_decisions(Path("nowhere")), options)[0]["confirmed"].any()
    assert confirmed_ranking(ranking, accepted, options)[0]["confirmed"].tolist() == [True, True, False]


def test_a_picture_that_a_kill_cut_off_is_written_again(audited, monkeypatch):
    press(monkeypatch, "q")
    picture = next((audited / "images").glob("*.jpg"))
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    review(ReviewOptions(str(audited), terminal=True))
    assert picture.read_bytes() == whole


def test_a_damaged_file_of_decisions_is_named(tmp_path):
    (tmp_path / "decisions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="needs the columns"):
        read_decisions(tmp_path / FILE)


def test_accepted_pairs_need_no_second_one_and_rejected_ones_go():
    pairs = pd.DataFrame({"image_id_a": ["a", "b", "c"], "image_id_b": ["x", "y", "z"], "expected_false": 0.5})
    pairs["confirmed"] = [True, True, True]
    decisions = pd.DataFrame({"image_id_a": ["a", "b"], "image_id_b": ["x", "y"], "decision": ["accept", "reject"]})
    assert decided(pairs, decisions).isna().tolist() == [False, False, True]
    kept = kept_pairs(pairs, decisions)
    assert kept["image_id_a"].tolist() == ["a", "c"] and kept["expected_false"].tolist() == [0.0, 0.5]


def test_a_review_ends_after_enough_rejections_in_a_row(audited, monkeypatch, capsys):
    monkeypatch.setattr("dermeval.leaks.session.STOP_AFTER", 2)
    press(monkeypatch, "arrrr")
    report = review(ReviewOptions(str(audited), terminal=True))
    assert report.data["decisions"] == {"accept": 1, "reject": 2, "unsure": 0}
    assert "rejections in a row" in capsys.readouterr().out


def test_rejections_of_an_earlier_audit_do_not_end_a_review(audited, monkeypatch):
    """One of them is about a pair that this audit does not have, the other about a weaker pair."""
    monkeypatch.setattr("dermeval.leaks.session.STOP_AFTER", 2)
    weakest = pd.read_csv(audited / "ranking.csv").iloc[-1]
    rows = [["gone", "away", "reject"], [weakest["image_id_a"], weakest["image_id_b"], "reject"]]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(audited / FILE, index=False)
    press(monkeypatch, "a")
    report = review(ReviewOptions(str(audited), terminal=True))
    assert report.data["decisions"] == {"accept": 1, "reject": 2, "unsure": 0}


def test_an_accepted_pair_below_the_threshold_joins_the_groups(audited, monkeypatch):
    ranking = pd.read_csv(audited / "ranking.csv")
    below = ranking[~ranking["confirmed"]].iloc[0]
    press(monkeypatch, "r" * int(ranking["confirmed"].sum()) + "a")
    review(ReviewOptions(str(audited), terminal=True))
    assert set(pd.read_csv(audited / "groups.csv")["group_id"]) == {below["group_id_a"], below["group_id_b"]}
    assert len(pd.read_parquet(audited / "pairs.parquet")) == 1
