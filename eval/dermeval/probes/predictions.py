"""Out-of-sample predictions that carry the ids of their images, at image and at case level."""

from collections.abc import Sequence
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
from dermssl.paths import inside

PREFIX = "p_"
"""Columns of ``predictions.parquet`` that hold the probability of a class: ``p_<class>``."""
KEYS = ("image_id", "case_id", "group_id", "fold", "seed")
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

    @property
    def groups(self) -> np.ndarray:
        """``group_id`` of each row ``(N,)``."""
        return self.frame["group_id"].to_numpy(dtype=object)

    def rows(self, which: np.ndarray) -> "Predictions":
        """Some of the rows (indices or mask)."""
        frame = self.frame[which] if which.dtype == bool else self.frame.iloc[which]
        return Predictions(frame.reset_index(drop=True), self.truth[which], self.probabilities[which], self.classes)

    def to_frame(self) -> pd.DataFrame:
        """As ``predictions.parquet``: ``frame``, ``y_true`` by name, and one probability column per class."""
        columns = dict(self.frame) | {"y_true": np.array(self.classes, dtype=object)[self.truth]}
        columns |= {PREFIX + name: self.probabilities[:, c] for c, name in enumerate(self.classes)}
        return pd.DataFrame(columns)

    def to_table(self) -> pa.Table:
        """`to_frame` as an Arrow table."""
        return pa.Table.from_pandas(self.to_frame(), preserve_index=False)


def read_predictions(folder: Path, classes: Sequence[str]) -> Predictions:
    """The predictions of a results folder, without its few-shot ones.

    Raises:
        InputError: a column is missing, a label is no class, or a probability is not a number from 0 to 1.
    """
    path, maker = inside(folder, "predictions.parquet"), "dermeval knn` or `dermeval linear"
    columns = [PREFIX + name for name in classes]
    table = read_parquet(path, maker, [*KEYS, "y_true", *columns]).to_pandas()
    if "shots" in table:
        table = table[table["shots"].isna()].reset_index(drop=True)
    return predictions_of(table, tuple(classes), path, maker)


def predictions_of(table: pd.DataFrame, classes: tuple[str, ...], path: Path, maker: str) -> Predictions:
    """The rows of ``predictions.parquet`` as predictions; see `read_predictions`."""
    blank = [name for name in KEYS if table[name].isna().any()]
    if blank:
        raise InputError(f"{path}: a row has no {blank[0]}: make it again with `{maker}`")
    truth = table["y_true"].map({name: index for index, name in enumerate(classes)})
    if truth.isna().any():
        raise InputError(f"{path}: '{table['y_true'][truth.isna()].iloc[0]}' is no class: make it again with `{maker}`")
    try:
        probabilities = table[[PREFIX + name for name in classes]].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{path}: the probabilities are no numbers: make it again with `{maker}`") from None
    bad = np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all(axis=1))
    if len(bad):
        image = table["image_id"].iloc[bad[0]]
        raise InputError(f"{path}: a probability of {image} is not from 0 to 1: make it again with `{maker}`")
    return Predictions(table[list(KEYS)].reset_index(drop=True), truth.to_numpy(np.int64), probabilities, classes)


def collect(task: Task, folds: Sequence[Fold], probabilities: Sequence[np.ndarray], seed: int) -> Predictions:
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
    votes = images.probabilities
    if how == "majority":
        votes = (np.eye(len(images.classes))[votes.argmax(1)] + TIE_BREAK * votes) / (1 + TIE_BREAK)
    sums = np.zeros((len(cases), len(images.classes)))
    np.add.at(sums, codes, votes)
    means = sums / np.bincount(codes)[:, None]
    frame = images.frame.groupby(codes)[["case_id", "group_id", "fold", "seed"]].first()
    found = Predictions(frame, labels.first().to_numpy(), means, images.classes)
    return found.rows(agreed), int((~agreed).sum())
