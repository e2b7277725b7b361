"""Out-of-sample predictions that carry the ids of their images, at image and at case level."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from dermeval.probes.folds import Fold
from dermeval.probes.task import Task
from dermssl.errors import InputError
from dermssl.files import read_parquet

PREFIX = "p_"
"""Columns of ``predictions.parquet`` that hold the probability of a class: ``p_<class>``."""

TIE_BREAK = 1e-6
"""Weight of the probabilities beside the votes of a majority: too little to overturn a vote."""


@dataclass(frozen=True)
class Predictions:
    """Row ``i`` of ``frame`` (``image_id``, ``case_id``, ``group_id``, ``fold``, ``seed``, ``contaminated``), ``truth``
    (N,) and ``probabilities`` (N, C) is one scored image, or one case (then ``image_id`` and ``contaminated`` are
    missing). Contaminated images are those that the encoder has seen in pretraining; null where that is not known.
    """

    frame: pd.DataFrame
    truth: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.truth)

    def to_table(self) -> pa.Table:
        """As ``predictions.parquet``: ``frame``, ``y_true`` by name, and one probability column per class."""
        columns = dict(self.frame) | {"y_true": np.array(self.classes, dtype=object)[self.truth]}
        columns |= {PREFIX + name: self.probabilities[:, c] for c, name in enumerate(self.classes)}
        return pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)


def read_predictions(folder: Path, classes: tuple[str, ...]) -> Predictions:
    """The predictions of a results folder, without its few-shot ones; raises InputError where a column is missing."""
    path = folder / "predictions.parquet"
    table = read_parquet(path, "dermeval knn` or `dermeval linear").to_pandas()
    needed = ["image_id", "case_id", "group_id", "fold", "seed", "y_true", *(PREFIX + name for name in classes)]
    for name in needed:
        if name not in table:
            raise InputError(f"{path} has no column '{name}': make the results again")
    if "shots" in table:
        table = table[table["shots"].isna()].reset_index(drop=True)
    truth = table["y_true"].map(classes.index).to_numpy(dtype=np.int64)
    probabilities = table[[PREFIX + name for name in classes]].to_numpy(dtype=np.float64)
    return Predictions(table[needed[:5]], truth, probabilities, classes)


def collect(task: Task, folds: list[Fold], probabilities: list[np.ndarray], seed: int) -> Predictions:
    """The scored rows of ``folds`` with their probabilities, in the task's row order.

    Probabilities are attached by the fold's own row indices, so order within a fold cannot matter.
    """
    rows = np.concatenate([fold.test for fold in folds])
    order = np.argsort(rows, kind="stable")
    numbers = np.concatenate([np.full(len(fold.test), fold.number) for fold in folds])[order]
    if len(np.unique(rows)) != len(rows):
        raise RuntimeError("an image was scored in two folds")
    frame = task.frame.iloc[rows[order]][["image_id", "case_id", "group_id"]].reset_index(drop=True)
    frame = frame.assign(fold=numbers, seed=seed, contaminated=task.pool.seen.flags(frame["image_id"]))
    return Predictions(frame, task.labels[rows[order]], np.concatenate(probabilities)[order], task.classes)


def by_case(images: Predictions, how: Literal["mean", "majority"] = "mean") -> tuple[Predictions, int]:
    """Mean probability per ``case_id``, and the number of cases left out because their labels conflict.

    By ``majority`` the share of a case's images that are given each class; the mean probability settles ties.
    """
    codes, cases = pd.factorize(images.frame["case_id"])
    labels = pd.Series(images.truth).groupby(codes)
    agreed = (labels.nunique() == 1).to_numpy()
    counts = np.bincount(codes)[:, None]
    sums = np.zeros((len(cases), len(images.classes)))
    votes = images.probabilities
    if how == "majority":
        votes = (np.eye(len(images.classes))[votes.argmax(1)] + TIE_BREAK * votes) / (1 + TIE_BREAK)
    np.add.at(sums, codes, votes)
    first = images.frame.groupby(codes)[["case_id", "group_id", "fold", "seed"]].first()
    frame = first[agreed].reset_index(drop=True)
    truth = labels.first().to_numpy()[agreed]
    return Predictions(frame, truth, (sums / counts)[agreed], images.classes), int((~agreed).sum())
