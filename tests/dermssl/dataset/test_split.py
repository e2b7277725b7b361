"""`dermssl split`: whole patients, balanced sides, never over an official split unasked."""

import json
import shutil

import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from dermssl.dataset import split as module
from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.manifest import to_table
from dermssl.files import sha256_file, write_parquet


@pytest.fixture
def folder(synthetic_dataset, tmp_path):
    """A copy of the synthetic dataset folder, whose split counts as official."""
    folder = shutil.copytree(synthetic_dataset, tmp_path / "data")
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(info | {"split": "official"}))
    return folder


def test_an_official_split_is_replaced_only_when_asked(folder, dermssl):
    before = open_dataset(folder).fingerprint
    refused = dermssl("split", folder, "--fractions", 0.7, 0.1, 0.2)
    assert refused.code == 2 and "--replace-official" in refused.err and open_dataset(folder).fingerprint == before
    assert dermssl("split", folder, "--fractions", 0.7, 0.1, 0.2, "--replace-official").code == 0
    dataset = open_dataset(folder)
    assert dataset.info["split"] == "drawn by patient (seed 0)" and dataset.fingerprint != before
    groups = dataset.frame().groupby("group_id")["split"].agg(["nunique", "first"])
    assert groups["nunique"].max() == 1
    assert groups["first"].value_counts().to_dict() == pytest.approx({"train": 31, "test": 9, "val": 4}, abs=1)
    assert dermssl("split", folder, "--fractions", 0.5, 0.5).code == 0, "a drawn split may be drawn again"


def test_folds_are_scikit_learns_and_leave_test_alone(folder, dermssl):
    before = open_dataset(folder).frame()
    assert dermssl("split", folder, "--folds", 3, "--seed", 5, "--stratify", "condition").code == 0
    frame = open_dataset(folder).frame()
    assert (frame["split"] == before["split"]).all()
    assert frame["fold"].isna().equals(frame["split"] == "test")
    assert frame.groupby("group_id")["fold"].nunique().max() == 1
    train = frame[frame["split"] != "test"]
    splitter = StratifiedGroupKFold(3, shuffle=True, random_state=5)
    for fold, (_, held_out) in enumerate(splitter.split(train, train["condition"], train["group_id"])):
        assert (train["fold"].iloc[held_out] == fold).all()


def test_images_of_a_test_patient_that_lack_the_split_are_in_no_fold(folder, dermssl):
    frame = open_dataset(folder).frame()
    tested = frame["group_id"].isin(frame["group_id"][frame["split"] == "test"])
    first = frame.groupby("group_id").cumcount() == 0
    write_parquet(folder / "manifest.parquet", to_table(frame.assign(split=frame["split"].where(first, None))))
    assert dermssl("split", folder, "--folds", 3, "--stratify", "condition").code == 0
    assert open_dataset(folder).frame()["fold"].isna().equals(tested)


def test_columns_to_stratify_by_may_be_joined_by_commas_or_spaces(folder, dermssl):
    dermssl("split", folder, "--folds", 2, "--stratify", "condition,fitzpatrick")
    joined = open_dataset(folder).frame()["fold"]
    dermssl("split", folder, "--folds", 2, "--stratify", "condition", "fitzpatrick")
    assert open_dataset(folder).frame()["fold"].equals(joined)
    dermssl("split", folder, "--folds", 2, "--stratify", "condition")
    assert not open_dataset(folder).frame()["fold"].equals(joined)


def test_a_new_split_discards_folds_that_were_drawn_over_the_old_one(folder, dermssl):
    dermssl("split", folder, "--folds", 2)
    dermssl("split", folder, "--fractions", 0.5, 0.5, "--replace-official")
    dataset = open_dataset(folder)
    assert "fold" not in dataset.table.column_names and "folds" not in dataset.info


def test_after_a_kill_between_the_two_files_no_folds_are_named_that_are_gone(folder, dermssl, monkeypatch):
    dermssl("split", folder, "--folds", 2)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", killed)
        assert dermssl("split", folder, "--fractions", 0.5, 0.5, "--replace-official").code == 1
    dataset = open_dataset(folder)
    assert dataset.info["split"] == "drawn by patient (seed 0)" and "folds" not in dataset.info


def test_nothing_else_in_the_manifest_changes(folder, dermssl):
    before = open_dataset(folder).table
    dermssl("split", folder, "--fractions", 0.5, 0.5, "--replace-official", "--folds", 2)
    after = open_dataset(folder).table
    rest = [name for name in before.column_names if name != "split"]
    assert after.select(rest).equals(before.select(rest)) and after.schema.field("split") == before.schema.field(
        "split"
    )


def test_patients_with_the_same_image_are_drawn_together(folder, dermssl):
    table = open_dataset(folder).table
    pixels = table["pixel_sha256"].to_pylist()
    pixels[-1] = pixels[0]  # of the first and the last patient
    place = table.column_names.index("pixel_sha256")
    write_parquet(folder / "manifest.parquet", table.set_column(place, table.schema.field(place), [pixels]))
    for seed in range(4):
        dermssl("split", folder, "--fractions", 0.5, 0.5, "--folds", 3, "--seed", seed, "--replace-official")
        frame = open_dataset(folder).frame()
        ends = frame.iloc[[0, -1]]
        assert ends["group_id"].nunique() == 2 and ends["split"].nunique() == 1
        assert ends["fold"].nunique(dropna=False) == 1


def test_the_report_counts_groups_images_and_classes(folder, dermssl, tmp_path):
    outcome = dermssl("split", folder, "--folds", 2, "--stratify", "condition", "--json", tmp_path / "r.json")
    counts = json.loads((tmp_path / "r.json").read_text())["fold_counts"]
    frame = open_dataset(folder).frame()
    assert counts["0"]["images"] == (frame["fold"] == 0).sum()
    assert counts["1"]["Scabies"] == ((frame["fold"] == 1) & (frame["condition"] == "Scabies")).sum()
    assert "2 by patient (seed 0)" in outcome.out


def test_images_without_a_label_are_counted_as_missing(folder, dermssl):
    frame = open_dataset(folder).frame()
    frame["condition"] = frame["condition"].where(frame.index > 0, None)
    write_parquet(folder / "manifest.parquet", to_table(frame))
    out = dermssl("split", folder, "--folds", 2, "--stratify", "condition").out
    assert "(missing)" in out and "None" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--fractions (0.8 0.2), --folds, both, or --apply"),
        (["--fractions", "0.8", "0.2", "--apply", "x"], "give one of them"),
        (["--apply", "x", "--together", "x"], "--together is for a draw"),
        (["--folds", "2", "--together", "nowhere"], "make it with `dermeval leaks`"),
        (["--apply", "nowhere"], "make it with `dermeval leaks`"),
        (["--fractions", "nan", "nan", "--replace-official"], "expected a number"),
        (["--folds", "2", "--seed", "6000000000"], "--seed: 6000000000 cannot be used"),
        (["--folds", "2", "--stratify", "sha256"], "different values are too many"),
        (["--folds", "2", "--stratify", "phash"], "different values are too many"),
        (["--folds", "2", "--stratify", "patient_id"], "different values are too many"),
        (["--fractions", "1.0", "--replace-official"], "two numbers"),
        (["--fractions", "0.8", "0.3", "--replace-official"], "add up to 1"),
        (["--folds", "1"], "2 or more"),
        (["--folds", "1000"], "groups lie outside test"),
        (["--folds", "2", "--stratify", "conditon"], "did you mean 'condition'"),
        (["--folds", "2", "--by", "lesion"], "would divide its patients"),
        (["--folds", "2", "--by", "photo"], "expected one of"),
    ],
)
def test_a_split_that_cannot_be_drawn_is_bad_input_and_changes_nothing(folder, dermssl, arguments, message):
    before = open_dataset(folder).fingerprint
    outcome = dermssl("split", folder, *arguments)
    assert outcome.code == 2 and message in outcome.err and open_dataset(folder).fingerprint == before


def test_licences_are_read_from_every_kind_of_folder(synthetic_dataset, tmp_path, dermssl):
    notice = json.loads((synthetic_dataset / "dataset.json").read_text())["licence"]
    strict = notice | {"dataset": "passion", "relinking": False, "commercial": False, "duties": ["Never re-link."]}
    for name, content in {
        "embedding.json": {"licences": [notice, strict]},
        "encoder/config.json": {"dermssl": {"licences": [notice, strict]}},
        "best/config.json": {"dermssl": {"licences": [notice, strict]}},
        "leaks/summary.json": {"licences": [notice, strict]},
        "encoders.json": {"licences": [notice, strict]},
        "export.json": {"licences": [notice, strict]},
    }.items():
        folder = tmp_path / name.replace("/", "_")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))
        outcome = dermssl("licence", folder, "--json", tmp_path / "report.json")
        assert outcome.code == 0 and "Never re-link." in outcome.out
        allowed = json.loads((tmp_path / "report.json").read_text())["allowed"]
        assert allowed == {"commercial use": False, "passing it on": True, "re-linking of records": False}
    assert "commercial use: allowed" in dermssl("licence", synthetic_dataset).out
    dermssl("describe", synthetic_dataset, "--out", tmp_path / "tables")
    assert "commercial use: allowed" in dermssl("licence", tmp_path / "tables").out


def test_a_folder_without_licences_is_bad_input(tmp_path, dermssl):
    assert dermssl("licence", tmp_path).code == 2
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    outcome = dermssl("licence", tmp_path)
    assert outcome.code == 2 and "config.json holds no licence notice (dermssl)" in outcome.err
    (tmp_path / "config.json").unlink()
    (tmp_path / "dataset.json").write_text(json.dumps({"licence": {"dataset": "x", "duties": "none"}}))
    assert "holds no licence notice" in dermssl("licence", tmp_path).err


def test_a_folder_whose_licences_are_unknown_allows_nothing(tmp_path, dermssl):
    (tmp_path / "embedding.json").write_text(json.dumps({"licences": []}))
    outcome = dermssl("licence", tmp_path)
    assert outcome.code == 0 and "no licence is recorded" in outcome.out and "allowed" not in outcome.out


@pytest.fixture
def repaired(folder, tmp_path):
    """``repaired(change)``: a leaks folder whose split is ``change`` of the manifest's frame."""

    def make(change=lambda frame: frame):
        frame = open_dataset(folder).frame(["image_id", "group_id", "split"])
        frame["split_repaired"] = frame["split"]
        others = pd.DataFrame({"image_id": ["other/1"], "split": ["train"], "split_repaired": ["test"]})
        (tmp_path / "leaks").mkdir(exist_ok=True)
        table = pd.concat([change(frame), others]).drop(columns="group_id")
        table.to_csv(tmp_path / "leaks" / "split_repaired.csv", index=False)
        return tmp_path / "leaks"

    return make


def _moved(frame):
    """All test groups but the first go to train."""
    kept = frame["group_id"] == frame["group_id"][frame["split"] == "test"].iloc[0]
    return frame.assign(split_repaired=frame["split_repaired"].where(kept, "train"))


def test_a_repaired_split_is_applied_and_recorded(folder, repaired, dermssl):
    before = open_dataset(folder).frame()
    leaks = repaired(_moved)
    (leaks.parent / "audit.json").write_text("{}")
    dermssl("split", folder, "--folds", 2)
    outcome = dermssl("split", folder, "--apply", leaks.parent)
    assert outcome.code == 0
    dataset = open_dataset(folder)
    expected = pd.read_csv(leaks / "split_repaired.csv").set_index("image_id")["split_repaired"]
    assert dataset.column("split").tolist() == expected[dataset.column("image_id")].tolist()
    moved = int((dataset.frame()["split"] != before["split"]).sum())
    digest = sha256_file(leaks / "split_repaired.csv")[:12]
    assert dataset.info["split"] == (
        f"repaired by dermeval leaks (split_repaired.csv {digest}, {moved} images moved; was official)"
    )
    assert "folds" not in dataset.info and "fold" not in dataset.table.column_names
    assert "run `dermeval leaks`" in dermssl("split", folder, "--apply", leaks).err, "the split is another one by now"
    refused = dermssl("split", folder, "--fractions", 0.8, 0.2)
    assert refused.code == 2 and "--replace-official" in refused.err, "it still is the official split, repaired"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.iloc[1:], "lacks 1 image of"),
        (lambda frame: pd.concat([frame, frame[:1]]), "stands in two rows"),
        (lambda frame: frame.assign(split="val"), "made from another split"),
        (lambda frame: frame.assign(split_repaired="holdout"), "holds 'holdout'"),
        (lambda frame: frame.drop(columns="split_repaired"), "no column 'split_repaired'"),
        (
            lambda frame: frame.assign(split_repaired=frame.duplicated("group_id").map({True: "test", False: "train"})),
            "two splits",
        ),
    ],
)
def test_a_repaired_split_that_does_not_fit_is_bad_input_and_changes_nothing(
    folder, repaired, dermssl, change, message
):
    leaks = repaired(change)
    if "split_repaired'" in message:
        table = pd.read_csv(leaks / "split_repaired.csv").drop(columns="split_repaired")
        table.to_csv(leaks / "split_repaired.csv", index=False)
    before = open_dataset(folder).fingerprint
    outcome = dermssl("split", folder, "--apply", leaks)
    assert outcome.code == 2 and message in outcome.err and open_dataset(folder).fingerprint == before


@pytest.fixture
def audited(folder, tmp_path):
    """A leaks folder in which the first six groups are three leak groups, and one of another data set is in each."""
    frame = open_dataset(folder).frame(["image_id", "pixel_sha256", "group_id", "dataset"])
    groups = sorted(frame["group_id"].unique())[:6]
    rows = [[1 + number // 2, name, frame["dataset"][0]] for number, name in enumerate(groups)]
    rows += [[number, f"other/{number}", "other"] for number in (1, 2, 3)]
    (tmp_path / "leaks").mkdir()
    pd.DataFrame(rows, columns=["leak_group", "group_id", "dataset"]).to_csv(tmp_path / "leaks/groups.csv", index=False)
    frame.to_parquet(tmp_path / "leaks" / "images.parquet")
    return tmp_path / "leaks", [set(groups[start : start + 2]) for start in (0, 2, 4)]


def test_draws_keep_the_leak_groups_of_an_audit_together(folder, audited, dermssl):
    leaks, pairs = audited
    apart = 0
    for seed in range(4):
        drawn = ["--fractions", 0.4, 0.3, 0.3, "--folds", 3, "--replace-official", "--seed", seed]
        assert dermssl("split", folder, *drawn).code == 0
        without = open_dataset(folder).frame()
        assert dermssl("split", folder, *drawn, "--together", leaks).code == 0
        frame = open_dataset(folder).frame()
        for pair in pairs:
            rows = frame[frame["group_id"].isin(pair)]
            assert rows["split"].nunique() == 1 and rows["fold"].nunique(dropna=False) == 1
            apart += without["split"][without["group_id"].isin(pair)].nunique() > 1
    assert apart, "without the audit some leak groups are divided"
    digest = sha256_file(leaks / "groups.csv")[:12]
    origin = f"by patient (seed 3), leak groups together (groups.csv {digest})"
    assert open_dataset(folder).info["split"] == f"drawn {origin}"
    assert open_dataset(folder).info["folds"] == f"3 {origin}"


def test_an_audit_that_found_no_leak_group_is_as_good_as_none(folder, audited, dermssl):
    leaks, _ = audited
    drawn = ["--folds", 3, "--seed", 1]
    assert dermssl("split", folder, *drawn).code == 0
    without = open_dataset(folder).frame()["fold"]
    groups = pd.read_csv(leaks / "groups.csv")
    groups[groups["dataset"] == "other"].to_csv(leaks / "groups.csv", index=False)
    assert dermssl("split", folder, *drawn, "--together", leaks).code == 0
    assert open_dataset(folder).frame()["fold"].equals(without)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, groups: (images[1:], groups), "was made without"),
        (lambda images, groups: (images.assign(pixel_sha256="0"), groups), "was made from other pixels"),
        (lambda images, groups: (images, groups.assign(group_id="x")), "x is no group of"),
        (lambda images, groups: (images, groups.drop(columns="leak_group")), "no column 'leak_group'"),
    ],
)
def test_leak_groups_of_another_audit_are_bad_input(folder, audited, dermssl, change, message):
    leaks, _ = audited
    images, groups = change(pd.read_parquet(leaks / "images.parquet"), pd.read_csv(leaks / "groups.csv"))
    images.to_parquet(leaks / "images.parquet")
    groups.to_csv(leaks / "groups.csv", index=False)
    before = open_dataset(folder).fingerprint
    outcome = dermssl("split", folder, "--folds", 2, "--together", leaks)
    assert outcome.code == 2 and message in outcome.err and open_dataset(folder).fingerprint == before
