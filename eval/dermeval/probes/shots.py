"""Few-shot curves: scores by the number of training patients per class.

A draw takes n patients of each class, with all their training images of that class. The test images stay the same. The
patients of a draw for a smaller n are among its patients for a larger n, so that chance moves a curve less.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from dermeval.pages.tables import show
from dermeval.probes.folds import Fold
from dermeval.probes.judge import Probe
from dermeval.probes.options import ProbeOptions
from dermeval.probes.predictions import by_case, paired_scores
from dermeval.probes.task import Task
from dermssl.errors import InputError, counted

SCORES = ("balanced_accuracy", "macro_f1", "macro_auroc", "auroc")


def few_shot_curve(
    task: Task, folds: Sequence[Fold], options: ProbeOptions, probe: Probe
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Fit and score ``options.shot_draws`` draws for each number of patients per class in ``options.shots``.

    Returns the entry of ``result.json`` for each number, and the predictions of every draw, whose number is ``seed``.
    """
    points: list[dict[str, Any]] = []
    predictions = []
    for shots in sorted(set(options.shots)):
        runs, fitted = [], 0.0
        for draw in tqdm(range(options.shot_draws), f"{shots} per class", unit="draw", disable=None, leave=False):
            drawn = draw_of_each_class(task, folds, shots, [options.seed, draw])
            fitted += np.mean([len(fold.train) for fold in drawn]) / options.shot_draws
            runs.append(probe.fit(task, drawn, shots).predictions)
            predictions.append(runs[-1].to_frame().assign(shots=shots, seed=draw))
        points.append({"shots": shots, "draws": len(runs), "fitted": float(fitted)})
        for level, found in {"image": runs, "case": [by_case(run)[0] for run in runs]}.items():
            if len(np.unique(found[0].truth)) > 1:
                (own,) = paired_scores([found], options.draws, options.seed, draw_seeds=True)
                points[-1][level] = {name: own.scores[name].entry() for name in SCORES if name in own.scores}
    return points, pd.concat(predictions)


def draw_of_each_class(
    task: Task, folds: Sequence[Fold], shots: int | dict[int, int], seed: Sequence[int]
) -> list[Fold]:
    """The folds with the training rows of ``shots`` random patients of each class; ``shots`` may differ by class.

    A class with fewer patients gives all of them. A patient drawn for a class gives only the images of that class.
    """
    drawn = []
    for fold in folds:
        groups, labels = task.groups[fold.train], task.labels[fold.train]
        chosen = np.zeros(len(groups), dtype=bool)
        for label in np.unique(labels):
            random = np.random.default_rng([*seed, fold.number, int(label)])
            patients = random.permutation(sorted(set(groups[labels == label])))
            number = shots[int(label)] if isinstance(shots, dict) else shots
            chosen |= (labels == label) & np.isin(groups, patients[:number])
        drawn.append(replace(fold, train=fold.train[chosen]))
    return drawn


def fewest_patients(task: Task, folds: Sequence[Fold]) -> list[int]:
    """For each class the number of its training patients, in the fold with the fewest."""
    held = [pd.Series(task.groups[fold.train]).groupby(task.labels[fold.train]).nunique() for fold in folds]
    return pd.concat(held, axis=1).reindex(range(len(task.classes))).fillna(0).min(axis=1).astype(int).tolist()


def scarce_classes(task: Task, folds: Sequence[Fold], asked: Sequence[int]) -> list[str]:
    """Notes on classes with fewer training patients than ``asked`` for; InputError where all classes have fewer."""
    fewest, group = fewest_patients(task, folds), task.unit
    if max(asked) > max(fewest):
        raise InputError(f"{task.where}: --shots {max(asked)}: no class has more than {max(fewest)} training {group}s")
    return [
        f"class {task.classes[label]} has {counted(patients, f'training {group}')}, all of which are drawn "
        f"from --shots {min(shots for shots in asked if shots > patients)} on"
        for label, patients in enumerate(fewest)
        if label in task.labels and patients < max(asked)
    ]


def curve_text(points: list[dict[str, Any]], group: str) -> list[str]:
    """The curve as a table, and what its intervals cover; nothing for a curve without ``points``."""
    if not points:
        return []
    rows = []
    for point in points:
        row = {f"{group}s per class": point["shots"], "images fitted": f"{point['fitted']:.0f}"}
        for level in (level for level in ("image", "case") if level in point):
            row |= {f"{name} ({level})": show(point[level][name]) for name in ("balanced_accuracy", "macro_f1")}
        rows.append(row)
    drawn, over = f"mean of {points[0]['draws']} draws of training {group}s", f"draws and test {group}s"
    if points[0]["draws"] == 1:
        drawn, over = f"one draw of training {group}s", f"test {group}s only"
    head = f"few-shot: {drawn}, 95% intervals over {over}"
    return ["", head, pd.DataFrame(rows).to_string(index=False)]
