"""45 penalties x 5 patient folds of logistic regression on 10,000 x 384 features: ours and scikit-learn in a loop.

scikit-learn runs with its default solver and tolerance (1e-4), given the iterations that it asks for.

    python scripts/bench/logistic.py [--rows 10000] [--penalties 45] [--folds 5] [--loop-every 1]
"""

import argparse
import functools

import machine
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from dermeval.probes.grids import GRID_ENDS, GRID_TOLERANCE
from dermeval.probes.logistic import LogisticPath, LogisticSolver

CLASSES, DIM = 7, 384


def features(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with a falling spectrum, as encoders give, unequal classes, and patients of two images."""
    random = np.random.default_rng(0)
    shares = np.array([0.5, 0.2, 0.1, 0.08, 0.06, 0.04, 0.02])
    labels = random.choice(CLASSES, rows, p=shares)
    basis = random.normal(size=(DIM, DIM)) * (1 + np.arange(DIM)[:, None]) ** -0.7
    x = (random.normal(size=(rows, DIM)) + 0.6 * random.normal(size=(CLASSES, DIM))[labels]) @ basis
    return x, labels, np.arange(rows) // 2


def fitted(x: np.ndarray, labels: np.ndarray, cs: np.ndarray) -> LogisticPath:
    """Our solutions for all penalties."""
    return LogisticSolver(x, labels, CLASSES, tolerance=GRID_TOLERANCE, dtype=torch.float32).fit(cs)


def main() -> None:
    """Time both sides and compare the mean loss of every solution."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--penalties", type=int, default=45)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--loop-every", type=int, default=1, help="scikit-learn fits every n-th penalty, extrapolated")
    options = parser.parse_args()
    before = machine.describe()
    x, labels, groups = features(options.rows)
    cs = np.logspace(*GRID_ENDS, options.penalties)
    ours = theirs = machine.Cost(0, 0)
    gaps = []
    for train, _ in GroupKFold(options.folds).split(x, labels, groups):
        z, y = StandardScaler().fit_transform(x[train]), labels[train]
        with machine.peak_memory() as peak:
            cost, path = machine.timed(functools.partial(fitted, z, y, cs))
        ours = ours.plus(cost)
        for index in range(0, len(cs), options.loop_every):
            model = LogisticRegression(C=cs[index], max_iter=10_000)
            cost, _ = machine.timed(functools.partial(model.fit, z, y))
            theirs = theirs.plus(cost, len(cs) / len(range(0, len(cs), options.loop_every)))
            mine = loss(path.probabilities(z)[index], path.coefficients[index, :-1], y, cs[index])
            gaps.append(mine - loss(model.predict_proba(z), model.coef_.T, y, cs[index]))
    remarks = [
        f"Mean loss, ours minus scikit-learn's, over the solutions: {min(gaps):+.1e} to {max(gaps):+.1e} "
        f"(negative: ours is nearer to the optimum).",
        f"Peak memory above the features: ours {peak.mib:,.0f} MiB (the last fold).",
    ]
    if options.loop_every > 1:
        remarks.append(f"scikit-learn was timed on every {options.loop_every}th penalty and extrapolated to all.")
    title = f"Logistic regression, {options.penalties} penalties x {options.folds} folds, {options.rows:,} x {DIM}"
    machine.write("logistic", title, before, [("ours", ours), ("scikit-learn in a loop", theirs)], remarks)


def loss(probabilities: np.ndarray, weights: np.ndarray, labels: np.ndarray, c: float) -> float:
    """Mean cross-entropy plus penalty, as both sides minimise it."""
    entropy = -np.log(probabilities[np.arange(len(labels)), labels]).sum()
    return float((entropy + (weights**2).sum() / (2 * c)) / len(labels))


if __name__ == "__main__":
    main()
