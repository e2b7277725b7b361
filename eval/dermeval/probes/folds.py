"""Which images are fitted and which are scored. No patient is both fitted and scored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dermeval.probes.task import Task
from dermssl.dataset.splits import group_folds
from dermssl.errors import InputError, counted

OTHER_SPLIT = "draw another split with `dermssl split`, or use --split folds (of knn, linear, finetune)"


@dataclass(frozen=True)
class Fold:
    """Row indices of a task: ``train`` rows are fitted, ``test`` rows are scored."""

    number: int
    train: np.ndarray
    test: np.ndarray


def make_folds(task: Task, split: str, folds: int, seed: int) -> list[Fold]:
    """The official split as one fold, or ``folds`` patient-grouped folds of all images; see `check_folds`."""
    made = [without_copies(task, official(task))] if split == "official" else grouped(task, folds, seed)
    check_folds(task, made)
    return made


def official(task: Task) -> Fold:
    """Fit on split train and val, and score split test. Images without a split are left out."""
    split = task.frame["split"]
    train, test = np.flatnonzero(split.isin(["train", "val"])), np.flatnonzero(split == "test")
    for rows, side in ((train, "train"), (test, "test")):
        if not len(rows):
            raise InputError(f"{task.where}: no labelled image has split {side}: {OTHER_SPLIT}")
    return Fold(0, train, test)


def without_copies(task: Task, fold: Fold) -> Fold:
    """``fold`` without the train images that have the pixels of a test image, since these tell the probe its label."""
    pixels = task.frame["pixel_sha256"]
    kept = fold.train[~pixels.iloc[fold.train].isin(pixels.iloc[fold.test]).to_numpy()]
    if not len(kept):
        raise InputError(f"{task.where}: every train image has the same pixels as a test image: {OTHER_SPLIT}")
    return replace(fold, train=kept)


def left_out_of(task: Task, fold: Fold) -> list[str]:
    """Notes on the labelled images of the official split that ``fold``, made of it, leaves out."""
    total, notes = len(task.frame), []
    if none := int(task.frame["split"].isna().sum()):
        notes.append(f"{none} of {total} labelled images have no split and are left out")
    if copies := total - none - len(fold.train) - len(fold.test):
        images = counted(copies, "copy of a test image", "copies of test images")
        notes.append(f"not fitted: {images} in train (the same pixels); mend the split with `dermeval leaks`")
    return notes


def grouped(task: Task, folds: int, seed: int, rows: np.ndarray | None = None, where: str = "") -> list[Fold]:
    """Patient-grouped folds of ``rows`` (default: all), stratified by class; each row is scored once.

    The folds are those of `group_folds`. InputError, with
    ``where``, for one fold or more folds than patients.
    """
    rows, where = np.arange(len(task.labels)) if rows is None else rows, where or task.where
    labels, groups = task.labels[rows], task.groups[rows]
    patients = len(set(groups))
    if not 2 <= folds <= patients:
        raise InputError(f"{where}: {folds} folds of {patients} {task.unit}s are not possible; ask for 2 to {patients}")
    try:
        parts = group_folds(labels, groups, folds, seed)
    except ValueError as error:
        raise InputError(f"{where}: {folds} folds are not possible ({error}): ask for fewer") from None
    # Where few patients have most images, scikit-learn can leave a fold empty.
    if any(not len(train) or not len(test) for train, test in parts):
        raise InputError(f"{where}: one of {folds} folds has no images: ask for fewer")
    return [Fold(number, rows[train], rows[test]) for number, (train, test) in enumerate(parts)]


def check_folds(task: Task, folds: Sequence[Fold]) -> None:
    """Raise InputError where a patient is both fitted and scored, or where only one class is fitted or scored."""
    groups = task.frame["group_id"]  # not joined by copies, which a split may part
    for fold in folds:
        shared = sorted(set(groups.iloc[fold.train]) & set(groups.iloc[fold.test]))
        if shared:
            shown = f"{len(shared)}: {', '.join(shared[:5])}" + " ..." * (len(shared) > 5)
            raise InputError(f"{task.where}: {task.unit}s in both train and test ({shown}): {OTHER_SPLIT}")
    remedy = OTHER_SPLIT if len(folds) == 1 else "ask for fewer folds"
    sides = [("fitted", fold.train) for fold in folds] + [("scored", np.concatenate([fold.test for fold in folds]))]
    for side, rows in sides:
        if len(np.unique(task.labels[rows])) < 2:
            only = task.classes[task.labels[rows[0]]]
            raise InputError(f"{task.where}: all {len(rows)} {side} images have '{task.name}' = {only}: {remedy}")


def copies_of_fitted(task: Task, folds: Sequence[Fold]) -> list[str]:
    """A note on scored images with the same pixels as a fitted image, which tells the probe their label."""
    pixels = task.frame["pixel_sha256"]
    copies = sum(int(pixels.iloc[fold.test].isin(pixels.iloc[fold.train]).sum()) for fold in folds)
    if not copies:
        return []
    are = "1 scored image has" if copies == 1 else f"{copies} scored images have"
    remedy = "mend the split with `dermeval leaks`"
    return [f"{are} the same pixels as a fitted image, so the scores are too high: {remedy}"]


def missing_classes(task: Task, folds: Sequence[Fold]) -> list[str]:
    """Notes on classes that the train or test images of a fold lack."""
    notes, one = [], len(folds) == 1
    for side, words in (("train", "cannot be predicted there"), ("test", "is left out of macro averages")):
        for label in np.unique(task.labels):
            lacking = [str(fold.number) for fold in folds if label not in task.labels[getattr(fold, side)]]
            if lacking and (one or side == "train"):
                where = "the" if one else f"fold {', '.join(lacking)}: the"
                notes.append(f"{where} {side} images lack class {task.classes[label]}, which {words}")
    return notes
