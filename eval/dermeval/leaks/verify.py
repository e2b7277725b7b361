"""Candidate pairs -> pixel evidence: every pair is aligned and compared on the stored images, in several processes."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from dermeval.leaks import turns
from dermeval.leaks.alignment import NO_MATCH, Look, Match, compare, look
from dermssl.dataset.store import ImageStore
from dermssl.processes import process_map

LEAST_CORRELATION = 0.45
"""Coarse correlation under which a pair is not worth refining; planted copies with 30% cropped away reach 0.53."""


class Picture(NamedTuple):
    """Where an image is stored: dataset folder and row."""

    folder: Path
    row: int


class Task(NamedTuple):
    """One moving image against several fixed ones. ``orientations``: the flip or turn by hash, -1 where not known.

    ``searched``: whether all turns, sizes and shifts may be tried.
    """

    moving: Picture
    fixed: list[Picture]
    orientations: list[int]
    searched: list[bool]
    least: float


def verify(
    pairs: pd.DataFrame,
    pictures: Sequence[Picture],
    workers: int,
    least: float = LEAST_CORRELATION,
    label: str = "verify",
) -> pd.DataFrame:
    """Align the images of each pair; returns one row per row of ``pairs`` with the fields of `Match`.

    Args:
        pairs: columns ``a``, ``b`` (rows of ``pictures``), ``orientation`` (-1: unknown), ``searched``.
        pictures: where each image is stored.
        workers: processes (0: one per core).
        least: coarse correlation from which on a pair is refined.
        label: what the progress bar says.
    """
    groups = pairs.groupby("b", sort=True).indices
    tasks = [_task(int(b), pairs.iloc[rows], pictures, least) for b, rows in groups.items()]
    found: list[Match] = []
    with tqdm(total=len(pairs), desc=label, unit="pair", disable=None) as bar, process_map(workers) as run:
        for matches in run(compare_task, tasks):
            found += matches
            bar.update(len(matches))
    order = np.concatenate([*groups.values(), np.empty(0, dtype=np.int64)]).astype(np.int64)
    return pd.DataFrame(found, columns=list(Match._fields), index=pairs.index[order]).loc[pairs.index]


def _task(moving: int, pairs: pd.DataFrame, pictures: Sequence[Picture], least: float) -> Task:
    fixed = [pictures[row] for row in pairs["a"]]
    return Task(pictures[moving], fixed, pairs["orientation"].tolist(), pairs["searched"].tolist(), least)


def compare_task(task: Task) -> list[Match]:
    """The matches of one task, in its order."""
    moving = _look(task.moving)
    prepared = functools.cache(lambda: turns.turned(moving.coarse))
    matches = []
    for picture, orientation, searched in zip(task.fixed, task.orientations, task.searched, strict=True):
        fixed = _look(picture)
        start = turns.as_oriented(fixed.coarse, moving.coarse, max(orientation, 0))
        if searched and start.correlation < task.least:
            start = turns.search(fixed.coarse, prepared())
        matches.append(compare(fixed, moving, start.affine) if start.correlation >= task.least else NO_MATCH)
    return matches


@functools.lru_cache(maxsize=2048)
def _look(picture: Picture) -> Look:
    return look(_store(picture.folder).image(picture.row))


@functools.cache
def _store(folder: Path) -> ImageStore:
    return ImageStore(folder)
