"""Which images are fitted and which are scored. A patient is never on both sides."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from dermeval.probes.task import Task
from dermssl.errors import InputError


@dataclass(frozen=True)
class Fold:
    """Row indices of a task: what is fitted and what is scored."""

    number: int
    train: np.ndarray
    test: np.ndarray


def make_folds(task: Task, split: str, folds: int, seed: int) -> list[Fold]:
    """The official split as one fold, or ``folds`` patient-grouped folds over all images; both are checked."""
    made = [official(task)] if split == "official" else grouped(task, folds, seed)
    check_folds(task, made)
    return made


def official(task: Task) -> Fold:
    """Fit on split train and val, score test; images without a split are used for neither."""
    split = task.frame["split"]
    train, test = np.flatnonzero(split.isin(["train", "val"])), np.flatnonzero(split == "test")
    for rows, side in ((train, "train"), (test, "test")):
        if not len(rows):
            raise InputError(f"{task.where}: no labelled image has split {side}: use --split folds")
    return Fold(0, train, test)


def grouped(task: Task, folds: int, seed: int, rows: np.ndarray | None = None, where: str = "") -> list[Fold]:
    """Patient-grouped, class-stratified folds of some ``rows`` (default: all), each of which is scored once.

    They are scikit-learn's StratifiedGroupKFold, shuffled by ``seed``. InputError, which begins with ``where``, for
    fewer than two folds, or more than patients.
    """
    rows, where = np.arange(len(task.labels)) if rows is None else rows, where or task.where
    labels, groups = task.labels[rows], task.groups[rows]
    patients = len(set(groups))
    if not 2 <= folds <= patients:
        raise InputError(f"{where}: {folds} folds of {patients} {task.unit}s are not possible; ask for 2 to {patients}")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            # Classes rarer than the folds are noted by the probes, in words that name them.
            warnings.simplefilter("ignore", UserWarning)
            parts = list(splitter.split(np.zeros(len(labels)), labels, groups))
    except ValueError as error:
        raise InputError(f"{where}: {folds} folds are not possible ({error}): ask for fewer") from None
    # With few large patients scikit-learn can leave a fold without any.
    if any(not len(train) or not len(test) for train, test in parts):
        raise InputError(f"{where}: {folds} folds leave one without images: ask for fewer")
    return [Fold(number, rows[train], rows[test]) for number, (train, test) in enumerate(parts)]


def check_folds(task: Task, folds: Sequence[Fold]) -> None:
    """Raise InputError where patients are fitted and scored, or one class is fitted or scored: nothing is measured."""
    for fold in folds:
        shared = sorted(set(task.groups[fold.train]) & set(task.groups[fold.test]))
        if shared:
            shown = ", ".join(shared[:5]) + (" ..." if len(shared) > 5 else "")
            raise InputError(
                f"{task.where}: {len(shared)} {task.unit}s are in both train and test ({shown}): correct the split, or "
                "use --split folds"
            )
    remedy = "correct the split, or use --split folds" if len(folds) == 1 else "ask for fewer folds"
    sides = [("fitted", fold.train) for fold in folds] + [("scored", np.concatenate([fold.test for fold in folds]))]
    for side, rows in sides:
        if len(np.unique(task.labels[rows])) < 2:
            only = task.classes[task.labels[rows[0]]]
            raise InputError(f"{task.where}: all {len(rows)} {side} images have '{task.name}' = {only}: {remedy}")


def missing_classes(task: Task, folds: Sequence[Fold]) -> list[str]:
    """Notes on classes that a fold's training or scored images lack."""
    notes, one = [], len(folds) == 1
    for side, words in (("train", "cannot be predicted there"), ("test", "is left out of macro averages")):
        for label in np.unique(task.labels):
            lacking = [str(fold.number) for fold in folds if label not in task.labels[getattr(fold, side)]]
            if lacking and (one or side == "train"):
                where = "the" if one else f"fold {', '.join(lacking)}: the"
                notes.append(f"{where} {side} images lack class {task.classes[label]}, which {words}")
    return notes
