"""``dermeval linear``: linear classifiers on frozen features; the training patients alone decide their settings."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from dermeval.probes.folds import Fold, grouped
from dermeval.probes.grids import GRID_ENDS, PenaltyGrid, Predict
from dermeval.probes.judge import Fitted
from dermeval.probes.options import LinearOptions
from dermeval.probes.predictions import collect
from dermeval.probes.probe_report import probe_report
from dermeval.probes.sgd import RATES, RateGrid
from dermeval.probes.task import Task, open_task
from dermeval.statistics.metrics import balanced_accuracy
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.parser import refuse_unused

SHARED_FROM = 5
"""With this many outer folds, the inner folds of a fold are the other outer folds, so that two folds share a fit."""
PAST_BEST = 0.005
"""Once two penalties in a row score this much balanced accuracy below the best, no weaker ones are tried."""
SGD_FROM = 100_000
"""From this many images on, ``--solver auto`` is SGD."""
Grid = PenaltyGrid | RateGrid
"""Both have the same methods."""


def linear(options: LinearOptions) -> Report:
    """Judge features by a linear classifier; see `LinearOptions`. Bad input raises InputError."""
    if options.inner_folds < 2:
        raise InputError("--inner-folds 1 leaves no patients to choose a classifier: give 2 or more")
    if options.c_values < 2:
        raise InputError("--c-values 1 leaves no choice of a penalty: give 2 or more")
    task = open_task(options.embeddings, options.target)
    return probe_report(LinearProbe(options), task, options, options.embeddings)


def make_grid(options: LinearOptions, images: int) -> Grid:
    """The grid that ``options`` ask for, given the number of ``images``. InputError for an option of the other grid."""
    if options.solver == "sgd" or (options.solver == "auto" and images >= SGD_FROM):
        refuse_unused(options, ["c_values"], "--solver lbfgs")
        return RateGrid(np.array(RATES), options.steps, options.batch, options.class_weight, options.seed)
    refuse_unused(options, ["steps", "batch"], "--solver sgd")
    return PenaltyGrid(np.logspace(*GRID_ENDS, options.c_values), options.class_weight)


@dataclass(frozen=True)
class Inner:
    """One inner fit: the rows to fit, and the rows to predict for each outer fold that it serves."""

    train: np.ndarray
    held: dict[int, np.ndarray]


@dataclass
class LinearProbe:
    """Chooses a classifier of the grid by folds within each fold's training patients, and refits it on all of them."""

    options: LinearOptions
    name: str = "linear"

    def fit(self, task: Task, folds: Sequence[Fold], shots: int | None = None) -> Fitted:
        """Predictions of every fold, with the chosen classifiers as settings.

        With few ``shots`` there are as many inner folds as shots. A single shot leaves no choice.
        """
        options = self.options
        grid = make_grid(options, len(task.labels))
        if shots is None:
            plan = inner_folds(task, folds, options.inner_folds, options.seed)
        else:
            number = min(options.inner_folds, shots)
            plan = list(_separate(task, folds, number, options.seed)) if shots > 1 else []
        chosen, scores = choose(task, plan, grid, len(folds)) if plan else ([grid.unchosen] * len(folds), [])
        found = []
        for fold, index in zip(tqdm(folds, desc="refit", unit="fold", disable=None, leave=False), chosen, strict=True):
            predict = grid.fits(task.features[fold.train], task.labels[fold.train], len(task.classes), final=True)
            found.append(predict(task.features[fold.test], [index])[0])
        number = sum(0 in inner.held for inner in plan)
        settings = grid.settings(chosen) | {"inner_folds": number, "inner_balanced_accuracy": scores}
        settings["class_weight"] = options.class_weight
        said = f"chosen by {number} inner folds within train: {grid.say(chosen)}"
        notes = grid.notes(chosen)
        if options.shots and min(options.shots) == 1:
            notes.append(f"--shots 1 leaves no {task.unit} for a choice: {grid.say([grid.unchosen])} is taken")
        return Fitted(collect(task, folds, found, options.seed), settings, notes, (said,))


def inner_folds(task: Task, folds: Sequence[Fold], number: int, seed: int) -> list[Inner]:
    """The fits that choose the classifier of each outer fold; none of them sees that fold's test rows.

    From `SHARED_FROM` outer folds on, if they are at least ``number`` and cover all rows, the inner folds of a fold are
    the other folds. The fit without folds i and j then predicts j for i and i for j, which halves the number of fits.
    Otherwise the training rows of each fold are cut into ``number`` grouped folds.
    """
    if len(folds) < max(SHARED_FROM, number) or sum(len(fold.test) for fold in folds) != len(task.labels):
        return list(_separate(task, folds, number, seed))
    tests, every = [fold.test for fold in folds], np.arange(len(task.labels))
    return [
        Inner(np.setdiff1d(every, np.r_[tests[one], tests[two]]), {one: tests[two], two: tests[one]})
        for one, two in itertools.combinations(range(len(folds)), 2)
    ]


def _separate(task: Task, folds: Sequence[Fold], number: int, seed: int) -> Iterator[Inner]:
    where = f"{task.where}, --inner-folds within the training {task.unit}s"
    for outer, fold in enumerate(folds):
        for inner in grouped(task, number, seed, fold.train, where):
            yield Inner(inner.train, {outer: inner.test})


def choose(task: Task, plan: Sequence[Inner], grid: Grid, folds: int) -> tuple[list[int], list[float]]:
    """The best classifier of each outer fold and its balanced accuracy over the predictions of all its inner folds.

    The grid's coarse classifiers are scored step by step, until two in a row score `PAST_BEST` below the best. Then
    those around the best are fitted finely, and the best of these is chosen, or the first of several equal ones.
    """
    tried: list[dict[int, float]] = [{} for _ in range(folds)]
    fits: dict[int, Predict] = {}

    def score(asked: Sequence[Sequence[int]], step: str, fine: bool = False) -> None:
        guesses: list[dict[int, list[np.ndarray]]] = [{} for _ in range(folds)]
        for number, inner in enumerate(tqdm(plan, desc=f"inner folds, {step}", unit="fit", disable=None, leave=False)):
            for outer, held in inner.held.items():
                if not asked[outer]:
                    continue
                if number not in fits:
                    fits[number] = grid.fits(task.features[inner.train], task.labels[inner.train], len(task.classes))
                probabilities = fits[number](task.features[held], asked[outer], fine)
                for index, guess in zip(asked[outer], probabilities.argmax(2), strict=True):
                    guesses[outer].setdefault(index, []).append(guess)
        for outer in range(folds):
            truth = task.labels[np.concatenate([inner.held[outer] for inner in plan if outer in inner.held])]
            for index, parts in guesses[outer].items():
                tried[outer][index] = balanced_accuracy(truth, np.concatenate(parts))

    coarse = grid.coarse()
    for number, step in enumerate(coarse):
        score([[] if _past_best(scores) else step for scores in tried], f"coarse {number + 1} of {len(coarse)}")
    finalists = [grid.around(scores) for scores in tried]
    score(finalists, "around the best", fine=True)
    chosen = [
        max(among or sorted(scores), key=scores.__getitem__) for among, scores in zip(finalists, tried, strict=True)
    ]
    return chosen, [scores[index] for scores, index in zip(tried, chosen, strict=True)]


def _past_best(scores: dict[int, float]) -> bool:
    last = [scores[index] for index in sorted(scores)[-2:]]
    return len(last) == 2 and max(last) < max(scores.values()) - PAST_BEST
