"""``dermeval knn``: the weighted vote of the nearest neighbours (Caron et al. 2021, section 4.1) and the majority's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dermeval.probes.folds import Fold
from dermeval.probes.judge import Fitted
from dermeval.probes.options import KnnOptions
from dermeval.probes.predictions import Predictions, collect
from dermeval.probes.results import probe_report
from dermeval.probes.task import Task, open_task
from dermeval.statistics.bootstrap import cluster_codes
from dermeval.statistics.scorer import Scorer
from dermssl import neighbours
from dermssl.commandline import Report

HEADLINE = 20
MAJORITY = math.inf
"""The temperature at which all neighbours weigh the same: the majority vote."""


def knn(options: KnnOptions) -> Report:
    """Judge features by their neighbours; see `KnnOptions`.

    Raises:
        InputError: unusable embeddings, target, split or output folder.
    """
    task = open_task(options.embeddings, options.target)
    return probe_report(KnnProbe(options), task, options, options.embeddings, options.recall)


@dataclass(frozen=True)
class KnnProbe:
    """The weighted vote for every k; the headline is what is scored in full."""

    options: KnnOptions
    name: str = "knn"

    def fit(self, task: Task, folds: Sequence[Fold]) -> Fitted:
        """Predictions of the headline k; the table of all k is in ``extra``."""
        temperature = self.options.temperature
        ks, headline, clipped = choose_ks(self.options.k, min(len(fold.train) for fold in folds))
        votes = predict_votes(task, folds, ks, (temperature, MAJORITY), self.options.seed)
        rows = [
            {"k": k}
            | _main_scores(votes[k, temperature], "", task)
            | _main_scores(votes[k, MAJORITY], "majority_", task)
            for k in ks
        ]
        table = pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3f}")
        head = f"image level by k (all else is the weighted vote with k = {headline}, T = {temperature:g})"
        settings = {"k": headline, "temperature": temperature}
        return Fitted(votes[headline, temperature], settings, tuple(clipped), (head, table, ""), {"by_k": rows})

    def few(self, task: Task, folds: Sequence[Fold], shots: int) -> Predictions:
        """Predictions of the headline k, clipped to the few training images."""
        _, k, _ = choose_ks(self.options.k, min(len(fold.train) for fold in folds))
        temperature = self.options.temperature
        return predict_votes(task, folds, [k], [temperature], self.options.seed)[k, temperature]


def choose_ks(asked: Sequence[int], train: int) -> tuple[list[int], int, list[str]]:
    """The ks to run (clipped to the ``train`` images, without repeats), the headline, and a note on clipping."""
    headline = min(HEADLINE if HEADLINE in asked else asked[0], train)
    too_large = [str(k) for k in sorted(set(asked)) if k > train]
    notes = [f"k = {', '.join(too_large)} exceeds the {train} training images and is clipped"] if too_large else []
    return sorted({min(k, train) for k in asked}), headline, notes


def predict_votes(
    task: Task, folds: Sequence[Fold], ks: Sequence[int], temperatures: Sequence[float], seed: int
) -> dict[tuple[int, float], Predictions]:
    """The predictions for every k and temperature; the neighbours are searched once, for the largest k."""
    x, y = task.features, task.labels
    found = [
        neighbours.knn_votes(x[fold.test], x[fold.train], y[fold.train], len(task.classes), ks, temperatures)
        for fold in folds
    ]
    return {
        (k, t): collect(task, folds, [votes.probabilities[k, t] for votes in found], seed)
        for k in ks
        for t in temperatures
    }


def _main_scores(predictions: Predictions, prefix: str, task: Task) -> dict[str, Any]:
    scorer = Scorer(predictions.truth, predictions.probabilities, cluster_codes(predictions.groups), task.positive)
    point = scorer.point()
    return {prefix + name: float(point[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
