"""Several encoders at once: one table, scored on the same images, each against the first, with ranks."""

import json

import numpy as np
import pandas as pd
import pytest

from dermeval.cli import main
from dermeval.probes.encoder_table import _few_label_notes
from dermeval.probes.evaluate import make_probe
from dermeval.probes.folds import official
from dermeval.probes.report import dots
from dermeval.probes.task import open_task
from dermeval.statistics.bootstrap import MEAN, cluster_codes, drawn_weights, paired_means

FAST = ["--probe", "knn", "--draws", "40", "--folds", "3"]


@pytest.fixture
def folders(tmp_path, make_embeddings, make_frame):
    """Embeddings of one data set by a good encoder and by noise; the second holds the images in another order."""
    frame = make_frame(90, seed=1).assign(split=None)
    random = np.random.default_rng(0)
    classes = frame["condition"].map(("Eczema", "Fungal", "Others", "Scabies").index).to_numpy()
    good = 3 * np.eye(4)[classes] + random.normal(size=(len(frame), 4))
    order = random.permutation(len(frame))
    one = make_embeddings(tmp_path / "good", frame, good)
    other = frame.iloc[order].reset_index(drop=True)
    two = make_embeddings(tmp_path / "noise", other, random.normal(size=good.shape), fingerprint="n" * 64)
    return [str(one), str(two)]


def test_encoders_are_ranked_on_the_same_images(tmp_path, folders, capsys):
    assert main(["evaluate", *folders, "--out", str(tmp_path / "r"), *FAST]) == 0
    table = pd.read_csv(tmp_path / "r" / "encoders.csv")
    columns = dict(list(table.groupby("column", sort=False)))
    assert list(columns)[:3] == ["knn", "knn, 5 patients per class", "knn, 10% of patients"]
    assert "knn, skin types V-VI" in columns and list(columns)[-1] == "mean rank"
    good, noise = (row for _, row in columns["knn"].iterrows())
    assert good["value"] > noise["value"] + 0.2 and (good["rank"], noise["rank"]) == (1, 2)
    assert noise["difference"] == pytest.approx(noise["value"] - good["value"]) and noise["difference_high"] < 0
    assert noise["p"] == pytest.approx(2 / 41) and np.isnan(good["difference"])
    assert columns["mean rank"]["value"].iloc[0] < 1.5
    out, page = capsys.readouterr().out, (tmp_path / "r" / "report.html").read_text()
    assert "2 encoders, each on the same images" in out and "not corrected" in " ".join(page.split())
    assert (tmp_path / "r" / "encoders.tex").read_text().count(r"\toprule") == 3
    assert main(["compare", str(tmp_path / "r"), str(tmp_path / "other")]) == 2
    assert "holds a table of encoders" in capsys.readouterr().err


def test_the_report_counts_the_images_that_are_scored(tmp_path, make_embeddings, make_frame, capsys):
    frame = make_frame(90, seed=1)
    features = np.random.default_rng(0).normal(size=(len(frame), 4))
    folders = [str(make_embeddings(tmp_path / mark, frame, features, fingerprint=mark * 64)) for mark in "ab"]
    assert main(["evaluate", *folders, *FAST]) == 0
    scored = frame[frame["split"] == "test"]
    assert 0 < len(scored) < len(frame)
    patients = scored["group_id"].nunique()
    assert f"{len(scored)} of {len(frame)} images are scored, those of {patients} patients" in capsys.readouterr().out


def test_a_plot_that_leaves_columns_out_says_so():
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = pd.DataFrame({"encoder": "one", "column": [f"c{number}" for number in range(8)], "value": [value] * 8})
    assert "the first 6 of 8 columns" in dots(rows, ("encoder", "column"))
    assert "columns" not in dots(rows[:6], ("encoder", "column"))


def test_one_encoder_alone_scores_as_it_does_in_the_table(tmp_path, folders):
    assert main(["evaluate", *folders, "--json", str(tmp_path / "all.json"), *FAST]) == 0
    assert main(["evaluate", folders[1], "--json", str(tmp_path / "one.json"), *FAST]) == 0
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    alone = json.loads((tmp_path / "one.json").read_text())["experiments"][0]["levels"]["image"]["scores"]
    shown = next(row for row in rows if row["column"] == "knn" and row["rank"] == 2)
    assert shown["value"] == pytest.approx(alone["balanced_accuracy"]["value"])


def test_all_encoders_have_the_labels_of_the_first_and_each_has_its_notes(tmp_path, make_embeddings, frame, capsys):
    random = np.random.default_rng(0)
    features = random.normal(size=(len(frame), 4))
    relabelled = frame.assign(condition=random.permutation(frame["condition"]))
    folders = [
        make_embeddings(tmp_path / "one", frame, features, fingerprint="a" * 64),
        make_embeddings(tmp_path / "two", relabelled, features, fingerprint="b" * 64),
        make_embeddings(tmp_path / "none", frame, np.ones((len(frame), 4)), fingerprint="c" * 64),
    ]
    assert main(["evaluate", *map(str, folders), "--json", str(tmp_path / "j.json"), *FAST]) == 0
    report = json.loads((tmp_path / "j.json").read_text())
    one, two, none = (row["value"] for row in report["rows"] if row["column"] == "knn")
    assert one == two != none
    noted = [note for note in report["notes"] if "all images have the same features" in note]
    assert len(noted) == 1 and noted[0].startswith(list(report["encoders"])[2])


def test_a_class_with_one_patient_in_a_tenth_leaves_no_choice_of_a_penalty_and_the_table_says_so(
    tmp_path, make_embeddings, frame
):
    task = open_task([str(make_embeddings(tmp_path, frame, np.ones((len(frame), 4))))], None)
    linear, knn = (list(_few_label_notes(task, [official(task)], make_probe(name, 0))) for name in ("linear", "knn"))
    assert any("so the default one is taken" in note for note in linear) and not any(
        "default one" in note for note in knn
    )


def test_encoders_of_other_images_are_refused(tmp_path, folders, make_embeddings, make_frame, capsys):
    frame = make_frame(20, seed=1).assign(split=None)
    fewer = make_embeddings(tmp_path / "fewer", frame, np.ones((len(frame), 4)), fingerprint="o" * 64)
    assert main(["evaluate", folders[0], str(fewer), *FAST]) == 2
    assert "embed the same data with each" in capsys.readouterr().err


def test_paired_means_are_those_of_the_drawn_patients_rows():
    random = np.random.default_rng(0)
    values, groups = random.random((2, 50)), random.integers(12, size=50)
    first, second = paired_means(list(values), groups, 200, 3)
    codes = cluster_codes(groups)
    weights = np.concatenate([block for block, _ in drawn_weights(np.bincount(codes)[:, None], 200, 3)], axis=1)
    for own, found in zip(values, (first, second), strict=True):
        means = [np.average(own, weights=draw[codes]) for draw in weights.T]
        score = found.scores[MEAN]
        assert np.allclose(found.drawn[MEAN], means) and score.value == pytest.approx(own.mean())
        assert [score.low, score.high] == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert not first.differences
    assert second.differences[MEAN].value == pytest.approx(values[1].mean() - values[0].mean())
