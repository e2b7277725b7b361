"""Few-shot curves: how scores grow with the number of training patients per class.

Patients are drawn, not images: n patients of each class, with all their training images of that class. The test
images stay the same. A draw's patients for a smaller n are among those for a larger one, so that a curve is not
shaken by new patients at every point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from dermeval.pages.plots import few_shot_plot
from dermeval.probes.folds import Fold
from dermeval.probes.intervals import interval_json, show
from dermeval.probes.judge import Probe
from dermeval.probes.options import ProbeOptions
from dermeval.probes.predictions import Predictions, by_case
from dermeval.probes.task import Task
from dermeval.statistics.bootstrap import bootstrap_runs
from dermssl.atomic import atomic_file
from dermssl.errors import InputError

SCORES = ("balanced_accuracy", "macro_f1", "macro_auroc", "auroc")


@dataclass(frozen=True)
class Curve:
    """``points``: per n the entry of ``result.json``; ``predictions``: per n those of each draw."""

    points: list[dict[str, Any]]
    predictions: dict[int, list[Predictions]]
    notes: list[str]

    def table_with(self, full: Predictions) -> pa.Table:
        """Predictions from all patients (``shots`` null) and those of every draw (its number as ``seed``)."""
        tables = [full.to_frame().assign(shots=None)]
        for shots, runs in self.predictions.items():
            tables += [run.to_frame().assign(shots=shots, seed=draw) for draw, run in enumerate(runs)]
        joined = pd.concat(tables, ignore_index=True).astype({"shots": "Int32"})
        return pa.Table.from_pandas(joined, preserve_index=False)

    def draw(self, path: Path, result: dict[str, Any]) -> None:
        """Plot the curve of ``result`` as PNG."""
        with atomic_file(path) as temporary:
            figure = few_shot_plot(self.points, result)
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def few_shot_curve(task: Task, folds: Sequence[Fold], options: ProbeOptions, probe: Probe) -> Curve:
    """Fit and score ``options.shot_draws`` draws of each of ``options.shots`` patients per class.

    Raises:
        InputError: more patients are asked for than any class has.
    """
    asked = sorted(set(options.shots))
    notes = _scarce(task, folds, asked)
    points, predictions = [], {}
    for shots in asked:
        runs, fitted = [], 0.0
        for draw in tqdm(range(options.shot_draws), f"{shots} per class", unit="draw", disable=None, leave=False):
            drawn = [
                Fold(fold.number, draw_of_each_class(task, fold, shots, [options.seed, draw]), fold.test)
                for fold in folds
            ]
            fitted += np.mean([len(fold.train) for fold in drawn]) / options.shot_draws
            runs.append(probe.fit(task, drawn, shots).predictions)
        predictions[shots] = runs
        points.append({"shots": shots, "draws": len(runs), "fitted": float(fitted), **_score(task, runs, options)})
    return Curve(points, predictions, notes)


def draw_of_each_class(task: Task, fold: Fold, shots: int | dict[int, int], seed: Sequence[int]) -> np.ndarray:
    """Training rows of ``shots`` random patients of each class (or so many by class), or of all where there are fewer.

    A patient with images of two classes can be drawn for either; only the images of that class then count.
    """
    groups, labels = task.groups[fold.train], task.labels[fold.train]
    chosen = np.zeros(len(groups), dtype=bool)
    for label in np.unique(labels):
        random = np.random.default_rng([*seed, fold.number, int(label)])
        patients = random.permutation(sorted(set(groups[labels == label])))
        chosen |= (labels == label) & np.isin(
            groups, patients[: shots[int(label)] if isinstance(shots, dict) else shots]
        )
    return fold.train[chosen]


def _scarce(task: Task, folds: Sequence[Fold], asked: Sequence[int]) -> list[str]:
    """Notes on classes with fewer training patients than asked for."""
    fewest = {}
    for label in np.unique(task.labels):
        held = [len(set(task.groups[fold.train][task.labels[fold.train] == label])) for fold in folds]
        fewest[task.classes[label]] = min(held)
    most, group = max(fewest.values()), task.unit
    if asked[-1] > most:
        raise InputError(f"{task.where}: --shots {asked[-1]}: no class has more than {most} training {group}s")
    return [
        f"class {name} has {patients} training {group}s, so it has fewer than the others from --shots {too_many[0]} on"
        for name, patients in fewest.items()
        if (too_many := [shots for shots in asked if shots > patients])
    ]


def _score(task: Task, runs: list[Predictions], options: ProbeOptions) -> dict[str, Any]:
    scored: dict[str, Any] = {}
    for level, found in {"image": runs, "case": [by_case(run)[0] for run in runs]}.items():
        first, probabilities = found[0], [run.probabilities for run in found]
        if len(np.unique(first.truth)) > 1:
            scores = bootstrap_runs(
                first.truth, probabilities, first.groups, task.positive, options.draws, options.seed
            )
            scored[level] = {name: interval_json(scores[name]) for name in SCORES if name in scores}
    return scored


def curve_text(points: list[dict[str, Any]], group: str) -> list[str]:
    """The curve as a table, with how its intervals came about; nothing where there is none."""
    if not points:
        return []
    rows = []
    for point in points:
        row = {f"{group}s per class": point["shots"], "images fitted": f"{point['fitted']:.0f}"}
        for level in (level for level in ("image", "case") if level in point):
            row |= {f"{name} ({level})": show(point[level][name]) for name in ("balanced_accuracy", "macro_f1")}
        rows.append(row)
    head = (
        f"few-shot: mean of {points[0]['draws']} draws of training {group}s, 95% intervals over draws and test {group}s"
    )
    return ["", head, pd.DataFrame(rows).to_string(index=False)]
