"""Clean and contaminated: which test images the encoder has seen, by its ledger, and how they score apart."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import balanced_accuracy_score

from dermeval.cli import main
from dermeval.features.embeddings import open_embeddings
from dermeval.features.ledger import REASONS, Seen, seen_images
from dermeval.probes.contamination import clean_and_contaminated
from dermeval.probes.predictions import Predictions
from dermeval.probes.task import open_task
from dermssl.files import sha256_file, write_json, write_parquet
from dermssl.licences import notice

LEDGER = ["image_id", "dataset", "patient_id", "lesion_id", "group_id", "sha256", "pixel_sha256", "phash"]
FAST = ["--draws", "40", "--recall", "false"]


@pytest.fixture
def frame(make_frame):
    """120 patients, about 300 images."""
    return make_frame(120, seed=5)


@pytest.fixture
def embeddings(tmp_path, make_embeddings, frame):
    """An embeddings folder whose hashes are far apart, by an encoder whose weights are at ``tmp_path/run``."""
    weights = tmp_path / "run" / "encoder" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    random = np.random.default_rng(0)
    features = random.normal(size=(len(frame), 6))
    return _encoded_by(make_embeddings(tmp_path, frame, features, fingerprint=sha256_file(weights)), tmp_path / "run")


def _encoded_by(folder: Path, encoder: Path | str) -> Path:
    info = json.loads((folder / "embedding.json").read_text())
    info["encoder"]["path"] = str(encoder)
    write_json(folder / "embedding.json", info)
    return folder


def _hashes(count: int, seed: int) -> np.ndarray:
    """``(count, 8)`` hashes with half of the bits set at random: about 32 bits from each other."""
    return np.random.default_rng(seed).integers(0, 2**63, (count, 8), dtype=np.uint64)


def _live(folder: Path) -> pd.DataFrame:
    """The manifest with hashes, lesions and patients that no two images share."""
    frame = open_embeddings(folder).frame.copy()
    frame["phash"] = list(_hashes(len(frame), 1))
    return frame.assign(lesion_id=None)


def _write_ledger(folder: Path, rows: pd.DataFrame, times_seen=7) -> None:
    columns = rows[LEDGER].assign(times_seen=times_seen)
    write_parquet(folder / "ledger.parquet", pa.Table.from_pandas(columns, preserve_index=False))


def _strangers(rows: pd.DataFrame, **kept) -> pd.DataFrame:
    """Ledger rows that share nothing with ``rows`` but what ``kept`` holds."""
    count = len(rows)
    other = pd.DataFrame({name: [f"other/{name}{row}" for row in range(count)] for name in LEDGER if name != "phash"})
    return other.assign(**({"phash": list(_hashes(count, 2))} | {name: list(values) for name, values in kept.items()}))


def _flipped_bits(hashes, bits):
    """The ledger image's view 5 is ``bits`` bits from the query's own hash."""
    changed = _hashes(len(hashes), 3)
    changed[:, 5] = [int(own[0]) ^ ((1 << bits) - 1) for own in hashes]
    return changed


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason != "hash"])
def test_an_image_counts_by_each_reason_alone(tmp_path, embeddings, reason):
    live = _live(embeddings)
    if reason == "lesion":
        live["lesion_id"] = "toy/L" + pd.Series(range(len(live)), index=live.index).astype(str)
    if reason == "case":
        live = live.assign(patient_id=None)
    chosen = live.drop_duplicates("group_id").iloc[:10]
    column = {"file": "sha256", "pixels": "pixel_sha256", "case": "group_id"}.get(reason, f"{reason}_id")
    _write_ledger(tmp_path / "run", _strangers(chosen, **{column: chosen[column]}))
    seen = seen_images(open_embeddings(embeddings).encoder, live)
    whole = {"patient": "patient_id", "case": "group_id"}.get(reason, "image_id")
    expected = live[whole].isin(chosen[whole]).to_numpy()
    assert seen.reasons[reason].to_numpy().tolist() == expected.tolist()
    assert not seen.reasons.drop(columns=reason).to_numpy().any()
    assert seen.flags(live["image_id"]).tolist() == expected.tolist()


def test_an_image_of_a_seen_patient_that_lacks_the_patient_counts_by_its_group(tmp_path, embeddings):
    """Its lesion is known, and another image says whose lesion it is: groups are connected over all ids."""
    live = _live(embeddings)
    same = live.index[live["group_id"] == live["group_id"].value_counts().index[0]]
    live["lesion_id"] = "toy/L" + pd.Series(range(len(live)), index=live.index).astype(str)
    live.loc[same[0], "patient_id"] = None
    trained = live.loc[same[1:2]]
    _write_ledger(tmp_path / "run", trained)
    reasons = seen_images(open_embeddings(embeddings).encoder, live).reasons.loc[live["image_id"][same]]
    assert reasons["case"].tolist() == [True] + [False] * (len(same) - 1)
    assert reasons["patient"].tolist() == [False] + [True] * (len(same) - 1)


def test_rows_that_were_never_seen_do_not_contaminate(tmp_path, embeddings):
    live = _live(embeddings)
    _write_ledger(tmp_path / "run", live, times_seen=0)
    assert not seen_images(open_embeddings(embeddings).encoder, live).reasons.to_numpy().any()


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_a_near_hash_whose_pixels_are_out_of_reach_is_suspected_and_never_counts(tmp_path, embeddings, bits):
    live = _live(embeddings)
    chosen = live.iloc[:3]
    _write_ledger(tmp_path / "run", _strangers(chosen, phash=_flipped_bits(chosen["phash"], bits)))
    seen = seen_images(open_embeddings(embeddings).encoder, live)
    assert seen.suspected == set(chosen["image_id"]) and not seen.reasons.to_numpy().any()


def test_missing_ids_are_not_taken_for_equal(tmp_path, embeddings):
    live = _live(embeddings).assign(patient_id=None)
    _write_ledger(tmp_path / "run", _strangers(live.iloc[:4]).assign(patient_id=None, lesion_id=None))
    assert not seen_images(open_embeddings(embeddings).encoder, live).reasons.to_numpy().any()


def test_the_official_split_of_a_pretraining_set_is_clean_and_its_folds_are_not(tmp_path, embeddings, frame, capsys):
    manifest = open_embeddings(embeddings).frame
    _write_ledger(tmp_path / "run", manifest[manifest["split"] == "train"])
    assert main(["knn", str(embeddings), "--out", str(tmp_path / "official"), *FAST, "--recall", "true"]) == 0
    out = capsys.readouterr().out
    assert "0 of " in out and "of them seen in pretraining" in out  # recall@1 asks about train images too
    assert main(["knn", str(embeddings), "--split", "folds", "--out", str(tmp_path / "folds"), *FAST]) == 0
    out = capsys.readouterr().out
    assert "folds also score images that the encoder was trained on" in out and "without labels" in out
    table = pd.read_parquet(tmp_path / "folds" / "predictions.parquet").set_index("image_id")
    trained = frame.set_index("image_id")["split"] == "train"
    assert (table["contaminated"] == trained.loc[table.index]).all()
    assert not pd.read_parquet(tmp_path / "official" / "predictions.parquet")["contaminated"].any()
    entry = json.loads((tmp_path / "folds" / "result.json").read_text())["contamination"]
    assert entry["contaminated"] == entry["reasons"]["file"] == entry["reasons"]["patient"] == trained.sum()


def test_each_side_scores_as_its_own_images_do(tmp_path, embeddings):
    manifest = open_embeddings(embeddings).frame
    _write_ledger(tmp_path / "run", manifest[manifest["split"] == "train"])
    for command in ("knn", "linear"):
        out = tmp_path / command
        extra = ["--recall", "false"] if command == "knn" else ["--c-values", "2", "--inner-folds", "2"]
        code = main([command, str(embeddings), "--split", "folds", "--out", str(out), "--draws", "40", *extra])
        assert code == 0
        table = pd.read_parquet(out / "predictions.parquet")
        classes = [name for name in table if name.startswith("p_")]
        guess = table[classes].idxmax(axis=1).str.removeprefix("p_")
        entry = json.loads((out / "result.json").read_text())["contamination"]
        values = []
        for row in entry["sides"]:
            rows = table["contaminated"] == (row["side"] == "contaminated")
            values.append(balanced_accuracy_score(table["y_true"][rows], guess[rows]))
            assert row["value"] == pytest.approx(values[-1]) and row["low"] <= row["value"] <= row["high"]
            assert row["images"] == rows.sum() and row["patients"] == table["group_id"][rows].nunique()
        difference = entry["difference"]
        assert difference["value"] == pytest.approx(values[1] - values[0])
        assert difference["low"] <= difference["value"] <= difference["high"] and entry["patients_on_both"] == 0


def _predicted(right: np.ndarray, truth: np.ndarray, groups: list[str]) -> Predictions:
    guess = np.where(right, truth, 1 - truth)
    ids = [f"i{row}" for row in range(len(truth))]
    frame = pd.DataFrame({"image_id": ids, "case_id": ids, "group_id": groups, "fold": 0, "seed": 0})
    return Predictions(frame, truth, np.eye(2)[guess], ("n", "y"))


def _marked(images: Predictions, flags: np.ndarray) -> Seen:
    reasons = pd.DataFrame(False, index=images.frame["image_id"], columns=list(REASONS))
    reasons["file"] = flags
    return Seen(reasons, "test")


def test_patients_on_both_sides_are_drawn_together():
    # Each patient's clean and contaminated image are right or wrong together: the difference has no spread at all
    # when patients are drawn whole, and a wide interval when the sides are drawn apart.
    random = np.random.default_rng(0)
    patients, labels = 60, np.arange(60) % 2
    right = random.random(patients) < 0.6
    both = np.tile(right, 2), np.tile(labels, 2), np.repeat([False, True], patients)
    together = _predicted(both[0], both[1], [f"p{n}" for n in range(patients)] * 2)
    apart = _predicted(both[0], both[1], [f"p{n}" for n in range(2 * patients)])
    paired, loose = (clean_and_contaminated(p, _marked(p, both[2]), "patient", 200, 0) for p in (together, apart))
    assert paired["patients_on_both"] == patients and loose["patients_on_both"] == 0
    assert paired["difference"]["low"] == pytest.approx(0) == paired["difference"]["high"]
    assert loose["difference"]["high"] - loose["difference"]["low"] > 0.1


@pytest.mark.parametrize(
    ("flags", "truth", "why"),
    [
        (np.arange(60) < 10, np.arange(60) % 2, "fewer than 15 patients"),
        (np.arange(60) < 30, (np.arange(60) < 30).astype(int), "fewer than two classes in common"),
    ],
)
def test_sides_that_cannot_be_compared_say_why(flags, truth, why):
    images = _predicted(np.ones(60, bool), truth, [f"p{n}" for n in range(60)])
    entry = clean_and_contaminated(images, _marked(images, flags), "patient", 50, 0)
    assert entry["sides"] is None and why in entry["why"] and entry["contaminated"] == flags.sum()


def test_a_side_that_is_all_right_has_an_interval_of_no_width_which_is_marked():
    images = _predicted(np.ones(60, bool), np.arange(60) % 2, [f"p{n}" for n in range(60)])
    entry = clean_and_contaminated(images, _marked(images, np.arange(60) < 30), "patient", 50, 0)
    assert [(side["low"], side["high"], side["narrow"]) for side in entry["sides"]] == [(1, 1, True)] * 2


@pytest.mark.parametrize(
    ("encoder", "words"),
    [("timm:resnet18", "not recorded"), ("pixels:8", "no ledger records"), ("/nowhere/run", "is out of reach")],
)
def test_where_no_ledger_can_be_read_one_line_says_so(tmp_path, embeddings, capsys, encoder, words):
    _encoded_by(embeddings, encoder)
    assert main(["knn", str(embeddings), "--out", str(tmp_path / "r"), *FAST]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "cannot be told apart" in line]
    assert len(said) == 1 and words in said[0]
    assert pd.read_parquet(tmp_path / "r" / "predictions.parquet")["contaminated"].isna().all()
    assert json.loads((tmp_path / "r" / "result.json").read_text())["contamination"]["known"] is False


def test_a_ledger_that_lacks_a_column_is_refused_by_its_name(tmp_path, embeddings, capsys):
    table = pa.Table.from_pandas(_live(embeddings)[LEDGER].assign(times_seen=1)).drop_columns("group_id")
    write_parquet(tmp_path / "run" / "ledger.parquet", table)
    assert main(["knn", str(embeddings), *FAST]) == 2
    assert "ledger.parquet has no column 'group_id'" in capsys.readouterr().err


def test_an_untrained_encoder_has_seen_nothing(embeddings, capsys):
    task = open_task([str(_encoded_by(embeddings, "random:resnet18"))], None)
    assert not task.pool.seen.reasons.to_numpy().any()


def test_weights_that_changed_since_are_not_judged_by_their_ledger(tmp_path, embeddings):
    manifest = open_embeddings(embeddings).frame
    _write_ledger(tmp_path / "run", manifest)
    assert open_task([str(embeddings)], None).pool.seen.reasons.to_numpy().any()
    (tmp_path / "run" / "encoder" / "model.safetensors").write_bytes(b"trained on")
    assert "was changed" in open_task([str(embeddings)], None).pool.seen.source


def test_what_the_start_of_a_run_was_trained_on_is_not_known(tmp_path, embeddings):
    info = json.loads((embeddings / "embedding.json").read_text())
    info["encoder"]["licences"] = [notice("weights resnet18", "unknown", "", False)]
    write_json(embeddings / "embedding.json", info)
    _write_ledger(tmp_path / "run", open_embeddings(embeddings).frame)
    seen = open_task([str(embeddings)], None).pool.seen
    assert seen.source.endswith("; what its start, weights resnet18, was trained on is not recorded")
    info["encoder"] |= {"licences": [], "training": {"unrecorded": ["run0"]}}
    write_json(embeddings / "embedding.json", info)
    seen = open_task([str(embeddings)], None).pool.seen
    assert seen.source.endswith("; what its start, run0, was trained on is not recorded")


def test_evaluate_shows_both_sides_in_text_and_page(tmp_path, embeddings, capsys):
    manifest = open_embeddings(embeddings).frame
    _write_ledger(tmp_path / "run", manifest[manifest["split"] == "train"])
    options = ["--probe", "knn", "--draws", "40", "--folds", "3", "--out", str(tmp_path / "r")]
    assert main(["evaluate", str(embeddings), *options]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "r" / "report.html").read_text()
    assert "the encoder saw none of them" in out and "the encoder saw none of them" in page
    tested = manifest["group_id"][manifest["split"] == "test"].unique()
    _write_ledger(tmp_path / "run", manifest[manifest["group_id"].isin(tested[::2])])
    assert main(["evaluate", str(embeddings), *options, "--overwrite"]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "r" / "report.html").read_text()
    for text in (out, page):
        assert "clean and contaminated images" in text and "are contaminated" in text
    assert pd.read_parquet(tmp_path / "r" / "predictions.parquet")["contaminated"].any()


def test_a_table_of_encoders_says_what_each_has_seen(tmp_path, embeddings, make_embeddings, frame, capsys):
    manifest = open_embeddings(embeddings).frame
    _write_ledger(tmp_path / "run", manifest)
    features = np.random.default_rng(1).normal(size=(len(frame), 6))
    other = make_embeddings(tmp_path / "other", frame, features, fingerprint="n" * 64)
    command = ["evaluate", str(embeddings), str(other), "--probe", "knn", "--draws", "40", "--out", str(tmp_path / "r")]
    assert main(command) == 0
    tested, asked = int((frame["split"] == "test").sum()), int(frame["patient_id"].duplicated(keep=False).sum())
    said = f"run has seen in pretraining: {tested} of {tested} images"
    for text in (capsys.readouterr().out, (tmp_path / "r" / "report.html").read_text()):
        assert said in text, text[-900:]
        assert f"{asked} of {asked} queries of same-patient recall@1" in text, text[-900:]
        assert "toy: clean and contaminated images cannot be told apart" in text
    assert said in (tmp_path / "r" / "encoders.tex").read_text()
    table = pd.read_csv(tmp_path / "r" / "encoders.csv").query("column == 'knn'").set_index("encoder")
    assert table["seen"]["run"] == table["images"]["run"] == tested and np.isnan(table["seen"]["toy"])
