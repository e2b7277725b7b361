"""``dermeval knn``: the weighted vote of the nearest neighbours (Caron et al. 2021, section 4.1), or their majority."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dermeval.probes.folds import Fold, grouped
from dermeval.probes.judge import Fitted
from dermeval.probes.options import KnnOptions
from dermeval.probes.predictions import collect
from dermeval.probes.probe_report import probe_report
from dermeval.probes.task import Task, open_task
from dermeval.statistics.metrics import Scorer, balanced_accuracy
from dermssl import neighbours
from dermssl.commandline import Report
from dermssl.errors import InputError

HEADLINE = 20
INNER = 5
MAJORITY = math.inf
"""The temperature at which all neighbours have the same weight: the majority vote."""


def knn(options: KnnOptions) -> Report:
    """Judge features by their nearest neighbours; see `KnnOptions`. Bad input raises InputError."""
    if options.choose_k and len(set(options.k)) == 1:
        raise InputError("--choose-k has a single --k, which leaves no choice: give several, or leave --choose-k out")
    task = open_task(options.embeddings, options.target)
    return probe_report(KnnProbe(options), task, options, options.embeddings, options.recall)


@dataclass
class KnnProbe:
    """The weighted vote for every k. That of the headline k is scored in full."""

    options: KnnOptions
    name: str = "knn"

    def fit(self, task: Task, folds: Sequence[Fold], shots: int | None = None) -> Fitted:
        """Predictions of the headline k; ``extra`` has the scores of all k. With few ``shots`` no k is chosen."""
        options, temperature = self.options, self.options.temperature
        choose = options.choose_k and shots is None
        most = min(len(fold.train) for fold in folds)
        ks = sorted({min(k, most) for k in options.k})
        headline = min(HEADLINE if HEADLINE in options.k else options.k[0], most)
        large = ", ".join(str(k) for k in sorted(set(options.k)) if k > most)
        notes = [f"k = {large} is more than the {most} training images, so {most} is taken"] if large else []
        votes = [_votes(task, fold, ks, (temperature, MAJORITY), options) for fold in folds]
        truth = task.labels[np.concatenate([fold.test for fold in folds])]
        rows = []
        for k in ks:
            weighted, majority = (np.concatenate([own[k, t] for own in votes]) for t in (temperature, MAJORITY))
            rows.append({"k": k} | _main_scores(truth, weighted, "") | _main_scores(truth, majority, "majority_"))
        chosen = [_best_k(task, fold, ks, options) if choose else headline for fold in folds]
        found = [own[k, temperature] for own, k in zip(votes, chosen, strict=True)]
        variant = {"space": options.space, "votes": options.votes, "choose_k": choose}
        changed = [f"{name} {value}" for name, value in variant.items() if value not in ("raw", "weighted", False)]
        said = "/".join(map(str, chosen)) if choose else headline
        how = ", ".join([f"k = {said}", f"T = {temperature:g}", *changed])
        head = f"image level by k (all other scores are those of the weighted vote with {how})"
        table = pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3f}")
        settings = {"k": chosen if choose else headline, "temperature": temperature} | (variant if changed else {})
        predictions = collect(task, folds, found, options.seed)
        return Fitted(predictions, settings, notes, (head, table, ""), {"by_k": rows})


def _votes(
    task: Task, fold: Fold, ks: Sequence[int], temperatures: Sequence[float], options: KnnOptions
) -> dict[tuple[int, float], np.ndarray]:
    """Probabilities ``(N, C)`` of a fold's test images by k and temperature, from one search for neighbours."""
    y, space = task.labels[fold.train], feature_space(task.features[fold.train], options.space)
    train, test = space(task.features[fold.train]), space(task.features[fold.test])
    found = neighbours.knn_votes(test, train, y, len(task.classes), ks, temperatures).probabilities
    if options.votes == "balanced":
        weight = 1 / np.maximum(np.bincount(y, minlength=len(task.classes)), 1)
        found = {key: (own * weight) / (own * weight).sum(1, keepdims=True) for key, own in found.items()}
    return found


def feature_space(train: np.ndarray, space: str) -> Callable[[np.ndarray], np.ndarray]:
    """How features are changed before the cosine, as measured on the ``train`` features ``(N, D)``.

    ``centred`` subtracts the mean. ``whitened`` also rotates and scales to uncorrelated directions of equal variance.
    A direction with less than a thousandth of the mean variance is scaled as if it had a thousandth.
    """
    if space == "raw":
        return lambda rows: rows
    mean = train.mean(0, dtype=np.float64)
    if space == "centred":
        return lambda rows: rows - mean
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(train.astype(np.float64) - mean, rowvar=False)))
    scale = 1 / np.sqrt(np.maximum(variances, 1e-3 * variances.mean() or 1))
    return lambda rows: (rows - mean) @ directions * scale


def _best_k(task: Task, fold: Fold, ks: Sequence[int], options: KnnOptions) -> int:
    """The k of the best balanced accuracy over patient-grouped folds within the training images."""
    where, t = f"{task.where}, --choose-k within the training {task.unit}s", options.temperature
    inner = grouped(task, INNER, options.seed, fold.train, where)
    usable = [k for k in ks if k <= min(len(one.train) for one in inner)] or [min(ks)]
    votes = [_votes(task, one, usable, [t], options) for one in inner]
    truth = task.labels[np.concatenate([one.test for one in inner])]
    guesses = {k: np.concatenate([own[k, t].argmax(1) for own in votes]) for k in usable}
    return max(usable, key=lambda k: balanced_accuracy(truth, guesses[k]))


def _main_scores(truth: np.ndarray, probabilities: np.ndarray, prefix: str) -> dict[str, Any]:
    point = Scorer(truth, probabilities, np.zeros(len(truth), int)).point()
    return {prefix + name: float(point[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
