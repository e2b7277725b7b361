"""``dermeval linear --split folds`` on an encoder's features: processor time, and the choice against the full grid.

More rows than the folder has are images of random groups again, in the same groups, with noise of half of each
feature's spread, so that 5,922 images can stand for HAM10000's 10,015. Copies never stand in another fold.

    python scripts/bench/linear_folds.py EMBEDDINGS [--rows 10015] [--full]
"""

import argparse
import dataclasses

import machine
import numpy as np
import pandas as pd

from dermeval.probes.folds import make_folds
from dermeval.probes.grids import PenaltyGrid
from dermeval.probes.linear import LinearProbe, choose, inner_folds, make_grid
from dermeval.probes.options import LinearOptions
from dermeval.probes.task import Task, open_task


def grown(task: Task, rows: int) -> Task:
    """``task`` with copies of random groups until it has ``rows`` images."""
    random, frame = np.random.default_rng(0), task.frame.reset_index(drop=True)
    members = list(frame.groupby("group_id").indices.values())
    picked = [np.arange(len(frame))]
    while sum(map(len, picked)) < rows:
        picked.append(members[random.integers(len(members))])
    index = np.concatenate(picked)[:rows]
    noise = random.normal(size=(rows, task.features.shape[1])) * task.features.std(0) * 0.5
    noise[: len(frame)] = 0
    ids = pd.Series(np.arange(rows)).astype(str)
    new = frame.iloc[index].reset_index(drop=True).assign(image_id=ids)
    seen = dataclasses.replace(task.pool.seen, reasons=None)
    pool = dataclasses.replace(task.pool)
    vars(pool)["seen"] = seen
    x = (task.features[index] + noise).astype(np.float32)
    return dataclasses.replace(task, pool=pool, features=x, labels=task.labels[index], frame=new)


def main() -> None:
    """Time the probe; with ``--full`` also choose among all penalties."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("embeddings")
    parser.add_argument("--rows", type=int, default=0, help="images (default: those of the folder)")
    parser.add_argument("--full", action="store_true", help="also score every penalty of the grid")
    options = parser.parse_args()
    before = machine.describe()
    task = open_task([options.embeddings], None)
    task = grown(task, options.rows) if options.rows > len(task.labels) else task
    folds = make_folds(task, "folds", 5, 0)
    settings = LinearOptions(embeddings=[])
    cost, fitted = machine.timed(lambda: LinearProbe(settings).fit(task, folds))
    remarks = [fitted.lines[0], f"scores of the choice: {fitted.settings['inner_balanced_accuracy']}"]
    rows = [("dermeval linear", cost)]
    if options.full:
        grid = make_grid(settings, len(task.labels))
        assert isinstance(grid, PenaltyGrid)
        plan = inner_folds(task, folds, 5, 0)

        def every() -> np.ndarray:
            single = [PenaltyGrid(grid.cs[[index]], "none") for index in range(len(grid.cs))]
            return np.array([choose(task, plan, one, len(folds))[1] for one in single])

        cost, scores = machine.timed(every)
        rows.append(("every penalty by itself", cost))
        lost = scores.max(0) - np.array(fitted.settings["inner_balanced_accuracy"])
        remarks.append(f"Below the best of all {len(grid.cs)} penalties, per fold: {np.round(lost, 4).tolist()}.")
    n, d = task.features.shape
    machine.write("linear_folds", f"Linear probe in 5 folds, {n:,} x {d}, {options.embeddings}", before, rows, remarks)


if __name__ == "__main__":
    main()
