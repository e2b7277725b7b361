"""How every probe is judged: fitted in folds, scored at image and at case level, with notes on what to doubt.

`knn`, `linear`, `finetune` and `evaluate` call `judge`. A new probe is a class as `Probe` describes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from dermeval.probes.contamination import clean_and_contaminated
from dermeval.probes.folds import Fold, copies_of_fitted, missing_classes
from dermeval.probes.predictions import Predictions, by_case, paired_scores
from dermeval.probes.task import Task
from dermssl.errors import counted

PER_CLASS = ("precision", "recall", "f1", "auroc_per_class", "average_precision_per_class")
HARD = ("accuracy", "balanced_accuracy", "macro_f1", "positive_f1")
"""Scores that need no probability, for the majority vote, which gives none."""


@dataclass(frozen=True)
class Fitted:
    """What a probe predicts for all scored images, none of which it was fitted on.

    ``settings`` is an entry of ``result.json``, ``extra`` holds more (``by_k``). ``lines`` are for the text report.
    """

    predictions: Predictions
    settings: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    lines: Sequence[str] = ()
    extra: dict[str, Any] = field(default_factory=dict)


class Probe(Protocol):
    """A way to judge an encoder: it learns from the train images of each fold and predicts the test images."""

    name: str
    """Its name in ``result.json``."""
    options: Any
    """The options of its command."""

    def fit(self, task: Task, folds: Sequence[Fold], shots: int | None = None) -> Fitted:
        """Fit on each fold's ``train`` rows and predict its ``test`` rows. ``shots``: the train patients per class."""


@dataclass(frozen=True)
class Level:
    """Scores with intervals, of all images or of all cases: an entry of ``levels`` in ``result.json``."""

    scores: dict[str, Any]
    rows: int
    support: dict[str, int]
    clusters: int
    draws: int
    redrawn: int
    by_majority: dict[str, Any] | None = None


@dataclass(frozen=True)
class Judgement:
    """A probe's predictions on one task, their scores, and notes on them."""

    fitted: Fitted
    counts: dict[str, Any]
    levels: dict[str, Level]
    notes: list[str]
    contamination: dict[str, Any]


def judge(probe: Probe, task: Task, folds: Sequence[Fold], draws: int, seed: int) -> Judgement:
    """Fit ``probe`` in ``folds`` and score it, with intervals from ``draws`` bootstrap draws of whole groups."""
    fitted = probe.fit(task, folds)
    images = fitted.predictions
    levels, notes = score_levels(images, draws, seed)
    rows = [len(fold.train) for fold in folds]
    counts = {"fitted": rows, "scored": len(images), "scored_groups": levels["image"].clusters}
    seen = clean_and_contaminated(images, task.pool.seen, task.unit, draws, seed)
    notes = [*missing_classes(task, folds), *copies_of_fitted(task, folds), *fitted.notes, *notes]
    return Judgement(fitted, counts, levels, notes, seen)


def score_levels(images: Predictions, draws: int, seed: int) -> tuple[dict[str, Level], list[str]]:
    """Scores of images and of cases, and notes on what these leave out."""
    cases, conflicting = by_case(images)
    levels, notes = {"image": _score_level(images, draws, seed)}, []
    if conflicting:
        notes.append(f"case-level scores leave out {counted(conflicting, 'case')}, whose images have different labels")
    if len(np.unique(cases.truth)) > 1:
        votes = _score_level(by_case(images, "majority")[0], draws, seed).scores
        hard = {name: votes[name] for name in HARD if name in votes}
        levels["case"] = dataclasses.replace(_score_level(cases, draws, seed), by_majority=hard)
    else:
        notes.append("the case level is not scored: fewer than two classes are left")
    redrawn = sum(level.redrawn for level in levels.values())
    return levels, notes + redrawn_note(redrawn)


def _score_level(predictions: Predictions, draws: int, seed: int) -> Level:
    """All scores with intervals by group. Per-class scores are given for the classes that occur in the truth."""
    (found,) = paired_scores([[predictions]], draws, seed)
    counts = np.bincount(predictions.truth, minlength=len(predictions.classes))
    support = dict(zip(predictions.classes, map(int, counts), strict=True))
    scores = {name: interval.entry(predictions.classes) for name, interval in found.scores.items()}
    for name in (name for name in PER_CLASS if name in scores):
        scores[name] = {key: value for key, value in scores[name].items() if support[key]}
    return Level(scores, len(predictions), support, len(set(predictions.groups)), draws, found.redrawn)


def redrawn_note(redrawn: int) -> list[str]:
    """A note where bootstrap draws lost a class."""
    return [f"{counted(redrawn, 'bootstrap draw')} lost a class and had to be repeated"] if redrawn else []
