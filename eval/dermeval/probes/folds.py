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
    """The official split as one fold, or ``folds`` patient-grouped folds over all images.

    Raises:
        InputError: the split lacks a side, shares patients between sides, has one class on a side, or there are too
            few patients.
    """
    made = [official(task)] if split == "official" else grouped(task, folds, seed)
    for fold in made:
        check_disjoint(task.groups, fold, task.where, task.unit)
    check_learnable(task, made)
    return made


def official(task: Task) -> Fold:
    """Fit on split train and val, score test; images without a split are used for neither."""
    split = task.frame["split"]
    train, test = np.flatnonzero(split.isin(["train", "val"])), np.flatnonzero(split == "test")
    for rows, side in ((train, "train"), (test, "test")):
        if not len(rows):
            raise InputError(f"{task.where}: no labelled image has split {side}: use --split folds")
    return Fold(0, train, test)


def grouped(task: Task, folds: int, seed: int) -> list[Fold]:
    """Patient-grouped, class-stratified folds; every image is scored exactly once."""
    parts = stratified_group_folds(task.labels, task.groups, folds, seed, task.where, task.unit)
    return [Fold(number, train, test) for number, (train, test) in enumerate(parts)]


def stratified_group_folds(
    labels: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    folds: int,
    seed: int,
    where: str = "",
    unit: str = "patient",
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row indices (fit, score) of each fold, by scikit-learn's StratifiedGroupKFold, shuffled by ``seed``.

    Raises:
        InputError: fewer than two folds, or fewer patients than folds.
    """
    patients = len(set(groups))
    if not 2 <= folds <= patients:
        raise InputError(f"{where}: {folds} folds of {patients} {unit}s are not possible; ask for 2 to {patients}")
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
    return parts


def check_disjoint(groups: np.ndarray, fold: Fold, where: str, unit: str = "patient") -> None:
    """Raise InputError naming patients (or what ``unit`` says) that are on both sides of ``fold``."""
    shared = sorted(set(groups[fold.train]) & set(groups[fold.test]))
    if shared:
        shown = ", ".join(shared[:5]) + (" ..." if len(shared) > 5 else "")
        raise InputError(
            f"{where}: {len(shared)} {unit}s are in both train and test ({shown}): correct the split, or use "
            "--split folds"
        )


def check_learnable(task: Task, folds: Sequence[Fold]) -> None:
    """Raise InputError where the images to fit, or all images to score, have one class: nothing is then measured."""
    remedy = "correct the split, or use --split folds" if len(folds) == 1 else "ask for fewer folds"
    sides = [("fitted", fold.train) for fold in folds] + [("scored", np.concatenate([fold.test for fold in folds]))]
    for side, rows in sides:
        if len(np.unique(task.labels[rows])) < 2:
            only = task.classes[task.labels[rows[0]]]
            raise InputError(f"{task.where}: all {len(rows)} {side} images have '{task.name}' = {only}: {remedy}")


def missing_classes(task: Task, folds: Sequence[Fold]) -> list[str]:
    """Notes on classes that a fold's training or scored images lack."""
    notes = []
    present = set(np.unique(task.labels))
    for side in ("train", "test"):
        lacking: dict[int, list[int]] = {}
        for fold in folds:
            for label in present - set(task.labels[getattr(fold, side)]):
                lacking.setdefault(int(label), []).append(fold.number)
        for label, numbers in sorted(lacking.items()):
            where = "the " if len(folds) == 1 else f"fold {', '.join(map(str, numbers))}: the "
            words = "cannot be predicted there" if side == "train" else "is left out of macro averages"
            if side == "train" or len(folds) == 1:
                notes.append(f"{where}{side} images lack class {task.classes[label]}, which {words}")
    return notes
