"""The SGD grid: each head is what torch.optim.SGD trains on the same batches, and the choice never sees test rows."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from dermeval.cli import main
from dermeval.probes.folds import Fold
from dermeval.probes.grids import PenaltyGrid, class_weights
from dermeval.probes.linear import SGD_FROM, _separate, choose, make_grid
from dermeval.probes.options import LinearOptions
from dermeval.probes.sgd import RATES, RateGrid, batches, with_bias
from dermeval.probes.task import open_task

SHORT = ["--solver", "sgd", "--steps", "60", "--batch", "32", "--inner-folds", "3", "--draws", "50"]


def problem(rows=90, classes=3, dims=5):
    random = np.random.default_rng(0)
    labels = np.arange(rows) % classes
    features = random.normal(size=(rows, dims)) + random.normal(size=(classes, dims))[labels]
    return features.astype(np.float32), labels


def plain_sgd(features, labels, rate, steps, batch, weight):
    """One head by torch.optim.SGD under CosineAnnealingLR, from the same first weights."""
    x, y, w = torch.from_numpy(features), torch.from_numpy(labels), torch.from_numpy(weight).float()
    head = torch.nn.Linear(x.shape[1], 3)
    first = 0.01 * torch.randn(x.shape[1], 1, 3, generator=torch.Generator().manual_seed(4))
    head.weight.data, head.bias.data = first[:, 0].T.clone(), torch.zeros(3)
    optimizer = torch.optim.SGD(head.parameters(), rate * batch / 256, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for rows in batches(len(y), batch, steps, 4):
        loss = (w[rows] * torch.nn.functional.cross_entropy(head(x[rows]), y[rows], reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head


@pytest.mark.parametrize("balanced", ["none", "balanced"])
def test_every_head_is_what_torch_trains_alone(balanced):
    features, labels = problem()
    labels = np.where(np.arange(90) % 5 == 0, labels, 0)
    forms, rates = np.stack([features, 3 * features]), np.array([1e-3, 1e-1, 1.0])
    weight = class_weights(labels, balanced)
    heads = RateGrid(rates, 40, 16, "none", 4).train(with_bias(forms), labels, 3, weight)
    for form in range(2):
        for index, rate in enumerate(rates):
            alone = plain_sgd(forms[form], labels, rate, 40, 16, np.ones(90) if weight is None else weight)
            assert torch.allclose(heads[form, :-1, index].T, alone.weight, atol=1e-5)
            assert torch.allclose(heads[form, -1, index], alone.bias, atol=1e-5)


def test_an_epoch_shows_each_image_once_and_the_next_in_another_order():
    made = list(batches(12, 4, 6, 0))
    epoch, following = torch.cat(made[:3]), torch.cat(made[3:])
    assert sorted(epoch.tolist()) == sorted(following.tolist()) == list(range(12))
    assert epoch.tolist() != following.tolist()
    assert len(list(batches(10, 4, 7, 0))) == 7


def test_separable_classes_are_solved_whatever_the_scale_of_the_features():
    features, labels = problem()
    features = (features * 0.1 + 8 * np.eye(3, 5)[labels]).astype(np.float32)
    for scale in (1e-3, 1.0, 1e3):
        grid = RateGrid(np.array(RATES), 300, 32, "none", 0)
        guesses = grid.fits(scale * features, labels, 3)(scale * features, grid.coarse()[0]).argmax(2)
        right = (guesses == labels).mean(1)
        assert right.max() == 1.0


def test_the_chosen_head_is_the_same_alone_as_in_the_grid():
    features, labels = problem()
    grid = RateGrid(np.array(RATES), 30, 32, "none", 1)
    fits = grid.fits(features, labels, 3)
    together = fits(features, grid.coarse()[0])
    assert len(together) == 26
    for chosen in (3, 12, 20):
        assert np.allclose(fits(features, [chosen])[0], together[chosen], atol=1e-5)


def test_inner_folds_fit_no_patient_that_they_score(tmp_path, make_embeddings, frame, class_features):
    # Every patient has a direction of their own that gives their label away, and only to who has seen them.
    codes = pd.factorize(frame["patient_id"])[0]
    task = open_task([str(make_embeddings(tmp_path, frame, 5 * np.eye(codes.max() + 1)[codes]))], None)
    grid = RateGrid(np.array([1.0, 10.0]), 200, 32, "none", 0)
    seen = grid.fits(task.features, task.labels, 4)(task.features, grid.coarse()[0]).argmax(2)
    assert (seen == task.labels).mean(1).max() > 0.99
    rows = np.arange(len(task.labels))
    _, scores = choose(task, list(_separate(task, [Fold(0, rows, rows[:0])], 4, 0)), grid, 1)
    assert scores[0] < 0.45


def test_the_test_labels_cannot_change_the_choice_or_the_head(tmp_path, make_embeddings, frame, class_features):
    tables, chosen = [], []
    for name in ("true", "turned"):
        changed = frame.copy()
        if name == "turned":
            test = changed["split"] == "test"
            changed.loc[test, "condition"] = changed.loc[test, "condition"].to_numpy()[::-1]
        emb = make_embeddings(tmp_path / name, changed, class_features)
        assert main(["linear", str(emb), "--out", str(tmp_path / name / "r"), *SHORT]) == 0
        tables.append(pd.read_parquet(tmp_path / name / "r" / "predictions.parquet").filter(like="p_"))
        settings = json.loads((tmp_path / name / "r" / "result.json").read_text())["settings"]
        chosen.append((settings["rate"], settings["features"]))
    assert chosen[0] == chosen[1]
    assert tables[0].equals(tables[1])


def test_the_report_says_which_head_was_chosen_and_what_it_scores(
    tmp_path, make_embeddings, frame, class_features, capsys
):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["linear", str(emb), "--json", str(tmp_path / "j.json"), "--class-weight", "balanced", *SHORT]) == 0
    report = json.loads((tmp_path / "j.json").read_text())
    settings = report["settings"]
    assert settings["solver"] == "sgd" and settings["steps"] == 60 and settings["class_weight"] == "balanced"
    assert f"SGD head {settings['rate'][0]:.3g} on features {settings['features'][0]}" in capsys.readouterr().out
    assert report["levels"]["image"]["scores"]["balanced_accuracy"]["value"] > 0.5


def test_balanced_classes_weigh_the_same_in_the_loss():
    labels = np.array([0, 0, 0, 2])
    weight = class_weights(labels, "balanced")
    assert weight.mean() == 1 and weight[labels == 0].sum() == weight[labels == 2].sum()
    assert class_weights(labels, "none") is None


def test_auto_takes_sgd_for_many_images_only():
    options = LinearOptions(embeddings=[])
    assert isinstance(make_grid(options, SGD_FROM - 1), PenaltyGrid)
    assert isinstance(make_grid(options, SGD_FROM), RateGrid)
