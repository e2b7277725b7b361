"""Few-shot curves: patients are drawn, never images or test patients, and intervals carry draws and patients."""

import json

import numpy as np
import pandas as pd
import pytest

from dermeval.cli import main
from dermeval.probes.folds import official
from dermeval.probes.open_results import read_predictions
from dermeval.probes.shots import draw_of_each_class
from dermeval.probes.task import open_task
from dermeval.statistics.bootstrap import cluster_codes, paired_bootstrap
from dermeval.statistics.metrics import Scorer

FAST = ["--draws", "50", "--shot-draws", "3"]


@pytest.fixture
def task(tmp_path, make_embeddings, frame, class_features):
    return open_task([str(make_embeddings(tmp_path, frame, class_features))], None)


def test_n_patients_of_each_class_are_drawn_with_all_their_images(task):
    fold = official(task)
    rows = draw_of_each_class(task, [fold], 3, [0, 0])[0].train
    assert set(rows) <= set(fold.train)
    drawn = task.frame.iloc[rows]
    assert (drawn.groupby("condition")["group_id"].nunique() == 3).all() and drawn["condition"].nunique() == 4
    whole = task.frame.iloc[fold.train].groupby("group_id").size()
    assert (drawn.groupby("group_id").size() == whole[drawn["group_id"].unique()].sort_index()).all()


def test_draws_differ_and_larger_ones_hold_the_smaller(task):
    fold = official(task)
    few, more, other = (draw_of_each_class(task, [fold], n, [0, d])[0].train for n, d in ((2, 0), (4, 0), (4, 1)))
    assert set(few) < set(more) and set(more) != set(other)
    assert np.array_equal(more, draw_of_each_class(task, [fold], 4, [0, 0])[0].train)


def test_a_class_with_fewer_patients_gives_all_it_has(task):
    fold = official(task)
    rare = fold.train[task.labels[fold.train] == 1]
    keep = np.isin(task.groups, task.groups[rare][:1]) | (task.labels != 1)
    (drawn,) = draw_of_each_class(task, [type(fold)(0, fold.train[keep[fold.train]], fold.test)], 4, [0, 0])
    patients = task.frame.iloc[drawn.train].groupby("condition")["group_id"].nunique()
    assert sorted(patients) == [1, 4, 4, 4]


def three_runs(seed=0, rows=120):
    random = np.random.default_rng(seed)
    truth, groups = random.integers(3, size=rows), random.integers(rows // 3, size=rows)
    return truth, [random.dirichlet(np.ones(3), rows) + (1 + r) * np.eye(3)[truth] / 2 for r in range(3)], groups


def bootstrap_runs(truth, runs, groups, **options):
    return paired_bootstrap(truth, [np.stack(runs)], groups, draw_seeds=True, **options)[0].scores


def test_runs_are_averaged_as_scores_not_as_an_ensemble():
    truth, runs, groups = three_runs()
    runs = [run / run.sum(1, keepdims=True) for run in runs]
    found = bootstrap_runs(truth, runs, groups, draws=50)
    alone = [Scorer(truth, run, cluster_codes(groups)).point() for run in runs]
    for name in ("balanced_accuracy", "macro_auroc", "recall"):
        assert np.allclose(found[name].value, np.mean([point[name] for point in alone], axis=0))
    ensemble = Scorer(truth, np.mean(runs, axis=0), cluster_codes(groups)).point()
    assert found["balanced_accuracy"].value < ensemble["balanced_accuracy"]


def test_one_run_has_the_interval_of_the_patient_bootstrap():
    truth, runs, groups = three_runs()
    one = bootstrap_runs(truth, runs[:1], groups, draws=200, seed=3)["macro_f1"]
    plain = paired_bootstrap(truth, runs[:1], groups, draws=200, seed=3)[0].scores["macro_f1"]
    assert (one.value, one.low, one.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_the_interval_carries_the_draws_of_training_patients_too():
    truth, _, groups = three_runs(rows=3000)
    random = np.random.default_rng(0)

    def run(right):
        guess = np.where(random.random(len(truth)) < right, truth, (truth + 1) % 3)
        return np.eye(3)[guess]

    alike, unlike = ([run(right) for right in rights] for rights in ((0.6,) * 4, (0.3, 0.5, 0.7, 0.9)))
    narrow, wide = (bootstrap_runs(truth, runs, groups, draws=500)["accuracy"] for runs in (alike, unlike))
    assert narrow.high - narrow.low < 0.05
    # Means of four draws from four values of spread 0.224: standard error 0.112, 95% about +-0.22.
    assert wide.high - wide.low == pytest.approx(0.44, abs=0.06)


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_a_curve_is_printed_and_written(tmp_path, make_embeddings, frame, class_features, capsys, probe):
    emb = make_embeddings(tmp_path, frame, class_features)
    more = [] if probe == "knn" else ["--c-values", "3", "--inner-folds", "2"]
    out = tmp_path / "r"
    assert main([probe, str(emb), "--shots", "1", "4", "--out", str(out), *FAST, *more]) == 0
    assert "mean of 3 draws of training patients, 95% intervals" in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    assert [point["shots"] for point in result["shots"]] == [1, 4]
    table = pd.read_parquet(out / "predictions.parquet")
    test = sorted(frame["image_id"][frame["split"] == "test"])
    for (shots, seed), part in table.dropna(subset="shots").groupby(["shots", "seed"]):
        assert shots in (1, 4) and seed in (0, 1, 2)
        assert sorted(part["image_id"]) == test
    accuracies = [
        (part.filter(regex="^p_").to_numpy().argmax(1) == part["y_true"].map(result["classes"].index))
        .groupby(part["y_true"])
        .mean()
        .mean()
        for _, part in table[table["shots"] == 4].groupby("seed")
    ]
    score = result["shots"][1]["image"]["balanced_accuracy"]
    assert score["value"] == pytest.approx(np.mean(accuracies)) and score["low"] < score["value"] < score["high"]
    # What other commands read is the result from all training patients.
    assert len(read_predictions(out, tuple(result["classes"]))) == len(test)


def test_results_with_and_without_a_curve_compare(tmp_path, make_embeddings, frame, class_features):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb), "--out", str(tmp_path / "a"), *FAST[:2]]) == 0
    assert main(["knn", str(emb), "--out", str(tmp_path / "b"), "--shots", "2", *FAST]) == 0
    arguments = [
        "compare",
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "--draws",
        "50",
        "--json",
        str(tmp_path / "c.json"),
    ]
    assert main(arguments) == 0
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert {row["difference"] for row in rows if row["difference"] is not None} == {0.0}


def test_scarce_classes_are_named(tmp_path, make_embeddings, frame, class_features, capsys):
    scabies = frame["condition"] == "Scabies"
    kept = frame["patient_id"][scabies & (frame["split"] == "train")].unique()[:2]
    rows = (~scabies | frame["patient_id"].isin(kept) | (frame["split"] == "test")).to_numpy()
    emb = make_embeddings(tmp_path, frame[rows], class_features[rows])
    assert main(["knn", str(emb), "--shots", "2", "3", *FAST]) == 0
    assert "class Scabies has 2 training patients, all of which are drawn from --shots 3 on" in capsys.readouterr().out
    assert main(["knn", str(emb), "--shots", "99", *FAST]) == 2
    assert "no class has more than" in capsys.readouterr().err


def test_one_patient_per_class_leaves_nothing_to_choose_by_and_says_so(
    tmp_path, make_embeddings, frame, class_features, capsys
):
    emb = make_embeddings(tmp_path, frame, class_features)
    few = ["--shots", "1", "--shot-draws", "1", "--draws", "50"]
    assert main(["linear", str(emb), "--c-values", "12", "--inner-folds", "2", *few]) == 0
    out = capsys.readouterr().out
    assert "--shots 1 leaves no patient for a choice: C 1 is taken" in out
    assert "one draw of training patients, 95% intervals over test patients only" in out
    for option in ("--inner-folds", "--c-values"):
        assert main(["linear", str(emb), option, "1"]) == 2
        assert f"{option} 1 leaves no" in capsys.readouterr().err
