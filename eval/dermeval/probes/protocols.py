"""The experiments that a data set's protocol consists of, as rows to fit and rows to score.

PASSION (Gottfrois et al., MICCAI 2024): TRAIN/TEST as published; grouped folds on TRAIN; and generalisation to a
centre (Madagascar, Guinea, East Africa) or an age group (up to 16, above) that was not in training. Beside each of
these stands a sample of all of TRAIN with as many patients. TEST is scored, never chosen on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermeval.probes.folds import Fold, check_disjoint, check_learnable, grouped, official, stratified_group_folds
from dermeval.probes.task import Task
from dermeval.statistics.bootstrap import MIN_PATIENTS
from dermssl.errors import InputError

PROTOCOL_TARGETS = {
    "passion": ("condition", "impetigo"),
    "ham10000": ("dx",),
    "pad_ufes_20": ("diagnostic",),
}
ADULT_FROM = 16
AGE_BANDS = ((0, 16), (16, 40), (40, 65), (65, np.inf))


@dataclass(frozen=True)
class Experiment:
    """What is fitted and scored. ``control`` fits a size-matched sample instead and scores the same images."""

    name: str
    folds: list[Fold]
    control: list[Fold] | None = None


def experiments(protocol: str, task: Task, folds: int, seed: int) -> tuple[list[Experiment], list[str]]:
    """The experiments of ``protocol`` on ``task``, and notes on those that the data cannot support.

    Raises:
        InputError: the protocol needs a split that the data lacks, or patients straddle sides.
    """
    if protocol == "passion":
        made, notes = _passion(task, folds, seed)
    elif protocol == "generic" and (task.frame["split"] == "test").any():
        made, notes = [Experiment(task.split_origin, [official(task)])], []
    else:
        made, notes = [Experiment(f"{folds} folds", grouped(task, folds, seed))], []
    for experiment in made:
        for fold in [*experiment.folds, *(experiment.control or [])]:
            check_disjoint(task.groups, fold, task.where, task.unit)
        check_learnable(task, experiment.folds)
    return made, notes


def _passion(task: Task, folds: int, seed: int) -> tuple[list[Experiment], list[str]]:
    made = [Experiment("official split", [official(task)]), train_folds(task, folds, seed)]
    notes = []
    if "centre" not in task.frame:
        raise InputError(f"{task.where}: no column 'centre': prepare the data with --source passion")
    ages = age_groups(task.frame["age"])
    for column, values in (("centre", task.frame["centre"].to_numpy(dtype=object)), ("age", ages)):
        for value in sorted({value for value in values if isinstance(value, str)}):
            experiment, problem = unseen(task, column, value, values, seed)
            made += [experiment] if experiment else []
            notes += [problem] if problem else []
    return made, notes


def train_folds(task: Task, folds: int, seed: int) -> Experiment:
    """Grouped folds over the rows of split train.

    The splitter numbers the train rows 0, 1, ... They are translated back to rows of the task, as test rows may lie in
    between.
    """
    rows = np.flatnonzero(task.frame["split"].isin(["train", "val"]))
    parts = stratified_group_folds(task.labels[rows], task.groups[rows], folds, seed, task.where)
    made = [Fold(number, rows[fit], rows[held]) for number, (fit, held) in enumerate(parts)]
    return Experiment(f"{folds} folds within train", made)


def unseen(task: Task, column: str, value: str, values: np.ndarray, seed: int) -> tuple[Experiment | None, str | None]:
    """Train without ``value`` of ``column``, test on it; the control trains on as many patients of every kind.

    Images whose ``values`` entry is null are in neither. Returns a note instead where there are too few patients.
    """
    base = official(task)
    known = np.array([isinstance(entry, str) for entry in values])
    inside = values == value
    train, test = base.train[known[base.train] & ~inside[base.train]], base.test[inside[base.test]]
    name = f"unseen {column} {value}"
    few = min(len(set(task.groups[train])), len(set(task.groups[test]))) < MIN_PATIENTS
    if few or min(len(np.unique(task.labels[rows])) for rows in (train, test)) < 2:
        return None, f"{name} is not run: fewer than {MIN_PATIENTS} patients or two classes on one side"
    sample = matched_sample(task.groups, base.train, len(set(task.groups[train])), seed)
    if len(np.unique(task.labels[sample])) < 2:
        return None, f"{name} is not run: its size-matched sample has one class"
    return Experiment(name, [Fold(0, train, test)], [Fold(0, sample, test)]), None


def matched_sample(groups: np.ndarray, rows: np.ndarray, patients: int, seed: int) -> np.ndarray:
    """Those of ``rows`` that belong to ``patients`` patients drawn at random from all of ``rows``."""
    names = sorted(set(groups[rows]))
    chosen = np.random.default_rng(seed).choice(len(names), patients, replace=False)
    return rows[np.isin(groups[rows], [names[index] for index in chosen])]


def age_groups(ages: pd.Series) -> np.ndarray:
    """``<=16``, ``>16`` or None for each age in years."""
    return _cut(ages, ((0, ADULT_FROM), (ADULT_FROM, np.inf)))


def age_bands(ages: pd.Series) -> np.ndarray:
    """``<=16``, ``17-40``, ``41-65``, ``>65`` or None for each age in years."""
    return _cut(ages, AGE_BANDS)


def _cut(ages: pd.Series, bands: Sequence[tuple[float, float]]) -> np.ndarray:
    named = np.full(len(ages), None, dtype=object)
    years = ages.to_numpy(dtype=float)
    for low, high in bands:
        name = f"<={high:g}" if low == 0 else f">{low:g}" if np.isinf(high) else f"{low + 1:g}-{high:g}"
        named[(years <= high) & ((years > low) | (low == 0))] = name
    return named
