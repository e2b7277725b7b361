"""Weighted kNN, 100,000 x 10,000 x 384, k = 20: ours, scikit-learn, DINO's function, the bare product.

Random clusters by default. With --features, rows of an embeddings folder's features.npy: brought to 384 dimensions by
PCA and repeated with noise of 5% of each dimension's spread, so that every row has near-duplicates as pooled
photographs have.

    python scripts/bench/knn.py [--features embeddings/x/features.npy] [--gallery 100000] [--queries 10000]
"""

import argparse
from pathlib import Path

import machine
import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from dermssl import neighbours

K, CLASSES, DIM, TEMPERATURE = 20, 7, 384, 0.07
NOISE = 0.05


def ours(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Normalise, search, vote."""
    return neighbours.knn_votes(test, train, labels, CLASSES, [K], [TEMPERATURE]).probabilities[K, TEMPERATURE]


def scikit_learn(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The same vote by KNeighborsClassifier with cosine distance."""
    model = KNeighborsClassifier(
        K, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    return model.fit(train, labels).predict_proba(test)


@torch.no_grad()
def dino(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Our transcription of ``knn_classifier`` (facebookresearch/dino, eval_knn.py): 100 chunks, topk, one-hot vote."""
    train_t = torch.nn.functional.normalize(torch.from_numpy(train), dim=1).T
    queries, classes_of = torch.nn.functional.normalize(torch.from_numpy(test), dim=1), torch.from_numpy(labels)
    found = []
    for features in queries.chunk(100):
        distances, indices = torch.mm(features, train_t).topk(K, largest=True, sorted=True)
        retrieved = torch.gather(classes_of.view(1, -1).expand(len(features), -1), 1, indices)
        one_hot = torch.zeros(len(features) * K, CLASSES).scatter_(1, retrieved.view(-1, 1), 1)
        weights = distances.clone().div_(TEMPERATURE).exp_()
        found.append((one_hot.view(len(features), -1, CLASSES) * weights.view(len(features), -1, 1)).sum(1))
    votes = torch.cat(found)
    return (votes / votes.sum(1, keepdim=True)).numpy()


def product(train: np.ndarray, test: np.ndarray) -> float:
    """The matrix product alone, in blocks of queries, nothing kept."""
    return sum(float((test[start : start + 1000] @ train.T)[0, 0]) for start in range(0, len(test), 1000))


def random_clusters(gallery: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gallery features, their classes, and queries, of seven wide clusters."""
    random = np.random.default_rng(0)
    centres = (0.3 * random.normal(size=(CLASSES, DIM))).astype(np.float32)
    labels = random.integers(CLASSES, size=gallery)
    train = centres[labels] + 2 * random.normal(size=(gallery, DIM)).astype(np.float32)
    test = centres[random.integers(CLASSES, size=queries)]
    return train, labels, test + 2 * random.normal(size=test.shape).astype(np.float32)


def near_duplicates(path: Path, gallery: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of an encoder's features, each repeated with a little noise; classes are arbitrary per original."""
    random = np.random.default_rng(0)
    features = np.load(path, allow_pickle=False).astype(np.float32)
    axes = PCA(min(DIM, *features.shape), random_state=0).fit(features).components_
    # Turned without centring: the strong common direction of trained features stays.
    turned = (features @ axes.T).astype(np.float32)

    def copies(number: int) -> tuple[np.ndarray, np.ndarray]:
        rows = random.integers(len(turned), size=number)
        noise = random.normal(size=(number, turned.shape[1])).astype(np.float32)
        return turned[rows] + NOISE * turned.std(0) * noise, rows % CLASSES

    (train, labels), (test, _) = copies(gallery), copies(queries)
    return train, labels, test


def main() -> None:
    """Time all sides on the same features and check that the votes agree."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--features", type=Path, help="features.npy of a trained encoder (default: random clusters)")
    options = parser.parse_args()
    before = machine.describe()
    sizes = options.gallery, options.queries
    train, labels, test = near_duplicates(options.features, *sizes) if options.features else random_clusters(*sizes)
    sides = {
        "ours": lambda: ours(train, labels, test),
        "scikit-learn brute cosine": lambda: scikit_learn(train, labels, test),
        "bare float32 matrix product": lambda: product(train, test),
        "DINO's knn_classifier, transcribed": lambda: dino(train, labels, test),
    }
    rows, votes, peaks = [], {}, []
    for name, side in sides.items():
        with machine.peak_memory() as peak:
            cost, votes[name] = machine.timed(side)
        rows.append((name, cost))
        peaks.append(f"{name} {peak.mib:,.0f} MiB")
    costs = dict(rows)
    plain, reference, bare, _ = (costs[name].cpu for name in sides)
    apart = [
        float(np.abs(votes[name] - votes["ours"]).max()) for name in sides if name != "bare float32 matrix product"
    ]
    remarks = [
        f"Processor time: {reference / plain:.1f}x less than scikit-learn, {plain / bare:.2f} of the bare product.",
        f"Largest difference of a class probability from ours: {max(apart):.1e}.",
        f"Peak memory above the features: {'; '.join(peaks)}.",
    ]
    kind = "an encoder's features with near-duplicates" if options.features else "random clusters"
    title = f"Weighted kNN, {options.gallery:,} x {options.queries:,} x {train.shape[1]}, k {K}, {kind}"
    machine.write("knn_trained" if options.features else "knn", title, before, rows, remarks)


if __name__ == "__main__":
    main()
