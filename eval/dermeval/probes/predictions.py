"""Predictions with the ids of their images, at image and at case level, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from dermeval.probes.folds import Fold
from dermeval.probes.task import Task
from dermeval.statistics.bootstrap import Bootstrap, paired_bootstrap

PREFIX = "p_"
"""Columns of ``predictions.parquet`` with the probability of a class are named ``p_<class>``."""
TIE_BREAK = 1e-6
"""Weight of the probabilities in a majority vote: enough to settle a tie, too little to overturn a vote."""


@dataclass(frozen=True)
class Predictions:
    """Row ``i`` of ``frame``, ``truth`` ``(N,)`` and ``probabilities`` ``(N, C)`` is one scored image, or one case.

    ``frame`` has the columns ``image_id``, ``case_id``, ``group_id``, ``fold``, ``seed`` and ``contaminated``: whether
    the encoder has seen the image in pretraining, null where that is not known. ``group_id`` is of `Task.groups`. Cases
    have no ``image_id`` and no ``contaminated``. ``positive`` is the index of the positive class of a binary target.
    """

    frame: pd.DataFrame
    truth: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    positive: int | None = None

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def groups(self) -> np.ndarray:
        """``group_id`` of each row ``(N,)``."""
        return self.frame["group_id"].to_numpy(dtype=object)

    def rows(self, which: np.ndarray) -> "Predictions":
        """Some of the rows (indices or mask)."""
        frame = self.frame.iloc[which].reset_index(drop=True)
        return Predictions(frame, self.truth[which], self.probabilities[which], self.classes, self.positive)

    def to_frame(self) -> pd.DataFrame:
        """The table of ``predictions.parquet``: ``frame``, ``y_true`` (names), and a probability for each class."""
        columns = dict(self.frame) | {"y_true": np.array(self.classes, dtype=object)[self.truth]}
        columns |= {PREFIX + name: self.probabilities[:, c] for c, name in enumerate(self.classes)}
        return pd.DataFrame(columns)


def collect(task: Task, folds: Sequence[Fold], probabilities: Sequence[np.ndarray], seed: int) -> Predictions:
    """Predictions for the test rows of all folds, in the task's row order, from the ``probabilities`` of each fold."""
    rows = np.concatenate([fold.test for fold in folds])
    order = np.argsort(rows, kind="stable")
    numbers = np.repeat([fold.number for fold in folds], [len(fold.test) for fold in folds])[order]
    frame = task.frame.iloc[rows[order]][["image_id", "case_id", "group_id"]].reset_index(drop=True)
    # Joined groups have the name of a scored one, whatever else is pooled: `dermeval compare` asks for equal names.
    frame["group_id"] = frame["group_id"].groupby(task.groups[rows[order]]).transform("min")
    frame = frame.assign(fold=numbers, seed=seed, contaminated=task.pool.seen.flags(frame["image_id"]))
    found = np.concatenate(probabilities)[order]
    return Predictions(frame, task.labels[rows[order]], found, task.classes, task.positive)


def by_case(images: Predictions, how: Literal["mean", "majority"] = "mean") -> tuple[Predictions, int]:
    """Mean probability per ``case_id``, and the number of cases left out because their images have different labels.

    ``majority``: instead, for each class the share of the case's images that get it; mean probabilities settle ties.
    """
    codes, cases = pd.factorize(images.frame["case_id"])
    labels = pd.Series(images.truth).groupby(codes)
    agreed = (labels.nunique() == 1).to_numpy()
    votes = images.probabilities
    if how == "majority":
        votes = (np.eye(len(images.classes))[votes.argmax(1)] + TIE_BREAK * votes) / (1 + TIE_BREAK)
    sums = np.zeros((len(cases), len(images.classes)))
    np.add.at(sums, codes, votes)
    means = sums / np.bincount(codes)[:, None]
    frame = images.frame.groupby(codes)[["case_id", "group_id", "fold", "seed"]].first()
    found = Predictions(frame, labels.first().to_numpy(), means, images.classes, images.positive)
    return found.rows(agreed), int((~agreed).sum())


def paired_scores(
    encoders: Sequence[Sequence[Predictions]], draws: int, seed: int, draw_seeds: bool = False
) -> list[Bootstrap]:
    """Scores of encoders, each with one or more seeds, on the same rows; see `paired_bootstrap`."""
    first = encoders[0][0]
    stacked = [np.stack([one.probabilities for one in seeds]) for seeds in encoders]
    return paired_bootstrap(first.truth, stacked, first.groups, first.positive, draws, seed, draw_seeds)
