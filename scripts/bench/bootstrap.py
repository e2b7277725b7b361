"""All scores over 2,000 draws of patients, 10,000 images x 7 classes: ours and scikit-learn in a loop.

The loop is timed on fewer draws and extrapolated, as stated in the result.

    python scripts/bench/bootstrap.py [--rows 10000] [--draws 2000] [--loop-draws 50]
"""

import argparse

import machine
import numpy as np
from sklearn import metrics

from dermeval.statistics.bootstrap import paired_bootstrap

CLASSES = 7


def loop(truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, draws: int) -> np.ndarray:
    """Draw patients within strata of class and score each draw with scikit-learn."""
    random = np.random.default_rng(1)
    _, codes = np.unique(groups, return_inverse=True)
    rows_of = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    stratum = np.array([np.bincount(truth[rows]).argmax() for rows in rows_of])
    one_hot = np.eye(CLASSES)
    found = []
    for _ in range(draws):
        picked = [random.choice(m, len(m)) for m in (np.flatnonzero(stratum == s) for s in np.unique(stratum))]
        rows = np.concatenate([rows_of[patient] for patient in np.concatenate(picked)])
        y, p = truth[rows], probabilities[rows]
        guess, binary = p.argmax(1), one_hot[y]
        found.append(
            (
                metrics.accuracy_score(y, guess),
                metrics.balanced_accuracy_score(y, guess),
                *metrics.f1_score(y, guess, average=None),
                metrics.f1_score(y, guess, average="weighted"),
                *metrics.precision_score(y, guess, average=None, zero_division=0),
                *metrics.recall_score(y, guess, average=None),
                metrics.roc_auc_score(y, p, multi_class="ovr"),
                metrics.average_precision_score(binary, p, average="macro"),
                ((p - binary) ** 2).sum(1).mean(),
            )
        )
    return np.array(found)


def main() -> None:
    """Time both sides and compare the intervals of balanced accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--loop-draws", type=int, default=50)
    options = parser.parse_args()
    before = machine.describe()
    random = np.random.default_rng(0)
    truth = random.integers(CLASSES, size=options.rows)
    logits = random.normal(size=(options.rows, CLASSES)) + np.eye(CLASSES)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    groups = random.integers(options.rows // 3, size=options.rows)
    with machine.peak_memory() as peak:
        ours, result = machine.timed(
            lambda: paired_bootstrap(truth, [probabilities], groups, draws=options.draws)[0], 2
        )
    partial, found = machine.timed(lambda: loop(truth, probabilities, groups, options.loop_draws))
    theirs = machine.Cost(0, 0).plus(partial, options.draws / options.loop_draws)
    interval, drawn = result.scores["balanced_accuracy"], found[:, 1]
    remarks = [
        f"scikit-learn was timed on {options.loop_draws} draws ({partial.wall:.1f} s) and extrapolated.",
        f"Balanced accuracy: ours {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]; "
        f"the loop's draws have mean {drawn.mean():.4f} and standard deviation {drawn.std():.4f}.",
        f"Peak memory above the predictions: ours {peak.mib:,.0f} MiB.",
    ]
    title = f"Patient bootstrap of all scores, {options.draws:,} draws x {options.rows:,} images x {CLASSES} classes"
    machine.write("bootstrap", title, before, [("ours", ours), ("scikit-learn in a loop", theirs)], remarks)


if __name__ == "__main__":
    main()
