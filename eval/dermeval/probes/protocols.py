"""The experiments of a data set's protocol, as rows to fit and rows to score.

PASSION (Gottfrois et al., MICCAI 2024): train and test as published; grouped folds within train; and generalisation to
a centre (Madagascar, Guinea, East Africa) or an age group (up to 16, above 16) that was left out of training. The
control for the latter trains on as many patients, drawn from all of train. Test is scored; it never decides a choice.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermeval.probes.folds import Fold, check_folds, grouped, left_out_of, official, without_copies
from dermeval.probes.task import Task
from dermeval.statistics.bootstrap import MIN_PATIENTS
from dermssl.errors import InputError

PROTOCOL_TARGETS = {"passion": ("condition", "impetigo"), "ham10000": ("dx",), "pad_ufes_20": ("diagnostic",)}
LAST_CHILD_AGE = 16


@dataclass(frozen=True)
class Experiment:
    """What is fitted and scored. ``control`` scores the same images, but fits a size-matched sample."""

    name: str
    folds: list[Fold]
    control: list[Fold] | None = None


def experiments(protocol: str, task: Task, folds: int, seed: int) -> tuple[list[Experiment], list[str]]:
    """The experiments of ``protocol`` on ``task``, and notes on those that the data cannot support.

    InputError where the data lacks a split or column that the protocol needs, or where a split shares patients.
    """
    if protocol == "passion":
        made, notes = _passion(task, folds, seed)
    elif protocol == "generic" and (task.frame["split"] == "test").any():
        fold = without_copies(task, official(task))
        made, notes = [Experiment(task.split_origin, [fold])], left_out_of(task, fold)
    else:
        made, notes = [Experiment(f"{folds} folds", grouped(task, folds, seed))], []
    for experiment in made:
        check_folds(task, experiment.folds)
    return made, notes


def _passion(task: Task, folds: int, seed: int) -> tuple[list[Experiment], list[str]]:
    published = official(task)
    made, notes = [Experiment(task.split_origin, [published])], left_out_of(task, published)
    within = f"{folds} folds within train"
    try:
        made.append(Experiment(within, grouped(task, folds, seed, published.train)))
        check_folds(task, made[-1].folds)
    except InputError as problem:
        made, notes = made[:1], [*notes, f"not run: {within} ({problem})"]
    if "centre" not in task.frame:
        raise InputError(f"{task.where}: no column 'centre': prepare the data with --source passion")
    ages, centres = age_bands(task.frame["age"], (LAST_CHILD_AGE,)), task.frame["centre"].to_numpy(dtype=object)
    left_out: dict[str, list[str]] = {}
    for column, values in (("centre", centres), ("age", ages)):
        for value in sorted({value for value in values if isinstance(value, str)}):
            name = f"unseen {column} {value}"
            found = _unseen(task, published, values, value, name, seed)
            if isinstance(found, str):
                left_out.setdefault(found, []).append(name)
            else:
                made.append(found)
    return made, [*notes, *(f"not run: {', '.join(names)} ({reason})" for reason, names in left_out.items())]


def _unseen(task: Task, base: Fold, values: np.ndarray, value: str, name: str, seed: int) -> Experiment | str:
    """Train on ``base`` without the images of ``value``, and test on these; the control trains on as many patients.

    Images whose entry in ``values`` is null are left out. Returns a reason instead where there are too few patients.
    """
    known = np.array([isinstance(entry, str) for entry in values])
    inside = values == value
    train, test = base.train[known[base.train] & ~inside[base.train]], base.test[inside[base.test]]
    few = min(len(set(task.groups[train])), len(set(task.groups[test]))) < MIN_PATIENTS
    if few or min(len(np.unique(task.labels[rows])) for rows in (train, test)) < 2:
        return f"train or test has fewer than {MIN_PATIENTS} patients, or a single class"
    sample = matched_sample(task.groups, base.train, len(set(task.groups[train])), seed)
    if len(np.unique(task.labels[sample])) < 2:
        return "its size-matched sample has a single class"
    return Experiment(name, [Fold(0, train, test)], [Fold(0, sample, test)])


def matched_sample(groups: np.ndarray, rows: np.ndarray, patients: int, seed: int) -> np.ndarray:
    """The rows of as many randomly drawn ``patients``, out of ``rows``."""
    chosen = np.random.default_rng(seed).choice(sorted(set(groups[rows])), patients, replace=False)
    return rows[np.isin(groups[rows], chosen)]


def age_bands(ages: pd.Series, ends: Sequence[int] = (16, 40, 65)) -> np.ndarray:
    """The band of each age in years: ``<=16``, ``17-40``, ``41-65``, ``>65``; None where it is not known."""
    names = [f"<={ends[0]}", *(f"{low + 1}-{high}" for low, high in itertools.pairwise(ends)), f">{ends[-1]}"]
    found = pd.cut(ages.astype(float), [-np.inf, *ends, np.inf], labels=names).astype(object)
    return found.where(found.notna(), None).to_numpy()
