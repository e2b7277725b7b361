"""``dermeval linear``: linear classifiers on frozen features, their settings chosen within the training patients."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dermeval.probes import contamination
from dermeval.probes.folds import Fold, make_folds, missing_classes, stratified_group_folds
from dermeval.probes.grids import Grid, make_grid
from dermeval.probes.options import LinearOptions
from dermeval.probes.predictions import Predictions, collect
from dermeval.probes.results import describe, page, score_levels, write_results
from dermeval.probes.shots import curve_text, few_shot_curve
from dermeval.probes.task import Task, open_task
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import require_new_folder


@dataclass(frozen=True)
class Fitted:
    """Probabilities of a fold's test images, and which classifier of the grid was chosen for them."""

    probabilities: np.ndarray
    chosen: int
    inner_score: float | None


def linear(options: LinearOptions) -> Report:
    """Judge features by a linear classifier; see `LinearOptions`.

    Raises:
        InputError: unusable embeddings, target, split or output folder, or too few patients for the inner folds.
    """
    out = Path(options.out) if options.out else None
    if out:
        require_new_folder(out, options.overwrite, "result.json", options.embeddings, key="probe")
    if options.inner_folds < 2:
        raise InputError("--inner-folds 1 leaves no patients to choose the classifier by: give 2 or more")
    task = open_task(options.embeddings, options.target)
    folds = make_folds(task, options.split, options.folds, options.seed)
    grid = make_grid(options, len(task.labels))
    fitted = fit_folds(task, folds, grid, options.inner_folds, options.seed)
    predictions = collect(task, folds, [fit.probabilities for fit in fitted], options.seed)
    levels, notes = score_levels(predictions, task.positive, options.draws, options.seed)
    chosen = [fit.chosen for fit in fitted]
    settings = grid.settings(chosen) | {
        "inner_folds": options.inner_folds,
        "inner_balanced_accuracy": [fit.inner_score for fit in fitted],
        "class_weight": options.class_weight,
    }
    result = describe("linear", task, folds, options.split, settings, options.seed) | {"levels": levels}
    result["notes"] = [*task.notes, *missing_classes(task, folds), *grid.notes(chosen), *notes]
    result["contamination"] = contamination.clean_and_contaminated(
        predictions, task.pool.seen, options.draws, options.seed
    )
    curve = None
    if options.shots:
        curve = few_shot_curve(task, folds, options, lambda drawn, shots: _few(task, drawn, grid, shots, options))
        result |= {"shots": curve.points, "notes": [*result["notes"], *curve.notes, *_few_notes(options, grid)]}
    if out:
        write_results(out, result, predictions, curve)
    said = f"chosen by {options.inner_folds} inner folds within train: {grid.say(chosen)}"
    seen = contamination.lines(result["contamination"], options.split)
    return Report(page(result, ["", said, *curve_text(result), *seen]), result)


def _few(task: Task, folds: list[Fold], grid: Grid, shots: int, options: LinearOptions) -> Predictions:
    """Predictions of a few-shot draw; no more inner folds than patients per class."""
    fitted = fit_folds(task, folds, grid, min(options.inner_folds, shots), options.seed)
    return collect(task, folds, [fit.probabilities for fit in fitted], options.seed)


def _few_notes(options: LinearOptions, grid: Grid) -> list[str]:
    if min(options.shots) > 1:
        return []
    return [f"--shots 1 leaves no patient to choose by: {grid.say([grid.unchosen])} is taken"]


def fit_folds(task: Task, folds: Sequence[Fold], grid: Grid, inner_folds: int, seed: int) -> list[Fitted]:
    """Choose from the grid on each fold's training images alone, refit on all of them, predict its test images once.

    With one inner fold nothing is chosen: ``grid.unchosen`` is taken.
    """
    steps = len(folds) * (inner_folds + 1 if inner_folds > 1 else 1)
    with tqdm(total=steps, desc="linear", unit="fit", disable=None, leave=False) as bar:
        return [_fit_fold(task, fold, grid, inner_folds, seed, bar) for fold in folds]


def _fit_fold(task: Task, fold: Fold, grid: Grid, inner_folds: int, seed: int, bar: tqdm) -> Fitted:
    train = task.subset(fold.train)
    best, score = grid.unchosen, None
    if inner_folds > 1:
        scores = inner_scores(train, grid, inner_folds, seed, bar)
        # Of equally good classifiers the mildest: argmax takes the first.
        best = int(scores.argmax())
        score = float(scores[best])
    predict = grid.fit(train.features, train.labels, len(task.classes), only=best)
    bar.update()
    return Fitted(predict(task.features[fold.test])[0], best, score)


def inner_scores(train: Task, grid: Grid, inner_folds: int, seed: int, bar: tqdm | None = None) -> np.ndarray:
    """Balanced accuracy of each classifier ``(P,)`` over pooled out-of-fold predictions of patient-grouped folds.

    Each is fitted, and its features standardised, on the inner fold's training part alone.
    """
    guesses = np.empty((len(grid), len(train.labels)), dtype=np.int64)
    where = f"{train.where}, --inner-folds within the training patients"
    parts = stratified_group_folds(train.labels, train.groups, inner_folds, seed, where)
    for fit, held in _counted(parts, bar):
        predict = grid.fit(train.features[fit], train.labels[fit], len(train.classes))
        guesses[:, held] = predict(train.features[held]).argmax(2)
    present = np.unique(train.labels)
    return np.mean([(guesses[:, train.labels == label] == label).mean(1) for label in present], axis=0)


def _counted(parts: Iterable, bar: tqdm | None) -> Iterable:
    for part in parts:
        yield part
        if bar is not None:
            bar.update()
