"""``dermeval linear``: logistic regression on frozen features, its penalty chosen within the training patients."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dermeval.probes import contamination
from dermeval.probes.folds import Fold, make_folds, missing_classes, stratified_group_folds
from dermeval.probes.logistic import LogisticPath, fit_path
from dermeval.probes.options import LinearOptions
from dermeval.probes.predictions import collect
from dermeval.probes.results import describe, page, score_levels, write_results
from dermeval.probes.task import Task, open_task
from dermssl.commandline import Report
from dermssl.files import require_new_folder

GRID_ENDS = (-6.0, 2.0)
GRID_TOLERANCE = 1e-5
"""Enough to rank penalties, in float32 (mean losses within 1e-4 of the optimum); what is scored is fitted fully."""


@dataclass(frozen=True)
class Fitted:
    """Probabilities of a fold's test images, and the penalty that was chosen for them."""

    probabilities: np.ndarray
    c: float
    inner_score: float


@dataclass(frozen=True)
class Standard:
    """Mean and spread of training features; constant features keep spread 1."""

    mean: np.ndarray
    spread: np.ndarray

    @staticmethod
    def of(features: np.ndarray) -> "Standard":
        """Measured on ``features`` ``(N, D)``."""
        spread = features.std(0, dtype=np.float64)
        return Standard(features.mean(0, dtype=np.float64), np.where(spread > 1e-12, spread, 1.0))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """``features`` ``(N, D)`` shifted and scaled, float64."""
        return (features.astype(np.float64) - self.mean) / self.spread


def linear(options: LinearOptions) -> Report:
    """Judge features by a linear classifier; see `LinearOptions`.

    Raises:
        InputError: unusable embeddings, target, split or output folder, or too few patients for the inner folds.
    """
    out = require_new_folder(Path(options.out), options.overwrite) if options.out else None
    task = open_task(options.embeddings, options.target)
    folds = make_folds(task, options.split, options.folds, options.seed)
    cs = np.logspace(*GRID_ENDS, options.c_values)
    fitted = fit_folds(task, folds, cs, options.inner_folds, options.class_weight, options.seed)
    predictions = collect(task, folds, [fit.probabilities for fit in fitted], options.seed)
    levels, notes = score_levels(predictions, task.positive, options.draws, options.seed)
    chosen = [fit.c for fit in fitted]
    settings = {
        "c": chosen,
        "c_grid": [float(cs[0]), float(cs[-1]), len(cs)],
        "inner_folds": options.inner_folds,
        "inner_balanced_accuracy": [fit.inner_score for fit in fitted],
        "class_weight": options.class_weight,
    }
    result = describe("linear", task, folds, options.split, settings, options.seed) | {"levels": levels}
    edge = [f"C = {c:.3g} lies at the end of the grid" for c in sorted(set(chosen)) if len(cs) > 1 and c in cs[[0, -1]]]
    result["notes"] = [*task.notes, *missing_classes(task, folds), *edge, *notes]
    result["contamination"] = contamination.clean_and_contaminated(
        predictions, task.pool.seen, options.draws, options.seed
    )
    if out:
        write_results(out, result, predictions)
    said = ", ".join(f"{c:.3g}" for c in chosen)
    seen = contamination.lines(result["contamination"], options.split)
    return Report(page(result, ["", f"C chosen by {options.inner_folds} inner folds: {said}", *seen]), result)


def fit_folds(
    task: Task, folds: Sequence[Fold], cs: np.ndarray, inner_folds: int, class_weight: str, seed: int
) -> list[Fitted]:
    """Choose C on each fold's training images alone, refit on all of them, and predict its test images once."""
    steps = len(folds) * (inner_folds + 1)
    with tqdm(total=steps, desc="linear", unit="fit", disable=None) as bar:
        return [_fit_fold(task, fold, cs, inner_folds, class_weight, seed, bar) for fold in folds]


def _fit_fold(
    task: Task, fold: Fold, cs: np.ndarray, inner_folds: int, class_weight: str, seed: int, bar: tqdm
) -> Fitted:
    train = task.subset(fold.train)
    scores = inner_scores(train, cs, inner_folds, class_weight, seed, bar)
    # Of equally good penalties the strongest: cs ascend, and argmax takes the first.
    best = int(scores.argmax())
    standard = Standard.of(train.features)
    path = _fit(standard(train.features), train.labels, task, cs[[best]], class_weight)
    bar.update()
    probabilities = path.probabilities(standard(task.features[fold.test]))[0]
    return Fitted(probabilities, float(cs[best]), float(scores[best]))


def inner_scores(
    train: Task, cs: np.ndarray, inner_folds: int, class_weight: str, seed: int, bar: tqdm | None = None
) -> np.ndarray:
    """Balanced accuracy of each C ``(P,)`` over the pooled out-of-fold predictions of patient-grouped inner folds.

    Standardisation is measured on each inner fold's training part.
    """
    guesses = np.empty((len(cs), len(train.labels)), dtype=np.int64)
    where = f"{train.where}, --inner-folds within the training patients"
    parts = stratified_group_folds(train.labels, train.groups, inner_folds, seed, where)
    for fit, held in _counted(parts, bar):
        standard = Standard.of(train.features[fit])
        path = _fit(standard(train.features[fit]), train.labels[fit], train, cs, class_weight, grid=True)
        guesses[:, held] = path.probabilities(standard(train.features[held])).argmax(2)
    present = np.unique(train.labels)
    return np.mean([(guesses[:, train.labels == label] == label).mean(1) for label in present], axis=0)


def _counted(parts: Iterable, bar: tqdm | None) -> Iterable:
    for part in parts:
        yield part
        if bar is not None:
            bar.update()


def _fit(
    features: np.ndarray, labels: np.ndarray, task: Task, cs: np.ndarray, class_weight: str, grid: bool = False
) -> LogisticPath:
    weight = None
    if class_weight == "balanced":
        counts = np.bincount(labels)
        weight = len(labels) / ((counts > 0).sum() * counts[labels])
    precision: dict[str, Any] = {"tolerance": GRID_TOLERANCE, "dtype": torch.float32} if grid else {}
    return fit_path(features, labels, len(task.classes), cs, weight, **precision)
