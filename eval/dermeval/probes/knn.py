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
from dermeval.probes.task import Task
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
    return probe_report(KnnProbe(options), options, options.recall)


@dataclass(frozen=True)
class KnnProbe:
    """The weighted vote for every k; the headline is what is scored in full."""

    options: KnnOptions

    @property
    def name(self) -> str:
        """As ``result.json`` calls it."""
        return "knn"

    def fit(self, task: Task, folds: Sequence[Fold]) -> Fitted:
        """Predictions of the headline k; the table of all k is in ``extra``."""
        temperature = self.options.temperature
        ks, headline, clipped = choose_ks(self.options.k, min(len(fold.train) for fold in folds))
        votes = predict_votes(task, folds, ks, (temperature, MAJORITY), self.options.seed)
        by_k, majority = (dict(zip(ks, found, strict=True)) for found in votes)
        rows = _by_k(by_k, majority, task)
        table = pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3f}")
        head = f"image level by k (all else is the weighted vote with k = {headline}, T = {temperature:g})"
        settings = {"k": headline, "temperature": temperature}
        return Fitted(by_k[headline], settings, tuple(clipped), (head, table, ""), {"by_k": rows})

    def few(self, task: Task, folds: Sequence[Fold], shots: int) -> Predictions:
        """Predictions of the headline k, clipped to the few training images."""
        _, k, _ = choose_ks(self.options.k, min(len(fold.train) for fold in folds))
        return predict_votes(task, folds, [k], [self.options.temperature], self.options.seed)[0][0]


def choose_ks(asked: Sequence[int], train: int) -> tuple[list[int], int, list[str]]:
    """The ks to run (clipped to the ``train`` images, without repeats), the headline, and a note on clipping."""
    headline = min(HEADLINE if HEADLINE in asked else asked[0], train)
    ks = sorted({min(k, train) for k in asked})
    too_large = [str(k) for k in sorted(set(asked)) if k > train]
    notes = [f"k = {', '.join(too_large)} exceeds the {train} training images and is clipped"] if too_large else []
    return ks, headline, notes


def predict_votes(
    task: Task, folds: Sequence[Fold], ks: Sequence[int], temperatures: Sequence[float], seed: int
) -> list[list[Predictions]]:
    """For each temperature the predictions of every k; the neighbours are searched once, for the largest."""
    found = [
        neighbours.knn_votes(
            task.features[fold.test],
            task.features[fold.train],
            task.labels[fold.train],
            len(task.classes),
            ks,
            temperatures,
        ).probabilities
        for fold in folds
    ]
    return [[collect(task, list(folds), [votes[k, t] for votes in found], seed) for k in ks] for t in temperatures]


def _by_k(by_k: dict[int, Predictions], majority: dict[int, Predictions], task: Task) -> list[dict[str, Any]]:
    """Scores of the weighted vote for each k, and those of the majority vote under ``majority_`` names."""
    rows = []
    for k in by_k:
        row: dict[str, Any] = {"k": k}
        for prefix, predictions in (("", by_k[k]), ("majority_", majority[k])):
            clusters = cluster_codes(predictions.frame["group_id"])
            point = Scorer(predictions.truth, predictions.probabilities, clusters, task.positive).point()
            row |= {prefix + name: float(point[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
        rows.append(row)
    return rows
