"""Weighted kNN, 100,000 x 10,000 x 384, k = 20: ours, scikit-learn's brute force, and the bare matrix product.

python scripts/bench/bench_knn.py [--gallery 100000] [--queries 10000]
"""

import argparse

import machine
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from dermssl import neighbours

K, CLASSES, DIM = 20, 7, 384


def ours(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Normalise, search, vote."""
    scores, rows = neighbours.search(neighbours.normalise(test), neighbours.normalise(train), K)
    return neighbours.weighted_vote(scores, labels[rows], CLASSES)


def scikit_learn(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The same vote by KNeighborsClassifier with cosine distance."""
    model = KNeighborsClassifier(
        K, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    return model.fit(train, labels).predict_proba(test)


def product(train: np.ndarray, test: np.ndarray) -> float:
    """The matrix product alone, in blocks of queries, nothing kept."""
    return sum(float((test[start : start + 1000] @ train.T)[0, 0]) for start in range(0, len(test), 1000))


def main() -> None:
    """Time the three sides on the same clustered features and check that the votes agree."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    options = parser.parse_args()
    before = machine.describe()
    random = np.random.default_rng(0)
    centres = (0.3 * random.normal(size=(CLASSES, DIM))).astype(np.float32)
    labels = random.integers(CLASSES, size=options.gallery)
    train = centres[labels] + 2 * random.normal(size=(options.gallery, DIM)).astype(np.float32)
    test = centres[random.integers(CLASSES, size=options.queries)]
    test = test + 2 * random.normal(size=test.shape).astype(np.float32)
    mine, votes = machine.timed(lambda: ours(train, labels, test), 2)
    bare, _ = machine.timed(lambda: product(train, test), 2)
    theirs, reference = machine.timed(lambda: scikit_learn(train, labels, test))
    apart = float(np.abs(votes - reference).max())
    rows = [("ours", mine), ("scikit-learn brute cosine", theirs), ("bare float32 matrix product", bare)]
    title = f"Weighted kNN, {options.gallery:,} x {options.queries:,} x {DIM}, k {K}"
    machine.write("knn", title, before, rows, [f"Largest difference of a class probability: {apart:.1e}."])


if __name__ == "__main__":
    main()
