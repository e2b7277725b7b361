"""The linear probe: scikit-learn's optimum for every penalty, and a choice of C that never sees the test patients."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermeval.cli import main
from dermeval.probes import logistic
from dermeval.probes.folds import Fold, grouped
from dermeval.probes.grids import GRID_TOLERANCE, PenaltyGrid
from dermeval.probes.linear import Inner, choose, inner_folds
from dermeval.probes.logistic import LogisticSolver
from dermeval.probes.task import open_task
from dermssl.dataset.targets import Target

FAST = ["--draws", "50", "--c-values", "7", "--inner-folds", "3"]
IMPETIGO = Target("impetigo", ("no impetigo", "impetigo"), kind="binary", positive="impetigo", level="case")


def problem(classes, rows=300, dims=12, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, dims)) @ random.normal(size=(dims, dims)) + 3
    shares = random.dirichlet(np.ones(classes)) + 0.05
    labels = np.arange(rows) % classes
    labels[classes:] = random.choice(classes, rows - classes, p=shares / shares.sum())
    return features + 2 * random.normal(size=(classes, dims))[labels], labels


def objective(probabilities, weights, labels, c, sample_weight, binary):
    """scikit-learn's objective per unit of weight; a binary task has one vector, the difference of the columns."""
    norm = ((weights[:, 1] - weights[:, 0]) ** 2).sum() if binary else (weights**2).sum()
    losses = -np.log(probabilities[np.arange(len(labels)), labels])
    return ((sample_weight * losses).sum() + norm / (2 * c)) / sample_weight.sum()


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("balanced", [False, True])
def test_every_penalty_reaches_scikit_learns_optimum(classes, balanced):
    features, labels = problem(classes)
    weight = len(labels) / (classes * np.bincount(labels)[labels]) if balanced else np.ones(len(labels))
    cs = np.logspace(-5, 2, 8)
    path = LogisticSolver(features, labels, classes, weight).fit(cs)
    probabilities = path.probabilities(features)
    for index, c in enumerate(cs):
        model = LogisticRegression(C=c, tol=1e-9, max_iter=50_000).fit(features, labels, sample_weight=weight)
        coefficients = np.vstack([-model.coef_ / 2, model.coef_ / 2]) if classes == 2 else model.coef_
        reference = model.predict_proba(features)
        ours = objective(probabilities[index], path.coefficients[index, :-1], labels, c, weight, classes == 2)
        theirs = objective(reference, coefficients.T, labels, c, weight, classes == 2)
        assert ours == pytest.approx(theirs, abs=1e-6)
        assert np.abs(probabilities[index] - reference).max() < 1e-2


def test_more_features_than_images_and_separable_classes_converge():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(40, 100)), np.arange(40) % 3
    path = LogisticSolver(features, labels, 3).fit(np.array([1.0]))
    model = LogisticRegression(C=1.0, tol=1e-9, max_iter=50_000).fit(features, labels)
    assert np.abs(path.probabilities(features)[0] - model.predict_proba(features)).max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_that_are_the_same_for_all_images_change_nothing(dtype):
    random = np.random.default_rng(1)
    features, labels = np.zeros((40, 256)), np.arange(40) % 3
    live = np.sort(random.permutation(256)[:16])
    features[:, live] = random.normal(size=(40, 16))
    whole, part = (LogisticSolver(x, labels, 3, None, 1e-8, dtype) for x in (features, features[:, live]))
    found, wanted = (solver.fit(np.array([1.0])) for solver in (whole, part))
    assert np.abs(found.probabilities(features) - wanted.probabilities(features[:, live])).max() < 1e-3


def test_a_fit_that_runs_out_of_steps_says_so(monkeypatch, caplog):
    monkeypatch.setattr(logistic, "MAX_STEPS", 2)
    monkeypatch.setattr(logistic, "ROUND", 2)
    LogisticSolver(*problem(3), 3).fit(np.array([1e-6, 100.0]))
    assert "of 2 logistic regressions" in caplog.text and "still improved after 2 steps" in caplog.text


def test_float32_passes_rank_penalties_as_float64_does():
    features, labels = problem(4)
    cs = np.logspace(-4, 1, 6)
    exact = LogisticSolver(features, labels, 4).fit(cs)
    quick = LogisticSolver(features, labels, 4, tolerance=GRID_TOLERANCE, dtype=torch.float32).fit(cs)
    assert np.abs(exact.probabilities(features) - quick.probabilities(features)).max() < 2e-2


def test_a_quick_fit_goes_on_to_a_finer_tolerance_where_it_stopped():
    features, labels = problem(4)
    cs = np.logspace(-4, 1, 6)
    solver = LogisticSolver(features, labels, 4, tolerance=1e-3)
    quick, fine = solver.fit(cs), solver.fit(cs, 1e-9)
    exact = LogisticSolver(features, labels, 4, tolerance=1e-9).fit(cs).probabilities(features)
    assert (
        np.abs(quick.probabilities(features) - exact).max() > 1e-3 > np.abs(fine.probabilities(features) - exact).max()
    )
    assert np.array_equal(solver.fit(cs).coefficients, fine.coefficients), "a finer fit is kept"


def test_the_choice_is_among_finely_fitted_penalties_near_the_best():
    grid = PenaltyGrid(np.logspace(-6, 5, 45), "none")
    assert grid.around({10: 0.40, 15: 0.44, 20: 0.4396, 25: 0.41}) == [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]


def test_a_class_without_training_images_gets_probability_zero():
    features, labels = problem(2)
    path = LogisticSolver(features, 2 * labels, 3).fit(np.array([0.1]))
    probabilities = path.probabilities(features)[0]
    assert (probabilities[:, 1] == 0).all() and np.allclose(probabilities.sum(1), 1)


def test_the_grid_is_scored_as_scikit_learn_scores_it_by_patient(tmp_path, make_embeddings, frame, class_features):
    task = open_task([str(make_embeddings(tmp_path, frame, class_features))], None)
    cs = np.array([1e-4, 1e-2, 1.0])
    expected = []
    splitter = StratifiedGroupKFold(4, shuffle=True, random_state=5)
    for c in cs:
        guesses = np.empty_like(task.labels)
        for fit, held in splitter.split(task.features, task.labels, task.groups):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-8, max_iter=10_000))
            guesses[held] = model.fit(task.features[fit], task.labels[fit]).predict(task.features[held])
        expected.append(balanced_accuracy_score(task.labels, guesses))
    grid = PenaltyGrid(cs, "none")
    parts = splitter.split(task.features, task.labels, task.groups)
    (best,), (score,) = choose(task, [Inner(fit, {0: held}) for fit, held in parts], grid, 1)
    assert score == pytest.approx(max(expected), abs=1e-9) and best == np.argmax(expected)


def test_the_probe_predicts_the_test_images_as_scikit_learn_does(tmp_path, make_embeddings, frame, class_features):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["linear", str(emb), "--out", str(tmp_path / "r"), *FAST]) == 0
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    train, test = (frame["split"] == "train").to_numpy(), (frame["split"] == "test").to_numpy()
    features = class_features.astype(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=result["settings"]["c"][0], tol=1e-9, max_iter=10_000))
    expected = model.fit(features[train], frame["condition"][train]).predict_proba(features[test])
    table = pd.read_parquet(tmp_path / "r" / "predictions.parquet").set_index("image_id")
    got = table.loc[frame["image_id"][test], [f"p_{name}" for name in model.classes_]].to_numpy()
    assert np.abs(got - expected).max() < 1e-3


def test_the_test_labels_cannot_change_the_choice_of_c_or_the_model(tmp_path, make_embeddings, frame, class_features):
    tables, chosen = [], []
    for name in ("true", "shuffled"):
        changed = frame.copy()
        if name == "shuffled":
            test = changed["split"] == "test"
            changed.loc[test, "condition"] = changed.loc[test, "condition"].to_numpy()[::-1]
        emb = make_embeddings(tmp_path / name, changed, class_features)
        assert main(["linear", str(emb), "--out", str(tmp_path / name / "r"), *FAST]) == 0
        tables.append(pd.read_parquet(tmp_path / name / "r" / "predictions.parquet").filter(like="p_"))
        chosen.append(json.loads((tmp_path / name / "r" / "result.json").read_text())["settings"]["c"])
    assert chosen[0] == chosen[1]
    assert tables[0].equals(tables[1])


def test_folds_choose_their_own_c_and_score_every_image(tmp_path, make_embeddings, frame, class_features, capsys):
    emb = make_embeddings(tmp_path, frame, class_features)
    arguments = ["linear", str(emb), "--split", "folds", "--folds", "3", "--class-weight", "balanced"]
    assert main([*arguments, "--out", str(tmp_path / "r"), *FAST]) == 0
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert len(result["settings"]["c"]) == 3 and result["counts"]["scored"] == len(frame)
    assert "chosen by 3 inner folds within train: C" in capsys.readouterr().out


def test_a_binary_target_is_scored_for_its_declared_positive_class(
    tmp_path, make_embeddings, frame, class_features, capsys
):
    features = class_features + 3 * (frame["impetigo"] == "impetigo").to_numpy()[:, None]
    emb = make_embeddings(tmp_path, frame, features, {"impetigo": IMPETIGO})
    assert main(["linear", str(emb), "--out", str(tmp_path / "r"), *FAST]) == 0
    table = pd.read_parquet(tmp_path / "r" / "predictions.parquet")
    sick = table["y_true"] == "impetigo"
    expected = ((table["p_impetigo"] > 0.5) & sick).sum() / sick.sum()
    scores = json.loads((tmp_path / "r" / "result.json").read_text())["levels"]["image"]["scores"]
    assert scores["positive_recall"]["value"] == pytest.approx(expected)
    assert scores["auroc"]["value"] > 0.6
    assert "\npositive class: impetigo\n" in capsys.readouterr().out


def test_too_few_patients_for_the_inner_folds_is_one_line(tmp_path, make_embeddings, frame, class_features, capsys):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["linear", str(emb), "--inner-folds", "99"]) == 2
    assert "99 folds of" in capsys.readouterr().err


def test_five_folds_share_their_inner_fits_and_none_sees_the_fold_that_it_chooses_for(
    tmp_path, make_embeddings, frame, class_features
):
    task = open_task([str(make_embeddings(tmp_path, frame, class_features))], None)
    folds = grouped(task, 5, seed=0)
    plan = inner_folds(task, folds, 5, seed=0)
    assert len(plan) == 10
    for inner in plan:
        for outer, held in inner.held.items():
            fitted = set(task.groups[inner.train])
            assert not fitted & set(task.groups[folds[outer].test]) and not fitted & set(task.groups[held])
            assert not set(held) & set(folds[outer].test)
    for outer in range(5):
        held = np.concatenate([inner.held[outer] for inner in plan if outer in inner.held])
        assert sorted(held) == sorted(folds[outer].train)


def test_the_coarse_choice_is_as_good_as_the_full_grid(tmp_path, make_embeddings, frame, class_features):
    task = open_task([str(make_embeddings(tmp_path, frame, class_features))], None)
    plan = inner_folds(task, [Fold(0, np.arange(len(task.labels)), np.arange(0))], 4, seed=0)
    grid = PenaltyGrid(np.logspace(-6, 5, 45), "none")
    _, coarse = choose(task, plan, grid, 1)
    full = [choose(task, plan, PenaltyGrid(grid.cs[[index]], "none"), 1)[1][0] for index in range(45)]
    assert coarse[0] > max(full) - 0.02
